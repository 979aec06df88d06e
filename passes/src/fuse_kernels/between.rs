//! Which of two kernels makes a value that both could: the one that reads and stores less.
//!
//! ```text
//! %g = matmul(%x, %v); %s = silu(%g)            %g = matmul(%x, %v)
//! %u = matmul(%x, %w); %y = mul(%s, %u)   ⇒     %u = matmul(%x, %w); %s = silu(%g); %y = mul(%s, %u)
//! ```
//! where something else needs %g as well: then %s is never stored.

use neoxc_ir::op::Class;
use neoxc_ir::{Op, ValueId};

use super::{Fusing, is_copied, is_matmul, is_widening};

impl Fusing<'_> {
    /// Moves what is made of given values alone, as what backward makes again, into a matmul whose epilogue reads one of
    /// them and that runs before all that need it, or is the first of those and needs it in its epilogue: it costs no more
    /// reading.
    pub(super) fn move_beside(&mut self) {
        let f = self.f;
        for g in 0..self.groups.len() {
            let ops = self.groups[g].ops.clone();
            let reads: Vec<ValueId> =
                ops.iter().flat_map(|i| &f.ops[*i].operands).copied().collect();
            let given =
                |v: &ValueId| self.def(*v).is_none_or(|d| self.of[d].is_none() || ops.contains(&d));
            let pointwise = |i: &usize| f.ops[*i].kind.def().class() == Class::Pointwise;
            if !ops.iter().all(pointwise) || !reads.iter().all(given) {
                continue;
            }
            let mut readers = vec![];
            let mut made = ops.iter().flat_map(|i| &f.ops[*i].results);
            if !made.all(|v| self.readers(*v, &mut readers)) {
                continue;
            }
            let Some(first) = readers.into_iter().filter(|r| *r != g).min() else { continue };
            let wide = |v: &ValueId| {
                let v = self.source(*v);
                reads.iter().any(|r| self.source(*r) == v)
                    && ops.iter().any(|i| f.ty(f.ops[*i].results[0]).dims == f.ty(v).dims)
            };
            let beside = |h: &usize| {
                let group = &self.groups[*h];
                group.family == "matmul"
                    && group.ops.iter().any(|i| f.ops[*i].operands.iter().any(wide))
                    && ops.iter().all(|i| self.joins(*h, *i))
            };
            // What is made cannot be a factor of the matmul that it joins.
            let last = first + usize::from(!ops.iter().any(|i| self.makes_factor(*i, first)));
            if let Some(h) = (g + 1..last).find(beside) {
                ops.iter().for_each(|i| self.of[*i] = Some(h));
                self.groups[g].ops.clear();
                self.groups[h].ops.extend(ops);
            }
        }
    }

    /// Moves pointwise ops whose results only the epilogue of one later matmul reads into that, where all that they are
    /// made of is stored anyway: their results are not.
    pub(super) fn move_behind(&mut self) {
        for h in 0..self.groups.len() {
            if self.groups[h].family != "matmul" {
                continue;
            }
            // From consumers to producers, so that a chain moves as one.
            let mut moved: Vec<(usize, usize)> = vec![];
            for i in (0..self.f.ops.len()).rev() {
                if let Some(g) = self.of[i].filter(|g| *g < h && self.serves(i, *g, h)) {
                    self.of[i] = Some(h);
                    moved.push((i, g));
                }
            }
            if moved.iter().all(|(i, _)| self.is_made_of_stored(*i, &moved, h)) {
                for (i, g) in moved {
                    self.groups[g].ops.retain(|op| *op != i);
                    self.groups[h].ops.push(i);
                }
            } else {
                moved.into_iter().for_each(|(i, g)| self.of[i] = Some(g));
            }
        }
    }

    /// Whether pointwise op `i` of the matmul `g` could be in the epilogue of `h`, which alone reads what it makes.
    fn serves(&self, i: usize, g: usize, h: usize) -> bool {
        let op = &self.f.ops[i];
        let mut readers = vec![];
        self.groups[g].family == "matmul"
            && op.kind.def().class() == Class::Pointwise
            && op.results.iter().all(|v| self.readers(*v, &mut readers))
            && readers.iter().all(|r| *r == h)
            && self.joins(h, i)
            && !self.makes_factor(i, h)
    }

    /// Whether a matmul of group `h` has what op `i` makes as a factor.
    fn makes_factor(&self, i: usize, h: usize) -> bool {
        let matmuls = self.groups[h].ops.iter().map(|op| &self.f.ops[*op]);
        let mut factors = matmuls.filter(|op| is_matmul(op)).flat_map(|op| &op.operands);
        factors.any(|v| self.def(*v) == Some(i))
    }

    /// Whether op `i`, moved to `h`, reads nothing that is not stored for others.
    fn is_made_of_stored(&self, i: usize, moved: &[(usize, usize)], h: usize) -> bool {
        let f = self.f;
        f.ops[i].operands.iter().map(|v| self.source(*v)).all(|v| {
            let Some(d) = self.defs[v.index()] else { return true };
            if is_copied(f, &f.ops[d]) || moved.iter().any(|(m, _)| *m == d) {
                return true;
            }
            let mut readers = vec![];
            let Some(maker) = self.of[d] else { return true };
            // The caller reads it, or a group besides the one that made it and this one.
            !self.readers(v, &mut readers) || readers.iter().any(|r| *r != maker && *r != h)
        })
    }

    /// Adds the groups that read `v` to `groups`; says whether nothing else does.
    fn readers(&self, v: ValueId, groups: &mut Vec<usize>) -> bool {
        let reads = |(_, op): &(usize, &Op)| op.operands.contains(&v);
        !self.f.results.contains(&v)
            && self.f.ops.iter().enumerate().filter(reads).all(|(i, op)| match self.of[i] {
                // A cast of bf16 to f32 is copied to where it is read.
                None if is_widening(self.f, op) => self.readers(op.results[0], groups),
                None => false,
                Some(g) => {
                    groups.push(g);
                    true
                }
            })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use neoxc_ir::target::Target;
    use neoxc_ir::{Attrs, Builder, Function, Module, OpKind, TensorType, ValueId};

    use crate::PassCx;
    use crate::fuse_kernels::PASS;

    /// The ops of each kernel that a function's calls name, in the order of the calls.
    fn kernels(f: Function) -> Vec<Vec<&'static str>> {
        let mut m = Module::new();
        let name = f.name.clone();
        m.insert(f);
        (PASS.run)(&mut m, &PassCx::new(Target::X86V4)).unwrap();
        neoxc_ir::verify(&m).unwrap();
        let calls = m.function(&name).unwrap().ops.iter();
        let callee = |op: &neoxc_ir::Op| m.function(op.attrs.symbol("callee").unwrap()).unwrap();
        calls.map(|op| callee(op).ops.iter().map(|op| op.kind.name()).collect()).collect()
    }

    /// x, two weights, and one of the way back.
    fn parameters(f: &mut Function) -> [ValueId; 4] {
        let (seq, embed, ffn) = (("seq", 5), ("embed", 3), ("ffn", 4));
        let types = [[seq, embed], [ffn, embed], [ffn, embed], [embed, ffn]];
        types.map(|dims| f.add_param("", TensorType::f32(&dims), Attrs::new()))
    }

    fn silu(b: &mut Builder<'_>, x: ValueId) -> ValueId {
        let share = b.unary(OpKind::Logistic, x).unwrap();
        b.mul(x, share).unwrap()
    }

    #[test]
    fn a_gate_that_is_stored_anyway_is_opened_where_it_is_used() {
        for stored in [true, false] {
            let mut f = Function::new("f");
            let [x, gate, up, _] = parameters(&mut f);
            let b = &mut Builder::new(&mut f);
            let gate = b.matmul(x, gate, &["embed"]).unwrap();
            let open = silu(b, gate);
            let up = b.matmul(x, up, &["embed"]).unwrap();
            let y = b.mul(open, up).unwrap();
            f.results = if stored { vec![gate, y] } else { vec![y] };
            let want: [&[&str]; 2] = match stored {
                true => [&["matmul"], &["logistic", "mul", "matmul", "mul"]],
                // Nobody else needs the gate: one of the two is stored in any case.
                false => [&["matmul", "logistic", "mul"], &["matmul", "mul"]],
            };
            assert_eq!(kernels(f), want);
        }
    }

    #[test]
    fn what_backward_makes_again_joins_the_matmul_that_needs_it() {
        let mut f = Function::new("f");
        let [x, _, down, _] = parameters(&mut f);
        let ty = TensorType::f32(&[("seq", 5), ("ffn", 4)]);
        let gate = f.add_param("gate", ty, Attrs::new());
        let b = &mut Builder::new(&mut f);
        let open = silu(b, gate);
        let dy = b.matmul(x, down, &["embed"]).unwrap();
        let d = b.mul(dy, open).unwrap();
        let d = b.mul(d, gate).unwrap();
        // Made again for a factor: only the kernel before can make it beside its own.
        let dw = b.matmul(open, x, &["seq"]).unwrap();
        f.results = vec![d, dw];
        assert_eq!(kernels(f), [&["logistic", "mul", "matmul", "mul", "mul"][..], &["matmul"]]);
    }
}
