//! The programs that one function of the whole model becomes on the stages of a class.

use std::collections::HashMap;

use neoxc_ir::{Attr, Function, Module, Op, OpKind, Output, Role, ValueId, keys};

use super::{carried_parameter, copy, label, parameter, parts, shrink, with_layers};
use crate::assign_stages::Class;
use crate::entries::{Entry, Part, Program};
use crate::pass::PassError;

/// A function of the whole model, and what a class of stages has of it.
pub(super) struct Source<'a> {
    /// The function. Its first `carried` parameters are sums of gradients.
    pub f: &'a Function,
    /// How many.
    pub carried: usize,
    /// What the results after them are.
    pub outputs: &'a [Output],
    /// Which parameters the class has.
    pub holds: &'a [bool],
}

/// The order of a function's parts.
const ORDER: [Part; 6] =
    [Part::Enter, Part::Forward, Part::Head, Part::Backward, Part::Weights, Part::Leave];

/// The programs of one function.
pub(super) fn cut(
    m: &Module,
    source: &Source<'_>,
    program: Program,
    class: &Class,
) -> Result<Vec<Function>, PassError> {
    let cut = Cut::of(m, source, class)?;
    let runs = |p: &Part| match p {
        Part::Enter | Part::Leave => class.first,
        Part::Head => class.last,
        _ => true,
    };
    // A step leaves the first stage even if nothing there is trained.
    let there = |p: &Part| cut.find(*p).is_some() || *p == Part::Leave && program == Program::Train;
    let parts = ORDER.into_iter().filter(|p| there(p) && runs(p));
    parts.map(|part| cut.program(Entry::new(program, part), part)).collect()
}

/// A function with the borders between its parts.
struct Cut<'a> {
    m: &'a Module,
    source: &'a Source<'a>,
    /// Layers of a stage, or of a chunk.
    layers: usize,
    /// The part of each op.
    part_of: Vec<Part>,
    /// For values that are a gradient's sum so far: which gradient.
    sums: HashMap<ValueId, usize>,
    /// Slots of the values that go from part to part, by name.
    names: HashMap<ValueId, String>,
    /// Those of them that a part of this function makes.
    cross: Vec<ValueId>,
}

/// For values that are a gradient's sum so far: which gradient.
fn sums(f: &Function, carried: usize) -> HashMap<ValueId, usize> {
    let mut out: HashMap<ValueId, usize> =
        f.params.iter().take(carried).enumerate().map(|(n, p)| (*p, n)).collect();
    for op in &f.ops {
        let from = op.operands.iter().find_map(|o| out.get(o).copied());
        match from {
            Some(n) if op.kind == OpKind::Add => {
                out.insert(op.results[0], n);
            }
            Some(_) if op.kind == OpKind::Repeat => {
                for r in &op.results {
                    if let Some(n) = f.results[..carried].iter().position(|x| x == r) {
                        out.insert(*r, n);
                    }
                }
            }
            _ => {}
        }
    }
    out
}

impl<'a> Cut<'a> {
    /// Finds the borders.
    fn of(m: &'a Module, source: &'a Source<'a>, class: &Class) -> Result<Self, PassError> {
        let f = source.f;
        let mut cut = Cut {
            m,
            source,
            layers: class.layers,
            part_of: parts(f)?,
            sums: sums(f, source.carried),
            names: HashMap::new(),
            cross: vec![],
        };
        let loops = [(Part::Forward, "x", "y"), (Part::Backward, "dy", "dx")];
        let loops = loops.map(|(p, taken, made)| (cut.find(p).map(|i| &f.ops[i]), taken, made));
        for (op, taken, made) in loops {
            let Some(op) = op else { continue };
            cut.names.insert(op.operands[0], taken.into());
            cut.names.insert(op.results[0], made.into());
        }
        cut.find_crossing()?;
        // The stage behind wants it even if no part of this one does.
        for op in loops.into_iter().filter_map(|(op, ..)| op) {
            if !cut.cross.contains(&op.results[0]) {
                cut.cross.push(op.results[0]);
            }
        }
        Ok(cut)
    }

    /// The op that makes a value.
    fn maker(&self, v: ValueId) -> Option<usize> {
        self.source.f.ops.iter().position(|op| op.results.contains(&v))
    }

    /// The first op of a part.
    fn find(&self, part: Part) -> Option<usize> {
        self.part_of.iter().position(|q| *q == part)
    }

