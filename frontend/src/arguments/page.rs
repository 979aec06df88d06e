//! What `neoxc explain KEY` prints of an argument, and `docs/arguments.md`.

use std::fmt::Write;

use super::{Argument, GROUPS, NESTED, Preset, Range, Status, alternatives, find};

/// What the page opens with.
const HEAD: &str = "\
# Arguments

Every argument of GPT-NeoX, and those that neoxc adds, by subject. Files are YAML or JSON; `-` and `_` are
the same in names. `neoxc explain KEY` prints an entry of this page, `neoxc check FILES` says all that is
wrong with a configuration, and [neoxc.schema.json](neoxc.schema.json) tells an editor the same:

```yaml
# yaml-language-server: $schema=docs/neoxc.schema.json
```

*Not yet*: any value but the default is refused, with the code that is given; `neoxc explain CODE` tells more of it. *No effect*: it is read and a warning names it; the run is
the same. Values that GPT-NeoX knows and neoxc does not do yet are named after \"not yet\".

This page is made from the tables in `frontend/src/arguments/`, and a test holds it to them:
`NEOXC_BLESS=1 cargo test -p neoxc-frontend --test documents` writes it again.
";

impl Argument {
    /// What a value must be: its type and range.
    pub fn value(&self) -> String {
        match self.range {
            Range::Any => self.kind.says().to_string(),
            Range::Words { supported, .. } => alternatives(supported),
            range => format!("{}, {range}", self.kind.says()),
        }
    }

    /// Words of GPT-NeoX that are not supported yet.
    fn others(&self) -> &'static [&'static str] {
        match self.range {
            Range::Words { others, .. } => others,
            _ => &[],
        }
    }

    /// What becomes of it here, where it is not simply read.
    pub fn fate(&self) -> Option<String> {
        let instead = self.instead();
        Some(match self.status {
            Status::Supported if !self.others().is_empty() => {
                format!("Not yet: {}.", alternatives(self.others()))
            }
            Status::Supported => return None,
            Status::WithoutEffect(why) => format!("No effect: {why}."),
            Status::NotYet { kind, why, instead: "" } => {
                format!("Not yet ({}): {why}.", kind.code)
            }
            Status::NotYet { kind, why, .. } => {
                format!("Not yet ({}): {why}; {instead}.", kind.code)
            }
            Status::Unread => "No effect: nothing reads it in GPT-NeoX either.".into(),
        })
    }

    /// All that there is to say of it.
    pub fn explain(&self) -> String {
        let mut out = String::new();
        let name = self.name;
        let _ = writeln!(out, "{name}: {}\n", self.doc);
        let _ = writeln!(out, "  value    {}", self.value());
        let _ = writeln!(out, "  default  {}", self.default);
        let subject = GROUPS.iter().find(|g| g.arguments.iter().any(|a| a.name == name));
        if let Some(g) = subject {
            let ours = if self.ours { ", not in GPT-NeoX" } else { "" };
            let _ = writeln!(out, "  subject  {}{ours}", g.title);
        }
        if let Some(fate) = self.fate() {
            let _ = writeln!(out, "\n{fate}");
        }
        let below = format!("{name}.");
        for a in NESTED.iter().filter(|a| a.name.starts_with(&below)) {
            let _ = writeln!(
                out,
                "\n  {}: {}\n    {}; {} without it",
                a.name,
                a.doc,
                a.value(),
                a.default
            );
        }
        out
    }
}

/// What `neoxc explain NAME` prints, in either spelling of the name; none if it is no argument.
pub fn explain(name: &str) -> Option<String> {
    find(&name.replace('-', "_")).map(Argument::explain)
}

/// A cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', "\\n")
}

/// A row of the page.
fn row(out: &mut String, a: &Argument) {
    let default = match a.default {
        Preset::Null => String::new(),
        preset => format!("`{preset}`"),
    };
    let ours = if a.ours { " Not in GPT-NeoX." } else { "" };
    let fate = a.fate().map(|f| match f.split_once(':') {
        Some((word, why)) => format!(" *{word}:*{why}"),
        None => format!(" {f}"),
    });
    let meaning = format!("{}{ours}{}", a.doc, fate.unwrap_or_default());
    let cells = [format!("`{}`", a.name), a.value(), default, meaning];
    let _ = writeln!(out, "| {} |", cells.map(|c| cell(&c)).join(" | "));
}

/// `docs/arguments.md`.
pub fn page() -> String {
    let mut out = HEAD.to_string();
    for g in GROUPS {
        let _ = writeln!(
            out,
            "\n## {}\n| argument | value | default | meaning |\n|---|---|---|---|",
            g.title
        );
        for a in g.arguments {
            row(&mut out, a);
            let below = format!("{}.", a.name);
            for nested in NESTED.iter().filter(|n| n.name.starts_with(&below)) {
                row(&mut out, nested);
            }
        }
    }
    out
}
