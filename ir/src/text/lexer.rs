//! Text → tokens with line and column.

use super::ParseError;

/// A token; names keep their sigil.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// Bare word, dots and colons inside numbers excluded: `func.func`, `tensor`, `4x8xf32`.
    Word(String),
    /// `%name`, with `#i` kept apart.
    Value(String),
    /// `@name`.
    Symbol(String),
    /// `!name`: a type by its alias.
    Alias(String),
    /// A string literal, unescaped.
    Str(String),
    /// A number as written.
    Number(String),
    /// Punctuation: `( ) { } [ ] < > , = : -> #`.
    Punct(&'static str),
    /// End of text.
    End,
}

/// A token and where it starts (line and column from 1).
#[derive(Debug, Clone)]
pub(super) struct Spanned {
    pub token: Token,
    pub line: u32,
    pub column: u32,
}

const PUNCT: [&str; 13] = ["->", "(", ")", "{", "}", "[", "]", "<", ">", ",", "=", ":", "#"];

pub(super) fn lex(text: &str) -> Result<Vec<Spanned>, ParseError> {
    let bytes = text.as_bytes();
    let (mut at, mut line, mut start_of_line) = (0, 1u32, 0);
    let mut tokens = vec![];
    while at < bytes.len() {
        let c = bytes[at];
        let column = (at - start_of_line + 1) as u32;
        let fail = |message: &str| ParseError { line, column, message: message.to_string() };
        match c {
            b'\n' => {
                at += 1;
                line += 1;
                start_of_line = at;
                continue;
            }
            b' ' | b'\t' | b'\r' => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            _ => {}
        }
        let token = match c {
            b'"' => {
                let (s, next) = string(bytes, at).ok_or_else(|| fail("unterminated string"))?;
                at = next;
                Token::Str(s)
            }
            b'%' | b'@' | b'!' => {
                let end = word_end(bytes, at + 1);
                if end == at + 1 {
                    return Err(fail("a name is missing here"));
                }
                let name = text[at + 1..end].to_string();
                at = end;
                match c {
                    b'%' => Token::Value(name),
                    b'@' => Token::Symbol(name),
                    _ => Token::Alias(name),
                }
            }
            b'0'..=b'9' | b'-' if c != b'-' || bytes.get(at + 1) != Some(&b'>') => {
                let end = number_end(bytes, at);
                let word = text[at..end].to_string();
                at = end;
                Token::Number(word)
            }
            c if c.is_ascii_alphabetic() || c == b'_' => {
                let end = word_end(bytes, at);
                let word = text[at..end].to_string();
                at = end;
                Token::Word(word)
            }
            _ => match PUNCT.iter().find(|p| bytes[at..].starts_with(p.as_bytes())) {
                Some(p) => {
                    at += p.len();
                    Token::Punct(p)
                }
                None => return Err(fail("unexpected character")),
            },
        };
        tokens.push(Spanned { token, line, column });
    }
    tokens.push(Spanned { token: Token::End, line, column: (at - start_of_line + 1) as u32 });
    Ok(tokens)
}

fn word_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len()
        && (bytes[at].is_ascii_alphanumeric() || matches!(bytes[at], b'_' | b'.' | b'$'))
    {
        at += 1;
    }
    at
}

/// A number, or a shape such as `4x8xf32`, which the parser splits.
fn number_end(bytes: &[u8], mut at: usize) -> usize {
    if bytes[at] == b'-' {
        at += 1;
    }
    while at < bytes.len() {
        let exponent_sign =
            matches!(bytes[at], b'+' | b'-') && matches!(bytes[at - 1], b'e' | b'E');
        if !(bytes[at].is_ascii_alphanumeric() || bytes[at] == b'.' || exponent_sign) {
            break;
        }
        at += 1;
    }
    at
}

fn string(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let mut out = vec![];
    let mut at = start + 1;
    loop {
        match *bytes.get(at)? {
            b'"' => return Some((String::from_utf8(out).ok()?, at + 1)),
            b'\n' => return None,
            b'\\' => {
                let hex = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
                match u8::from_str_radix(hex, 16) {
                    Ok(b) => {
                        out.push(b);
                        at += 3;
                    }
                    Err(_) => {
                        let c = *bytes.get(at + 1)?;
                        out.push(match c {
                            b'n' => b'\n',
                            b't' => b'\t',
                            b'"' | b'\\' => c,
                            _ => return None,
                        });
                        at += 2;
                    }
                }
            }
            b => {
                out.push(b);
                at += 1;
            }
        }
    }
}
