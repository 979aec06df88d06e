//! `neox.matmul`: contraction of two tensors over named dims.

use std::sync::Arc;

use super::prelude::*;

/// `neox.matmul`.
pub struct Matmul;

/// The roles of the dims of a matmul, each in the operand's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// In both operands and the result.
    pub batch: Vec<Dim>,
    /// Only in the first operand.
    pub m: Vec<Dim>,
    /// Only in the second operand.
    pub n: Vec<Dim>,
    /// In both operands, summed over.
    pub k: Vec<Dim>,
}

/// The dims named by `contract`.
pub fn contracted(attrs: &Attrs) -> Result<Vec<&str>, OpError> {
    let text = attrs.str("contract").ok_or_else(|| OpError::new("needs the string `contract`"))?;
    Ok(text.split(',').filter(|s| !s.is_empty()).collect())
}

/// Sorts the dims of both operands into roles.
pub fn roles(a: &TensorType, b: &TensorType, attrs: &Attrs) -> Result<Roles, OpError> {
    let contract = contracted(attrs)?;
    let mut k = vec![];
    for (i, name) in contract.iter().copied().enumerate() {
        if contract[..i].contains(&name) {
            return Err(OpError::new(format!("`contract` names `{name}` twice")));
        }
        match (a.size(name), b.size(name)) {
            (Some(x), Some(y)) if x == y => k.push(Dim::new(name, x)),
            _ => {
                return Err(OpError::new(format!("cannot contract `{name}` of {a} and {b}")));
            }
        }
    }
    let contracts = |name: &Arc<str>| k.iter().any(|d| d.name == *name);
    let mut roles = Roles { batch: vec![], m: vec![], n: vec![], k: vec![] };
    for d in a.dims.iter().filter(|d| !contracts(&d.name)) {
        match b.size(&d.name) {
            Some(s) if s == d.size => roles.batch.push(d.clone()),
            Some(_) => return Err(OpError::new(format!("sizes of `{}` differ: {a}, {b}", d.name))),
            None => roles.m.push(d.clone()),
        }
    }
    let free = b.dims.iter().filter(|d| !contracts(&d.name) && !a.has(&d.name));
    roles.n.extend(free.cloned());
    roles.k = k;
    Ok(roles)
}

impl OpDef for Matmul {
    frame! {
        matmul(a, b) -> (result),
        "Contraction over the comma-separated dims `contract`. Dims that both operands have and that \
         are not contracted are batch dims; the result has batch dims, then the free dims of `a`, \
         then those of `b`. 16-bit operands give f32, the precision of the sum.",
        class Contraction,
        precision (Low) -> (Low),
        attrs &[required("contract", AttrKind::Str, "dims summed over, comma-separated")],
    }

    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (a, b) = (&cx.operands[0], &cx.operands[1]);
        if a.dtype != b.dtype || !a.dtype.is_float() {
            return Err(OpError::new(format!("cannot multiply {a} and {b}")));
        }
        let r = roles(a, b, cx.attrs)?;
        let dims = [r.batch, r.m, r.n].concat();
        Ok(vec![TensorType::new(a.dtype.wide(), dims)])
    }

    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let (a, b) = (cx.operand(0), cx.operand(1));
        let (at, bt) = (cx.b.ty(a).clone(), cx.b.ty(b).clone());
        let r = roles(&at, &bt, &cx.op.attrs)?;
        let dy = cx.b.cast(dy, at.dtype)?;
        let grad = |cx: &mut GradCx<'_, '_>, other, over: &[Dim], like: &TensorType| {
            let contract: Vec<&str> = over.iter().map(|d| &*d.name).collect();
            let d = cx.b.matmul(dy, other, &contract)?;
            let order: Vec<&str> = like.dims.iter().map(|d| &*d.name).collect();
            let d = cx.b.transpose_to(d, &order)?;
            cx.b.cast(d, like.dtype)
        };
        let da = grad(cx, b, &r.n, &at)?;
        let db = grad(cx, a, &r.m, &bt)?;
        Ok(Gradient::Operands(vec![Some(da), Some(db)]))
    }

    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::by_dim(cx, |dim| match cx.results[0].has(dim) {
            true => ShardEffect::Parallel,
            false => ShardEffect::Partial,
        })
        .sums(Sums::Each)
    }

    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        let k: usize = contracted(cx.attrs)
            .unwrap_or_default()
            .iter()
            .filter_map(|n| cx.operands[0].size(n))
            .product();
        Cost::streaming(cx, 2.0 * cx.results[0].elements() as f64 * k as f64)
    }

    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (cx.operands[0], cx.operands[1]);
        let r = roles(&a.ty, &b.ty, cx.rule.attrs)?;
        let out = cx.rule.results[0].clone();
        // One type that holds every dim once, so that both operands can be addressed by name.
        let inner = TensorType::new(out.dtype, r.k);
        let all = TensorType::new(out.dtype, [out.dims.clone(), inner.dims.clone()].concat());
        let mut index = vec![0; all.dims.len()];
        Ok(vec![Tensor::from_fn(out, |outer| {
            index[..outer.len()].copy_from_slice(outer);
            let mut sum = 0.0;
            for _ in 0..inner.elements() {
                sum += a.at_named(&all, &index) * b.at_named(&all, &index);
                crate::eval::advance(&mut index[outer.len()..], &inner);
            }
            sum
        })])
    }

    fn decompose(
        &self,
        _b: &mut Builder<'_>,
        _operands: &[ValueId],
        _attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        Ok(Decomposition::Primitive)
    }
}
