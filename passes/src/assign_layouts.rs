//! `assign-layouts`: how the state and the inputs of the entries are divided over the mesh.
//!
//! ```text
//! @train_step(%w: [layer 6, ffn 512, embed 128], …, %tokens: [micro 8, batch 4, seq 256])
//!   ⇒  %w {neox.layout = ["", "tensor", ""]}       %tokens {neox.layout = ["data", "", ""]}
//! ```
//! Which dims tensor ranks divide is declared by each parameter (`neox.tensor`, `neox.tensor_if_even`). Megatron's
//! pattern follows from three choices of the families alone: parameters are divided along heads, along the
//! MLP's inner dim and along the vocabulary, where the ranks divide it evenly: parameters do not depend on
//! the layout, so it is not padded for them. Data parallelism is one more: the loop over micro-batches is divided, so a
//! step computes the same sum whatever the number of ranks. ZeRO's first stage divides the optimizer's
//! state over the data axis, and over the expert axis those of everything but experts: then each rank wants its part of the gradients, and gives its part of
//! the new weights. Expert parallelism is one dim more, that of experts (`neox.experts`). Everything else is propagated by
//! `partition-program`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use neoxc_base::codes::undivided_dim::undivided_dim;
use neoxc_ir::role::name_of;
use neoxc_ir::{Attr, Attrs, Dim, Function, Loc, Module, Output, Role, TensorType, ValueId, keys};

use crate::entries::{Part, entries, is_training};
use crate::facts::Fact;
use crate::pass::{Degrees, Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "assign-layouts",
    doc: "choose how parameters and batches are divided over the mesh",
    requires: &[Fact::HasTrainStep],
    ensures: &[],
    run,
};

/// Which of a parameter's dims ranks divide, as its family declares it: the same for its gradient and its state.
#[derive(Debug, Clone, Default)]
struct Divided {
    /// Dims that tensor ranks divide.
    tensor: Vec<String>,
    /// Dims that they divide where they do so evenly, and otherwise leave whole.
    if_even: Vec<String>,
    /// The dim that expert ranks divide, of experts' own parameters.
    experts: Option<String>,
}

impl Divided {
    fn of(attrs: &Attrs) -> Divided {
        let strs = |key: &str| {
            attrs.strs(key).unwrap_or_default().into_iter().map(str::to_string).collect()
        };
        Divided {
            tensor: strs(keys::TENSOR),
            if_even: strs(keys::TENSOR_IF_EVEN),
            experts: attrs.str(keys::EXPERTS).map(str::to_string),
        }
    }

    /// The axis that divides `dim`; nothing where none does.
    fn axis(&self, dim: &Dim, cx: &PassCx) -> &'static str {
        let ranks = cx.degrees.tensor;
        let in_tensor = self.tensor.iter().any(|d| *d == *dim.name)
            || (self.if_even.iter().any(|d| *d == *dim.name) && dim.size.is_multiple_of(ranks));
        match &self.experts {
            Some(of) if *of == *dim.name && cx.degrees.expert > 1 => "expert",
            Some(_) if !cx.expert_tensor => "",
            _ if in_tensor && ranks > 1 => "tensor",
            _ => "",
        }
    }
}

/// What the parameters of all entries declare, by logical name.
type Declared = BTreeMap<String, Divided>;

fn run(m: &mut Module, cx: &PassCx) -> Result<PassReport, PassError> {
    let entries = entries(m);
    let mut declared = Declared::new();
    for f in entries.iter().filter_map(|e| m.function(e)) {
        let named = f.param_attrs.iter().filter_map(|a| Some((a.str(keys::PARAM)?, a)));
        declared.extend(named.map(|(name, a)| (name.to_string(), Divided::of(a))));
    }
    let (mut notes, ranks) = (BTreeSet::new(), cx.degrees.tensor);
    for entry in entries {
        if let Some(f) = m.function_mut(&entry) {
            assign(f, &declared, cx)?;
            for (p, attrs) in f.params.iter().zip(&f.param_attrs) {
                let uneven = Divided::of(attrs).if_even;
                let dims = f.ty(*p).dims.iter().filter(|d| uneven.iter().any(|u| *u == *d.name));
                let whole = dims.filter(|d| !d.size.is_multiple_of(ranks));
                notes.extend(
                    whole.map(|d| format!("`{}`: {ranks} ranks do not divide {}", d.name, d.size)),
                );
            }
        }
    }
    Ok(PassReport { notes: notes.into_iter().collect() })
}

