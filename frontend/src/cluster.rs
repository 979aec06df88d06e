//! Cluster files: YAML → [`Cluster`], with the place of every key.

use std::collections::BTreeMap;
use std::path::Path;

use neoxc_base::cluster::{Cluster, Link};
use neoxc_base::codes::{file, impossible_value, missing_key, syntax, unknown_key, wrong_type};
use neoxc_base::diag::{Diagnostic, Severity, Sources, Span};
use neoxc_base::nearest::nearest;

use crate::arguments::Range;
use crate::reader::number;
use crate::yaml::{Key, Node, Value, parse};

/// A cluster and where its keys stand.
#[derive(Debug, Clone)]
pub struct LoadedCluster {
    /// The cluster, when there was no error.
    pub cluster: Option<Cluster>,
    /// Places of values, by key.
    pub places: BTreeMap<String, Span>,
    /// All problems.
    pub diagnostics: Vec<Diagnostic>,
}

const KEYS: [&str; 10] = [
    "accelerator",
    "target",
    "memory_gib",
    "reserved_gib",
    "memory_gb_per_s",
    "peak_tflops",
    "ranks_per_node",
    "nodes",
    "link_within",
    "link_between",
];

/// Reads a cluster file; its text is added to `sources`.
pub fn load_cluster(path: &Path, sources: &mut Sources) -> LoadedCluster {
    let mut out = LoadedCluster { cluster: None, places: BTreeMap::new(), diagnostics: vec![] };
    let name = path.display().to_string();
    let text = match neoxc_base::read::text(path, neoxc_base::read::SETTINGS) {
        Ok(text) => text,
        Err(e) => {
            let hint = "cluster files are in configs/clusters";
            out.diagnostics.push(file::unreadable(&name, &e.to_string(), hint));
            return out;
        }
    };
    let source = sources.add(&name, &text);
    let (node, found) = match parse(&source, &text) {
        Ok(parsed) => parsed,
        Err(d) => {
            out.diagnostics.push(d);
            return out;
        }
    };
    out.diagnostics.extend(found);
    let Value::Map(pairs) = node.value else {
        let message = format!("{name} holds no keys and values");
        out.diagnostics.push(syntax::syntax(&message, &node.span, "here"));
        return out;
    };
    let mut r = Reader { pairs, found: vec![], name };
    out.cluster = r.cluster();
    out.places = r.pairs.iter().map(|(k, v)| (k.name.clone(), v.span.clone())).collect();
    out.diagnostics.extend(r.found);
    if out.diagnostics.iter().any(|d| d.severity == Severity::Error) {
        out.cluster = None;
    }
    out
}

struct Reader {
    pairs: Vec<(Key, Node)>,
    found: Vec<Diagnostic>,
    name: String,
}

impl Reader {
    fn cluster(&mut self) -> Option<Cluster> {
        for (key, _) in &self.pairs {
            if !KEYS.contains(&key.name.as_str()) {
                let near = nearest(&key.name, KEYS);
                let what = "a key of cluster files";
                let d = unknown_key::unknown_key(&key.name, what, &key.span, near);
                let d = if near.is_none() {
                    d.hint(format!("keys are {}", KEYS.join(", ")))
                } else {
                    d
                };
                self.found.push(d);
            }
        }
        let accelerator = self.text("accelerator");
        let target = self.text("target").and_then(|t| {
            let parsed = t.parse().ok();
            if parsed.is_none() {
                self.wrong("target", &format!("no target is called {t:?}"), "unknown target");
            }
            parsed
        });
        // `null` is the machine's own memory.
        let memory = match self.get("memory_gib").map(|n| n.value.clone()) {
            Some(Value::Null) => Some(None),
            _ => self.number("memory_gib", 1e-6, 1e6).map(Some),
        };
        let reserved = match self.get("reserved_gib") {
            None => Some(0.0),
            Some(_) => self.number("reserved_gib", 0.0, 1e6),
        };
        if let (Some(Some(m)), Some(r)) = (memory, reserved)
            && r >= m
        {
            self.wrong("reserved_gib", &format!("{r} of {m} GiB are reserved"), "nothing is left");
        }
        let bandwidth = self.number("memory_gb_per_s", 1e-3, 1e9);
        let peak = self.peak();
        let per_node = self.whole("ranks_per_node");
        let nodes = self.whole("nodes");
        let (within, between) = (self.link("link_within"), self.link("link_between"));
        let free = match memory? {
            None => None,
            Some(m) => Some(((m - reserved?) * f64::from(1 << 30)) as u64),
        };
        Some(Cluster {
            accelerator: accelerator?,
            target: target?,
            memory: free,
            memory_bandwidth: bandwidth? * 1e9,
            peak_flops: peak?,
            ranks_per_node: per_node?,
            nodes: nodes?,
            within: within?,
            between: between?,
        })
    }

