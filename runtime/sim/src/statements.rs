//! The statements of PTX text, each with its line. Comments are dropped.

/// A statement without its semicolon, a label with its colon, or a brace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The text, with single spaces.
    pub text: String,
    /// Line of the file where it begins, from 1.
    pub line: u32,
}

/// What the text is made of. Directives that end with their line (`.version`, `.target`, `.loc`, …) are statements of
/// their own; the braces of a body and of inner scopes stand alone, those of a vector do not.
pub fn statements(text: &str) -> Vec<Statement> {
    let mut all = vec![];
    let mut open = Statement { text: String::new(), line: 0 };
    let mut braces = 0;
    let mut in_comment = false;
    for (number, line) in text.lines().enumerate() {
        let line = without_comments(line, &mut in_comment);
        let number = number as u32 + 1;
        if open.text.is_empty() && ends_with_its_line(&line) {
            all.push(Statement { text: squeezed(&line), line: number });
            continue;
        }
        for c in line.chars().chain(['\n']) {
            // A brace is a vector's where an instruction has begun.
            let alone = braces == 0 && (c == '}' || c == '{' && is_head(&open.text));
            match c {
                ';' => end(&mut open, &mut all),
                ':' if is_label(&open.text) => {
                    open.text.push(':');
                    end(&mut open, &mut all);
                }
                '{' | '}' if alone => {
                    end(&mut open, &mut all);
                    all.push(Statement { text: c.to_string(), line: number });
                }
                c => {
                    braces += i32::from(c == '{') - i32::from(c == '}');
                    if open.text.trim().is_empty() && !c.is_whitespace() {
                        open.line = number;
                    }
                    open.text.push(c);
                }
            }
        }
    }
    end(&mut open, &mut all);
    all
}

fn end(open: &mut Statement, all: &mut Vec<Statement>) {
    let text = squeezed(&open.text);
    if !text.is_empty() {
        all.push(Statement { text, line: open.line });
    }
    open.text.clear();
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn without_comments(line: &str, inside: &mut bool) -> String {
    let mut out = String::new();
    let mut rest = line;
    loop {
        if *inside {
            let Some(end) = rest.find("*/") else { return out };
            (rest, *inside) = (&rest[end + 2..], false);
        }
        match (rest.find("//"), rest.find("/*")) {
            (Some(line), block) if block.is_none_or(|b| line < b) => return out + &rest[..line],
            (_, Some(block)) => {
                out.push_str(&rest[..block]);
                (rest, *inside) = (&rest[block + 2..], true);
            }
            _ => return out + rest,
        }
    }
}

fn ends_with_its_line(line: &str) -> bool {
    let word = line.split_whitespace().next().unwrap_or_default();
    [".version", ".target", ".address_size", ".loc", ".file"].contains(&word)
}

fn is_label(text: &str) -> bool {
    let name = text.trim();
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || "_$".contains(c))
        && chars.all(|c| c.is_ascii_alphanumeric() || "_$".contains(c))
}

/// Whether what stands before a brace is a kernel's head, or nothing.
fn is_head(text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || text.starts_with(".section") || text.contains(".entry")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_keep_their_lines_and_vectors_their_braces() {
        let text = ".version 7.0\n.visible .entry f(\n .param .u64 a, // the data\n .param .u32 b)\n{\n\
            \t.reg .b32 %r<3>; /* two\nlines */ $L_1: { .reg .pred p; }\n@%p1 bra $L_1;\n\
            mov.b64 {%r1, %r2},\n %rd1;\n}\n";
        let all: Vec<(String, u32)> =
            statements(text).into_iter().map(|s| (s.text, s.line)).collect();
        let want = [
            (".version 7.0", 1),
            (".visible .entry f( .param .u64 a, .param .u32 b)", 2),
            ("{", 5),
            (".reg .b32 %r<3>", 6),
            ("$L_1:", 7),
            ("{", 7),
            (".reg .pred p", 7),
            ("}", 7),
            ("@%p1 bra $L_1", 8),
            ("mov.b64 {%r1, %r2}, %rd1", 9),
            ("}", 11),
        ];
        assert_eq!(all, want.map(|(t, l)| (t.to_string(), l)));
    }
}
