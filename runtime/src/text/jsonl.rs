//! Text in jsonl files: an object with a `text` key on each line. What is wrong is told with file and line.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::RuntimeError;

/// First bytes of files that are no text, and what they are.
const OTHERS: [(&[u8], &str); 4] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "is compressed with zstd: decompress it first (`zstd -d`)"),
    (&[0x1f, 0x8b], "is compressed with gzip: decompress it first (`gunzip`)"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "is compressed with xz: decompress it first (`unxz`)"),
    (&[0xef, 0xbb, 0xbf], "begins with a byte order mark: remove its first three bytes"),
];

/// The longest line that is read, bytes.
const LONGEST: u64 = 1 << 28;

/// Calls `each` with the `text` of every line of every file.
pub fn documents(
    inputs: &[PathBuf],
    mut each: impl FnMut(String) -> Result<(), RuntimeError>,
) -> Result<(), RuntimeError> {
    for path in inputs {
        let file = std::fs::File::open(path).map_err(RuntimeError::io("open", path))?;
        let mut file = BufReader::new(file);
        let start = file.fill_buf().map_err(RuntimeError::io("read", path))?;
        if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
            return Err(RuntimeError::text(path, *what));
        }
        let mut line = vec![];
        for number in 1.. {
            line.clear();
            let mut rest = file.by_ref().take(LONGEST + 1);
            let n = rest.read_until(b'\n', &mut line).map_err(RuntimeError::io("read", path))?;
            if n as u64 > LONGEST {
                return Err(bad(path, number, &format!("has more than {LONGEST} bytes")));
            }
            if n == 0 {
                break;
            }
            if let Some(text) = document(&line).map_err(|what| bad(path, number, &what))? {
                each(text)?;
            }
        }
    }
    Ok(())
}

fn bad(path: &Path, line: usize, what: &str) -> RuntimeError {
    RuntimeError::text(path, format!("line {line}: {what}"))
}

/// The text on a line, if it is not empty.
fn document(line: &[u8]) -> Result<Option<String>, String> {
    let line = std::str::from_utf8(line)
        .map_err(|e| format!("is not UTF-8 from byte {} on", e.valid_up_to() + 1))?;
    if line.trim().is_empty() {
        return Ok(None);
    }
    let value: serde_json::Value = serde_json::from_str(line).map_err(|e| {
        let message = e.to_string();
        match message.contains("surrogate") || message.contains("hex escape") {
            true => format!("has half of a surrogate pair, which is no text ({message})"),
            false => format!("is not JSON: {message}"),
        }
    })?;
    let text = value["text"].as_str().ok_or("has no `text` string")?;
    Ok(Some(text.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let mut all = vec![];
            let done = documents(std::slice::from_ref(&path), |t| {
                all.push(t);
                Ok(())
            });
            done.map(|()| all).map_err(|e| e.to_string())
        };
        let good = b"{\"text\": \"a\"}\n\n{\"text\": \"\\u00e9\\ud83d\\ude00\"}";
        assert_eq!(read(good), Ok(vec!["a".to_string(), "\u{e9}\u{1f600}".to_string()]));
        assert_eq!(read(b""), Ok(vec![]));
        for (bytes, why) in [
            (
                &b"{\"text\": \"a\"}\n{\"text\": \"caf\xe9\"}\n"[..],
                "line 2: is not UTF-8 from byte 14 on",
            ),
            (
                b"{\"text\": \"a\"}\n{\"text\": \"\\ud800 x\"}\n",
                "line 2: has half of a surrogate pair",
            ),
            (b"\n{\"text\": \"a\"\n", "line 2: is not JSON"),
            (b"{\"words\": \"a\"}", "line 1: has no `text` string"),
            (b"\xef\xbb\xbf{\"text\": \"a\"}", "byte order mark"),
            (b"\x28\xb5\x2f\xfd\x04\x00", "zstd"),
            (b"\x1f\x8b\x08", "gzip"),
        ] {
            let told = read(bytes).unwrap_err();
            assert!(told.contains(why) && told.contains("t.jsonl"), "{told}");
        }
    }
}