    fn get(&self, key: &str) -> Option<&Node> {
        self.pairs.iter().find(|(k, _)| k.name == key).map(|(_, n)| n)
    }

    /// The value of a key that must be there.
    fn need(&mut self, key: &str) -> Option<Node> {
        let found = self.get(key).cloned();
        if found.is_none() {
            let (what, hint) = (format!("`{key}`"), format!("add it to {}", self.name));
            self.found.push(missing_key::missing_key(&what, &hint));
        }
        found
    }

    fn wrong(&mut self, key: &str, message: &str, label: &str) {
        if let Some(span) = self.get(key).map(|n| n.span.clone()) {
            self.found.push(impossible_value::impossible_value(message, &span, label, ""));
        }
    }

    fn mistyped(&mut self, key: &str, node: &Node, want: &str) {
        let found = node.value.describe();
        self.found.push(wrong_type::wrong_type(key, &found, want, &node.span, ""));
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let node = self.need(key)?;
        match &node.value {
            Value::Str(s) => Some(s.clone()),
            _ => {
                self.mistyped(key, &node, "text");
                None
            }
        }
    }

    fn number(&mut self, key: &str, low: f64, high: f64) -> Option<f64> {
        let node = self.need(key)?;
        self.number_of(key, &node, low, high)
    }

    fn number_of(&mut self, key: &str, node: &Node, low: f64, high: f64) -> Option<f64> {
        let Some(x) = number(&node.value) else {
            self.mistyped(key, node, "a number");
            return None;
        };
        let range = Range::Between(low, high);
        if !range.contains(x) {
            let (found, range) = (x.to_string(), range.to_string());
            self.found.push(impossible_value::out_of_range(key, &found, &range, &node.span));
            return None;
        }
        Some(x)
    }

    fn whole(&mut self, key: &str) -> Option<usize> {
        let x = self.number(key, 1.0, 1e6)?;
        if x.fract() != 0.0 {
            self.wrong(key, &format!("`{key}` is {x}"), "not a whole number");
            return None;
        }
        Some(x as usize)
    }

    fn peak(&mut self) -> Option<BTreeMap<String, f64>> {
        let node = self.need("peak_tflops")?;
        let Value::Map(pairs) = &node.value else {
            self.mistyped("peak_tflops", &node, "rates by dtype");
            return None;
        };
        let mut out = BTreeMap::new();
        for (key, value) in pairs {
            let rate = self.number_of(&format!("peak_tflops.{}", key.name), value, 1e-6, 1e9)?;
            out.insert(key.name.clone(), rate * 1e12);
        }
        if !out.contains_key("f32") {
            self.wrong("peak_tflops", "`peak_tflops` has no f32", "f32 is missing");
            return None;
        }
        Some(out)
    }

    fn link(&mut self, key: &str) -> Option<Link> {
        let node = self.need(key)?;
        let Value::Map(pairs) = &node.value else {
            self.mistyped(key, &node, "gb_per_s and microseconds");
            return None;
        };
        let mut part = |name: &str, low: f64, high: f64| {
            let Some((_, value)) = pairs.iter().find(|(k, _)| k.name == name) else {
                self.wrong(key, &format!("`{key}` has no {name}"), "gb_per_s and microseconds");
                return None;
            };
            self.number_of(&format!("{key}.{name}"), value, low, high)
        };
        let (rate, wait) = (part("gb_per_s", 1e-3, 1e9), part("microseconds", 0.0, 1e6));
        Some(Link { bandwidth: rate? * 1e9, latency: wait? * 1e-6 })
    }
}
