//! Draws diagnostics: the only place that does.
//!
//! ```text
//! error[NX0101]: unknown key `num_layer`
//!   --> 14M.yml:7:3
//!    |
//!  7 |   "num_layer": 6,
//!    |    ^^^^^^^^^ not a GPT-NeoX argument
//!    = hint: did you mean `num_layers`?
//! ```
//! Readable without colour; stdout stays free for data.

use std::fmt::Write;

use neoxc_base::diag::{Diagnostic, Severity, Sources};

/// The text of one diagnostic.
pub fn diagnostic(d: &Diagnostic, sources: &Sources) -> String {
    let mut out = String::new();
    let severity = match d.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let _ = writeln!(out, "{severity}[{}]: {}", d.kind.code, d.message);
    let width = d.labels.iter().map(|l| l.span.line.to_string().len()).max().unwrap_or(1);
    for (i, label) in d.labels.iter().enumerate() {
        let s = &label.span;
        let arrow = if i == 0 { "-->" } else { ":::" };
        let _ = writeln!(out, "{:width$}{arrow} {s}", "");
        let Some(text) = sources.line(&s.file, s.line) else {
            let _ = writeln!(out, "{:width$} = {}", "", label.text);
            continue;
        };
        let (text, before) = shown(text, s.column.saturating_sub(1) as usize);
        let lead: String =
            text.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let room = text.chars().count().saturating_sub(lead.chars().count()).max(1);
        let marks = (if i == 0 { "^" } else { "-" }).repeat((s.length.max(1) as usize).min(room));
        let _ = writeln!(out, "{:width$} |", "");
        let _ = writeln!(out, "{:>width$} | {text}", s.line);
        let _ = writeln!(out, "{:width$} | {lead}{marks} {}", "", label.text);
    }
    if let Some(hint) = &d.hint {
        let _ = writeln!(out, "{:width$} = hint: {hint}", "");
    }
    out
}

/// Longest line that is shown whole, and characters before the marked place where it is not.
const LONGEST: usize = 200;
const BEFORE: usize = 60;

/// What is shown of a line, and how many of its characters stand before its character `at`.
fn shown(line: &str, at: usize) -> (String, usize) {
    let length = line.chars().count();
    if length <= LONGEST {
        return (line.to_string(), at);
    }
    let from = at.saturating_sub(BEFORE).min(length - LONGEST);
    let mut text: String = line.chars().skip(from).take(LONGEST).collect();
    if from + LONGEST < length {
        text.push('…');
    }
    match from {
        0 => (text, at),
        _ => (format!("…{text}"), at - from + 1),
    }
}

/// Prints all diagnostics to stderr, with a closing count; true if there was an error.
pub fn report(diagnostics: &[Diagnostic], sources: &Sources) -> bool {
    let mut errors = 0;
    for d in diagnostics {
        eprintln!("{}", diagnostic(d, sources));
        errors += usize::from(d.severity == Severity::Error);
    }
    if errors > 0 {
        let s = if errors == 1 { "" } else { "s" };
        eprintln!("{errors} error{s}; `neoxc explain CODE` tells more");
    }
    errors > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use neoxc_base::diag::{Example, Kind, Span};

    static KIND: Kind = Kind {
        code: "NX9999",
        title: "t",
        explanation: "e",
        example: Example::Session(""),
        exit: 3,
    };

    #[test]
    fn of_a_long_line_the_marked_place_is_shown() {
        let line: String = (0..1000).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
        assert_eq!(shown(&line[..200], 150), (line[..200].to_string(), 150));
        for at in [0, 59, 61, 500, 999] {
            let (text, before) = shown(&line, at);
            assert_eq!(text.chars().nth(before), line.chars().nth(at), "{at}");
            assert!(text.chars().count() <= LONGEST + 2);
        }
    }

    #[test]
    fn both_sides_of_a_conflict_are_shown() {
        let mut sources = Sources::default();
        let a = sources.add("a.yml", "{\n  \"seed\": 1,\n}");
        let b = sources.add("b.yml", "{ \"seed\": 2 }");
        let span = |file, line, column| Span { file, line, column, length: 6 };
        let d = Diagnostic::error(&KIND, "`seed` is given twice")
            .label(&span(b, 1, 3), "again here")
            .label(&span(a, 2, 3), "first here")
            .hint("keep one");
        let text = diagnostic(&d, &sources);
        let want = "error[NX9999]: `seed` is given twice\n --> b.yml:1:3\n  |\n1 | { \"seed\": 2 }\n  |   ^^^^^^ again here\n ::: a.yml:2:3\n  |\n2 |   \"seed\": 1,\n  |   ------ first here\n  = hint: keep one\n";
        assert_eq!(text, want);
    }
}
