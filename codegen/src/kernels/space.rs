//! The index space of a pointwise or reduction kernel: the dims of its largest value, neighbours
//! merged wherever every value has both or neither.
//!
//! Invariant: each value's dims are a subset of the space's groups, in the same order.

use neoxc_ir::{Function, OpKind, TensorType, ValueId};

/// Merged dims, and which of them each value has.
#[derive(Debug, Clone)]
pub struct Space {
    /// Sizes of the groups, slowest first; at least one.
    pub sizes: Vec<usize>,
    has: Vec<Vec<bool>>,
}

impl Space {
    /// The space of `f`; `None` where some value does not fit into the largest one. Sums of runs of rows have the
    /// row's own dim: the runs are no dim of the space.
    pub fn of(f: &Function) -> Option<Space> {
        let mut types: Vec<TensorType> = f.values.iter().map(|v| v.ty.clone()).collect();
        for v in f.ops.iter().filter(|op| op.kind == OpKind::SumRuns).flat_map(|op| &op.results) {
            types[v.index()] = f.ty(*v).without("run");
        }
        let full = types.iter().max_by_key(|t| t.dims.len())?.clone();
        let mut member: Vec<Vec<bool>> = vec![];
        for ty in &types {
            member.push(membership(ty, &full)?);
        }
        let mut sizes: Vec<usize> = vec![];
        let mut firsts: Vec<usize> = vec![];
        for (i, d) in full.dims.iter().enumerate() {
            let merges = i > 0 && member.iter().all(|m| m[i] == m[i - 1]);
            match sizes.last_mut() {
                Some(last) if merges => *last *= d.size,
                _ => {
                    sizes.push(d.size);
                    firsts.push(i);
                }
            }
        }
        if sizes.is_empty() {
            return Some(Space { sizes: vec![1], has: vec![vec![true]; f.values.len()] });
        }
        let has = member.iter().map(|m| firsts.iter().map(|i| m[*i]).collect()).collect();
        Some(Space { sizes, has })
    }

    /// Whether `v` has group `g`.
    pub fn has(&self, v: ValueId, g: usize) -> bool {
        self.has[v.index()][g]
    }

    /// Stride of `v` along each group; 0 where it lacks the group.
    pub fn strides(&self, v: ValueId) -> Vec<usize> {
        let mut stride = 1;
        let mut out = vec![0; self.sizes.len()];
        for g in (0..self.sizes.len()).rev() {
            if self.has(v, g) {
                out[g] = stride;
                stride *= self.sizes[g];
            }
        }
        out
    }
}

fn membership(ty: &TensorType, full: &TensorType) -> Option<Vec<bool>> {
    let mut out = vec![false; full.dims.len()];
    let mut last = None;
    for d in &ty.dims {
        let p = full.position(&d.name)?;
        if full.dims[p].size != d.size || last.is_some_and(|l| p <= l) {
            return None;
        }
        out[p] = true;
        last = Some(p);
    }
    Some(out)
}