fn assign(f: &mut Function, declared: &Declared, cx: &PassCx) -> Result<(), PassError> {
    let d = cx.degrees;
    let none = Divided::default();
    let of = |name: &str| declared.get(name).unwrap_or(&none);
    // The programs of a stage see its own layers and what else it has.
    let update = is_training(&f.name, Part::Finish);
    // The first op that reads a parameter says where it comes from.
    let mut readers: HashMap<ValueId, Loc> = HashMap::new();
    for op in f.ops.iter().rev() {
        readers.extend(op.operands.iter().map(|o| (*o, op.loc.clone())));
    }
    for (p, attrs) in f.params.iter().zip(&mut f.param_attrs) {
        let ty = &f.values[p.index()].ty;
        let role = Role::of(attrs);
        let state = matches!(role, Some(Role::Parameter | Role::State | Role::Gradient));
        // Generation has one sequence, which all have.
        let splits =
            |ty: &TensorType, dim: &str| ty.size(dim).is_some_and(|n| n.is_multiple_of(d.expert));
        let whole: Vec<String> =
            attrs.strs(keys::WHOLE).unwrap_or_default().into_iter().map(str::to_string).collect();
        let name = name_of(attrs).to_string();
        let axis = |dim: &Dim| match (state, role, &*dim.name) {
            (.., dim) if whole.iter().any(|w| w == dim) => "",
            (true, ..) if !of(&name).axis(dim, cx).is_empty() => of(&name).axis(dim, cx),
            (_, Some(Role::Batch | Role::Losses), "micro") if d.data > 1 => "data",
            (_, Some(Role::Batch), "batch") if d.expert > 1 && splits(ty, "batch") => "expert",
            (_, Some(Role::Batch), "seq") if d.context > 1 => "context",
            _ => "",
        };
        let mut layout: Vec<&str> = ty.dims.iter().map(axis).collect();
        if role == Some(Role::State) {
            layout = divided_state(cx, ty, layout);
        }
        divides(ty, &layout, d, readers.get(p).unwrap_or(&Loc::Unknown))?;
        if layout.iter().any(|a| !a.is_empty()) {
            attrs.set(keys::LAYOUT, Attr::strs(&layout));
        }
        if update && matches!(role, Some(Role::Gradient | Role::Losses)) {
            // Every data rank has its part of the sum; so has every stage of the losses.
            let grad = role == Some(Role::Gradient);
            let mut sums = if grad { vec!["data"] } else { vec!["data", "pipe"] };
            sums.retain(|axis| d.of(axis) > 1 && !layout.contains(axis));
            attrs.set(keys::PARTIAL, Attr::strs(&sums));
        }
    }
    // What the first program of a step makes is laid out as what the others add to it.
    if is_training(&f.name, Part::Start) {
        let results = Output::all(f).unwrap_or_default();
        let (makers, mut layouts) = (f.definitions(), vec![]);
        for (r, what) in f.results.iter().zip(&results) {
            let ty = f.ty(*r);
            let Output::Gradient(name) = what else {
                layouts.push(vec![""; ty.dims.len()].join(","));
                continue;
            };
            let axis = |dim: &Dim| of(name).axis(dim, cx);
            let layout: Vec<&str> = ty.dims.iter().map(axis).collect();
            let made = makers[r.index()].map(|i| f.ops[i].loc.clone());
            divides(ty, &layout, d, &made.unwrap_or_default())?;
            layouts.push(layout.join(","));
        }
        f.attrs.set(keys::LAYOUTS, Attr::strs(&layouts));
    }
    Ok(())
}

/// The layout of a parameter's optimizer state, where its weights have `layout`: ZeRO divides it over the ranks that
/// have the same weights. Expert ranks have different experts; `divide-state`, which goes on from here, knows data
/// ranks only.
fn divided_state<'a>(cx: &PassCx, ty: &TensorType, mut layout: Vec<&'a str>) -> Vec<&'a str> {
    let d = cx.degrees;
    let mut axes = vec![];
    if cx.zero_stage >= 1 {
        axes.extend((d.data > 1).then_some("data"));
        let alone = cx.zero_stage == 1 || d.data == 1;
        axes.extend((d.expert > 1 && alone && !layout.contains(&"expert")).then_some("expert"));
    }
    for axis in axes {
        // Along the outermost dim that can be divided; layers stay together.
        let free = |i: &usize| {
            let dim = &ty.dims[*i];
            let divides = dim.size.is_multiple_of(d.of(axis));
            layout[*i].is_empty() && &*dim.name != "layer" && divides
        };
        if let Some(i) = (0..layout.len()).find(free) {
            layout[i] = axis;
        }
    }
    layout
}

/// Refuses a layout whose axes do not divide the dims of a value that comes from `loc`.
fn divides(ty: &TensorType, layout: &[&str], d: Degrees, loc: &Loc) -> Result<(), PassError> {
    for (dim, axis) in ty.dims.iter().zip(layout) {
        let ranks = d.of(axis);
        if !dim.size.is_multiple_of(ranks) {
            let d = undivided_dim(ranks, axis, dim.size, &dim.name, &loc.spans());
            return Err(d.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use neoxc_ir::target::Target;
    use neoxc_ir::{Attrs, Builder};

    use super::*;

    #[test]
    fn ranks_that_do_not_divide_heads_are_refused_with_the_line_that_asks_for_them() {
        let mut f = Function::new("train_step");
        let role = Attrs::new()
            .with(keys::ROLE, Attr::Str("param".into()))
            .with(keys::PARAM, Attr::Str("w".into()))
            .with(keys::TENSOR, Attr::strs(&["heads"]));
        let w = f.add_param("w", TensorType::f32(&[("heads", 4), ("embed", 2)]), role);
        let mut b = Builder::new(&mut f);
        b.at(&Loc::file("14M.yml", 3, 5));
        let sum = b.add(w, w).unwrap();
        f.results.push(sum);
        let mut m = Module::new();
        m.insert(f);
        let degrees = |tensor| PassCx {
            degrees: Degrees { tensor, ..Degrees::ONE },
            ..PassCx::new(Target::X86V4)
        };
        run(&mut m.clone(), &degrees(2)).unwrap();
        let Err(PassError::Refused(d)) = run(&mut m, &degrees(3)) else { panic!("not refused") };
        assert_eq!((d.kind.code, d.kind.exit), ("NX0201", 3));
        assert_eq!(
            d.message,
            "3 ranks of the `tensor` axis do not divide the 4 elements of `heads`"
        );
        assert_eq!(d.labels[0].span.to_string(), "14M.yml:3:5");
    }
}
