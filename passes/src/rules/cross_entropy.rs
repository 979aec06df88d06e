//! The head and the loss as one op, which never holds all logits.

use neoxc_ir::{Attr, Attrs, DType, OpKind, TensorType};

use super::{Instance, Numerics, Rule};

/// The rules of this file.
pub static RULES: &[Rule] = &[Rule {
    name: "linear-cross-entropy",
    numerics: Numerics::Exact,
    left: "(r0 (cross_entropy (matmul ?x ?w ?c) ?labels ?over))",
    right: "(r0 (linear_cross_entropy ?x ?w ?labels ?new))",
    attrs: |m| {
        let fits = m.attrs("?c")?.str("contract") == Some("embed")
            && m.attrs("?over")?.str("dim") == Some("vocab");
        fits.then(Attrs::new)
    },
    instance: |i: &mut Instance<'_>| {
        let dims = i.dims(&["batch", "seq", "embed", "vocab"]);
        let x = i.param("x", &dims[..3]);
        let w = i.param("w", &[dims[3].clone(), dims[2].clone()]);
        let ids = TensorType::new(DType::I32, dims[..2].to_vec());
        let labels = i.f.add_param("labels", ids, Attrs::new());
        let b = &mut i.b();
        let logits = b.matmul(x, w, &["embed"])?;
        let over = Attrs::new().with("dim", Attr::Str("vocab".into()));
        Ok(b.op(OpKind::CrossEntropy, &[logits, labels], over)?[0])
    },
}];
