//! The updates of parameters: the functions that an optimizer's declaration makes, and the ops that call them.
//!
//! ```text
//! element by element:  %w', %m' = map(%w, %g, %m, %lr, %clip) {callee = @update}
//! as matrices:         %d = map(%g, %m, %lr, %clip) {callee = @direction}    %x = reshape(%d) [layer, row, column]
//!                      %o = what the optimizer makes of %x, shaped like %w
//!                      %w', %m' = map(%w, %g, %m, %lr, %clip, %o) {callee = @update_matrix}
//! ```
//! In both forms one map makes all that is new of a parameter, so that it is divided, placed and stored alike. What is
//! made of whole matrices lies between two maps, where `partition-program` gathers and divides as it does everywhere.

use neoxc_ir::{Attr, Attrs, Builder, Dim, Module, OpKind, TensorType, ValueId, keys};
use neoxc_optimizers::{Form, Settings, WEIGHT_DECAY, build, direction};

use super::unsupported;
use crate::pass::PassError;

/// A function that updates parameters of one form, learning rate and weight decay.
struct Made {
    form: Form,
    rate: f64,
    decay: f64,
    name: String,
    /// How many parameters have it.
    count: usize,
}

/// What updates a parameter.
#[derive(Clone)]
pub struct Chosen {
    /// How.
    pub form: Form,
    /// The function.
    name: String,
}

/// The functions that update parameters.
pub struct Updates<'s> {
    settings: &'s Settings,
    all: Vec<Made>,
    direction: Option<String>,
}

