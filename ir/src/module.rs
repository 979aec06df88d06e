//! Modules, functions, ops and values.
//!
//! Invariant: values are SSA and numbered densely per function; an op only uses parameters and
//! results of earlier ops of the same function. There are no regions: a loop body is another
//! function, so every function is a straight line that can be read from top to bottom.

use std::sync::Arc;

use crate::attrs::Attrs;
use crate::op::OpKind;
use crate::types::TensorType;

/// Where an op came from in the user's YAML.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Loc {
    /// Made by the compiler, without a line of its own.
    #[default]
    Unknown,
    /// A line.
    File {
        /// File name.
        file: Arc<str>,
        /// Line, from 1.
        line: u32,
        /// Column, from 1.
        column: u32,
    },
    /// Several lines that together caused it.
    Fused(Vec<Loc>),
}

impl Loc {
    /// A place in a file.
    pub fn file(file: &str, line: u32, column: u32) -> Self {
        Loc::File { file: file.into(), line, column }
    }

    /// Its places as diagnostics mark them.
    pub fn spans(&self) -> Vec<neoxc_base::diag::Span> {
        match self {
            Loc::Unknown => vec![],
            Loc::File { file, line, column } => {
                let (file, line, column) = (file.clone(), *line, *column);
                vec![neoxc_base::diag::Span { file, line, column, length: 1 }]
            }
            Loc::Fused(all) => all.iter().flat_map(Loc::spans).collect(),
        }
    }

    /// The union of several places, flattened, without repeats.
    pub fn fuse<'a>(locs: impl IntoIterator<Item = &'a Loc>) -> Loc {
        fn collect(loc: &Loc, out: &mut Vec<Loc>) {
            match loc {
                Loc::Unknown => {}
                Loc::File { .. } if !out.contains(loc) => out.push(loc.clone()),
                Loc::File { .. } => {}
                Loc::Fused(inner) => inner.iter().for_each(|l| collect(l, out)),
            }
        }
        let mut flat = vec![];
        locs.into_iter().for_each(|l| collect(l, &mut flat));
        match flat.len() {
            0 => Loc::Unknown,
            1 => flat.remove(0),
            _ => Loc::Fused(flat),
        }
    }
}

impl std::fmt::Display for Loc {
    /// `file:line:column`, several joined by `+`; `-` when unknown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Loc::Unknown => f.write_str("-"),
            Loc::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Loc::Fused(inner) => {
                for (i, loc) in inner.iter().enumerate() {
                    write!(f, "{}{loc}", if i > 0 { "+" } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

/// Number of a value within its function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

impl ValueId {
    /// As an index into [`Function::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A value: its type and, where a person should recognise it, its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Type.
    pub ty: TensorType,
    /// Name in text (`%x`), unique in the function; numbered when absent.
    pub name: Option<Arc<str>>,
}

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Op {
    /// Which op of the registry.
    pub kind: OpKind,
    /// Operands.
    pub operands: Vec<ValueId>,
    /// Results.
    pub results: Vec<ValueId>,
    /// Attributes.
    pub attrs: Attrs,
    /// The YAML line it came from.
    pub loc: Loc,
}

/// A function: parameters, a straight line of ops, results.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Name without `@`.
    pub name: String,
    /// Function attributes (`neox.kernel`, …).
    pub attrs: Attrs,
    /// All values, parameters first.
    pub values: Vec<Value>,
    /// Parameters.
    pub params: Vec<ValueId>,
    /// Attributes of each parameter (`neox.param`, …), same length as `params`.
    pub param_attrs: Vec<Attrs>,
    /// The ops in order.
    pub ops: Vec<Op>,
    /// What `return` returns.
    pub results: Vec<ValueId>,
}

impl Function {
    /// An empty function.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_string(),
            attrs: Attrs::new(),
            values: vec![],
            params: vec![],
            param_attrs: vec![],
            ops: vec![],
            results: vec![],
        }
    }

    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &TensorType {
        &self.values[v.index()].ty
    }

    /// Adds a value of type `ty`.
    pub fn add_value(&mut self, ty: TensorType) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).expect("fewer than 2^32 values"));
        self.values.push(Value { ty, name: None });
        id
    }

    /// Adds a parameter.
    pub fn add_param(&mut self, name: &str, ty: TensorType, attrs: Attrs) -> ValueId {
        let id = self.add_value(ty);
        self.values[id.index()].name = Some(name.into());
        self.params.push(id);
        self.param_attrs.push(attrs);
        id
    }

    /// The op that defines each value (`None` for parameters), by index into [`Function::ops`].
    pub fn definitions(&self) -> Vec<Option<usize>> {
        let mut defs = vec![None; self.values.len()];
        for (i, op) in self.ops.iter().enumerate() {
            for r in &op.results {
                defs[r.index()] = Some(i);
            }
        }
        defs
    }

    /// How often each value is used, `return` included.
    pub fn use_counts(&self) -> Vec<usize> {
        let mut uses = vec![0; self.values.len()];
        for v in self.ops.iter().flat_map(|o| &o.operands).chain(&self.results) {
            uses[v.index()] += 1;
        }
        uses
    }

    /// Removes ops none of whose results are used, and renumbers values densely.
    pub fn remove_dead_ops(&mut self) {
        let mut live = vec![false; self.values.len()];
        self.results.iter().for_each(|r| live[r.index()] = true);
        let mut keep = vec![false; self.ops.len()];
        for (i, op) in self.ops.iter().enumerate().rev() {
            if op.results.iter().any(|r| live[r.index()]) {
                keep[i] = true;
                op.operands.iter().for_each(|o| live[o.index()] = true);
            }
        }
        let mut i = 0;
        self.ops.retain(|_| {
            i += 1;
            keep[i - 1]
        });
        self.renumber();
    }

    /// Renumbers values in order of appearance and drops unused ones.
    pub fn renumber(&mut self) {
        let mut map = vec![None; self.values.len()];
        let mut values = vec![];
        let mut place = |v: &mut ValueId| {
            let id = *map[v.index()].get_or_insert_with(|| {
                values.push(self.values[v.index()].clone());
                ValueId(values.len() as u32 - 1)
            });
            *v = id;
        };
        self.params.iter_mut().for_each(&mut place);
        for op in &mut self.ops {
            op.operands.iter_mut().for_each(&mut place);
            op.results.iter_mut().for_each(&mut place);
        }
        self.results.iter_mut().for_each(&mut place);
        self.values = values;
    }
}

/// A list of functions. The first one called by nothing is an entry.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Module {
    /// Module attributes.
    pub attrs: Attrs,
    /// Functions in order.
    pub functions: Vec<Function>,
}

impl Module {
    /// An empty module.
    pub fn new() -> Self {
        Self::default()
    }

    /// The function called `name`.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|f| f.name == name)
    }

    /// The function called `name`, to change.
    pub fn function_mut(&mut self, name: &str) -> Option<&mut Function> {
        self.functions.iter_mut().find(|f| f.name == name)
    }

    /// Adds a function.
    ///
    /// # Panics
    /// Never on a name clash: the newer function replaces the older one.
    pub fn insert(&mut self, function: Function) {
        match self.function_mut(&function.name) {
            Some(old) => *old = function,
            None => self.functions.push(function),
        }
    }

    /// A name starting with `base` that no function has.
    pub fn fresh_name(&self, base: &str) -> String {
        if self.function(base).is_none() {
            return base.to_string();
        }
        (1..)
            .map(|i| format!("{base}_{i}"))
            .find(|n| self.function(n).is_none())
            .expect("there are more names than functions")
    }
}