    /// Finds the values that one part makes and another one needs.
    fn find_crossing(&mut self) -> Result<(), PassError> {
        for (op, part) in self.source.f.ops.iter().zip(self.part_of.clone()) {
            for o in &op.operands {
                let Some(i) = self.maker(*o).filter(|i| self.part_of[*i] != part) else { continue };
                if self.source.f.ops[i].kind == OpKind::Fill || self.sums.contains_key(o) {
                    continue;
                }
                let near = matches!(
                    (self.part_of[i], part),
                    (Part::Enter, Part::Leave)
                        | (
                            Part::Forward,
                            Part::Head | Part::Backward | Part::Weights | Part::Leave
                        )
                        | (Part::Backward, Part::Weights | Part::Leave)
                );
                if !self.names.contains_key(o) && !near {
                    return Err(PassError::internal_at(
                        format!("{} needs a value of another stage", op.kind.full_name()),
                        &op.loc,
                    ));
                }
                if !self.cross.contains(o) {
                    self.cross.push(*o);
                }
                let next = format!("saved{}", self.names.len());
                self.names.entry(*o).or_insert(next);
            }
        }
        Ok(())
    }

    /// The program of one part.
    fn program(&self, entry: Entry, part: Part) -> Result<Function, PassError> {
        let f = self.source.f;
        let mut g = Function::new(&entry.to_string());
        g.attrs = f.attrs.clone();
        let mut map: HashMap<ValueId, ValueId> = HashMap::new();
        self.add_held(&mut g, &mut map);
        let adds = matches!(part, Part::Head | Part::Backward | Part::Weights | Part::Leave);
        let grads = if adds { self.add_gradients(&mut g, &mut map) } else { HashMap::new() };
        let ops: Vec<&Op> = f
            .ops
            .iter()
            .zip(&self.part_of)
            .filter(|(_, q)| **q == part)
            .map(|(op, _)| op)
            .collect();
        for o in ops.iter().flat_map(|op| &op.operands) {
            if map.contains_key(o) || self.maker(*o).is_some_and(|i| self.part_of[i] == part) {
                continue;
            }
            if let Some(n) = self.sums.get(o) {
                let lost = || PassError::internal("a gradient is on another stage".into());
                map.insert(*o, *grads.get(n).ok_or_else(lost)?);
            } else if let Some(name) = self.names.get(o) {
                let ty = with_layers(f.ty(*o), self.layers);
                map.insert(*o, g.add_param(name, ty, Role::Slot.attrs(name)));
            }
        }
        let mut results: Vec<(Output, ValueId)> = vec![];
        for op in ops {
            copy(f, op, &mut g, &mut map, Some(self.m), &|a| shrink(a, self.layers))?;
            self.hand_over(op, &map, &mut results);
        }
        let (what, values): (Vec<Output>, Vec<ValueId>) = results.into_iter().unzip();
        g.results = values;
        Output::set(&mut g, &what);
        Ok(g)
    }

    /// Adds the parameters that the class has, but for sums of gradients.
    fn add_held(&self, g: &mut Function, map: &mut HashMap<ValueId, ValueId>) {
        let f = self.source.f;
        let all = f.params.iter().zip(&f.param_attrs).zip(self.source.holds);
        for ((p, attrs), _) in all.skip(self.source.carried).filter(|(_, holds)| **holds) {
            let mut attrs = attrs.clone();
            if attrs.get(keys::PARAM).is_none() {
                attrs.set(keys::NAME, Attr::Str(label(f, *p)));
            }
            map.insert(*p, g.add_param(&label(f, *p), with_layers(f.ty(*p), self.layers), attrs));
        }
    }

    /// Adds the sums of gradients of the parameters that the class has; they are returned by number.
    fn add_gradients(
        &self,
        g: &mut Function,
        map: &mut HashMap<ValueId, ValueId>,
    ) -> HashMap<usize, ValueId> {
        let f = self.source.f;
        let mut grads = HashMap::new();
        for (n, p) in f.params.iter().take(self.source.carried).enumerate() {
            if !self.source.holds[carried_parameter(f, n)] {
                continue;
            }
            let ty = with_layers(f.ty(*p), self.layers);
            let v = g.add_param(&label(f, *p), ty, Role::Gradient.attrs(parameter(f, n)));
            grads.insert(n, v);
            map.insert(*p, v);
        }
        grads
    }

    /// Adds what a program hands on of an op that it has: sums of gradients (the last of each), slots, and outputs.
    fn hand_over(
        &self,
        op: &Op,
        map: &HashMap<ValueId, ValueId>,
        results: &mut Vec<(Output, ValueId)>,
    ) {
        let Source { f, carried, outputs, .. } = self.source;
        for r in &op.results {
            if let Some(n) = self.sums.get(r) {
                let name = Output::Gradient(parameter(f, *n).into());
                results.retain(|(other, _)| *other != name);
                results.push((name, map[r]));
            } else if self.cross.contains(r) {
                results.push((Output::Slot(self.names[r].clone()), map[r]));
            }
            if let Some(n) = f.results[*carried..].iter().position(|x| x == r) {
                results.push((outputs[n].clone(), map[r]));
            }
        }
    }
}