impl<'s> Updates<'s> {
    /// None so far.
    pub fn new(settings: &'s Settings) -> Updates<'s> {
        Updates { settings, all: vec![], direction: None }
    }

    /// What updates a parameter of this type, with these attributes.
    pub fn of(
        &mut self,
        m: &mut Module,
        ty: &TensorType,
        attrs: &Attrs,
    ) -> Result<Chosen, PassError> {
        let form = match self.settings.optimizer.matrix.is_some() && matrix(ty, attrs).is_some() {
            true => Form::Matrix,
            false => Form::Elements,
        };
        let rate = attrs.float(keys::RATE).unwrap_or(1.0);
        let usual = self.settings.get(WEIGHT_DECAY.name);
        let decay = match attrs.flag(keys::DECAY) {
            true => attrs.float(keys::WEIGHT_DECAY).unwrap_or(usual),
            false => 0.0,
        };
        let same = |u: &&mut Made| (u.form, u.rate, u.decay) == (form, rate, decay);
        if let Some(u) = self.all.iter_mut().find(same) {
            u.count += 1;
            return Ok(Chosen { form, name: u.name.clone() });
        }
        let lost = || unsupported("the optimizer has no such weight decay");
        let settings = self.settings.clone().with(WEIGHT_DECAY.name, decay).ok_or_else(lost)?;
        let name = m.fresh_name(match form {
            Form::Matrix => "update_matrix",
            Form::Elements if decay == 0.0 => "update",
            Form::Elements => "update_decayed",
        });
        m.insert(build(&name, &settings, form, rate)?);
        if form == Form::Matrix && self.direction.is_none() {
            let name = m.fresh_name("direction");
            m.insert(direction(&name, &settings)?);
            self.direction = Some(name);
        }
        self.all.push(Made { form, rate, decay, name: name.clone(), count: 1 });
        Ok(Chosen { form, name })
    }

    /// A sentence for each, where parameters differ by more than whether they decay.
    pub fn notes(&self) -> Vec<String> {
        let usual = self.settings.get(WEIGHT_DECAY.name);
        let plain = |u: &Made| {
            u.form == Form::Elements && u.rate == 1.0 && (u.decay == 0.0 || u.decay == usual)
        };
        if self.all.iter().all(plain) {
            return vec![];
        }
        let one = |u: &Made| {
            let Made { rate, decay, name, count, .. } = u;
            format!("@{name}: {count} parameters, learning rate × {rate}, weight decay {decay}")
        };
        self.all.iter().map(one).collect()
    }

    /// New weights and state of a parameter `w` with gradient `g`, given `rest`: state, scalars and the scale of the
    /// gradient.
    pub fn emit(
        &self,
        b: &mut Builder<'_>,
        chosen: &Chosen,
        (w, attrs): (ValueId, &Attrs),
        g: ValueId,
        rest: &[ValueId],
    ) -> Result<Vec<ValueId>, PassError> {
        let slots = self.settings.optimizer.slots(self.settings, chosen.form).len();
        let mut operands = [&[w, g], rest].concat();
        if chosen.form == Form::Matrix {
            let lost = || unsupported("a matrix is updated without a direction");
            let (matrix, ty) = (matrix(b.ty(w), attrs).ok_or_else(lost)?, b.ty(w).clone());
            let name = self.direction.as_deref().ok_or_else(lost)?;
            let direction = map(b, name, &[&[g], rest].concat(), 1)?[0];
            let seen = b.reshape(direction, &matrix)?;
            let whole = self.settings.optimizer.matrix.as_ref().ok_or_else(lost)?.whole;
            let made = whole(b, seen, self.settings)?;
            operands.push(b.reshape(made, &ty.dims)?);
        }
        map(b, &chosen.name, &operands, 1 + slots)
    }
}

fn map(
    b: &mut Builder<'_>,
    callee: &str,
    operands: &[ValueId],
    results: usize,
) -> Result<Vec<ValueId>, PassError> {
    let attrs = Attrs::new()
        .with("callee", Attr::Symbol(callee.into()))
        .with("results", Attr::Int(results as i64));
    Ok(b.op(OpKind::Map, operands, attrs)?)
}

/// The dims of a layer's parameter as matrices, `row` and `column` last, as its published shape has them; none of what is
/// of no layer, and of vectors.
fn matrix(ty: &TensorType, attrs: &Attrs) -> Option<Vec<Dim>> {
    let [layer, dims @ ..] = &ty.dims[..] else { return None };
    let shape: Vec<usize> = attrs.ints(keys::SHAPE)?.iter().map(|n| *n as usize).collect();
    let [several @ .., rows, columns] = &shape[..] else { return None };
    if &*layer.name != "layer" {
        return None;
    }
    // Where experts each have a matrix, their dim stands in front of it.
    let several: usize = several.iter().product();
    let first = (0..=dims.len())
        .find(|n| dims[..*n].iter().map(|d| d.size).product::<usize>() == several)?;
    let mut out: Vec<Dim> = ty.dims[..=first].to_vec();
    out.extend([Dim::new("row", *rows), Dim::new("column", *columns)]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_has_the_rows_and_columns_that_are_published() {
        let seen = |dims: &[(&str, usize)], shape: &[i64]| {
            let attrs = Attrs::new().with(keys::SHAPE, Attr::ints(shape));
            let found = matrix(&TensorType::f32(dims), &attrs);
            found.map(|d| d.iter().map(|d| (d.name.to_string(), d.size)).collect::<Vec<_>>())
        };
        let is = |dims: &[(&str, usize)]| {
            Some(dims.iter().map(|(n, s)| (n.to_string(), *s)).collect::<Vec<_>>())
        };
        let qkv = [("layer", 2), ("heads", 4), ("qkv", 3), ("head_dim", 5), ("embed", 20)];
        assert_eq!(seen(&qkv, &[60, 20]), is(&[("layer", 2), ("row", 60), ("column", 20)]));
        let dense = [("layer", 2), ("embed", 20), ("heads", 4), ("head_dim", 5)];
        assert_eq!(seen(&dense, &[20, 20]), is(&[("layer", 2), ("row", 20), ("column", 20)]));
        let expert = [("layer", 2), ("experts", 3), ("embed", 4), ("ffn", 7)];
        let want = is(&[("layer", 2), ("experts", 3), ("row", 4), ("column", 7)]);
        assert_eq!(seen(&expert, &[3, 4, 7]), want);
        assert_eq!(seen(&[("layer", 2), ("embed", 20)], &[20]), None);
        assert_eq!(seen(&[("vocab", 8), ("embed", 20)], &[8, 20]), None);
    }
}
