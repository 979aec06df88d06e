//! An optimizer with the values of its hyper-parameters: text on a module, `adam beta1=0.9 beta2=0.95 eps=1e-8`.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Optimizer, find};

/// A configured optimizer.
#[derive(Clone)]
pub struct Settings {
    /// Which one.
    pub optimizer: &'static Optimizer,
    values: BTreeMap<&'static str, f64>,
}

impl Settings {
    /// `optimizer` with its defaults.
    pub fn new(optimizer: &'static Optimizer) -> Settings {
        let values = optimizer.hypers.iter().map(|h| (h.name, h.default)).collect();
        Settings { optimizer, values }
    }

    /// The value of a hyper-parameter; 0 of one that the optimizer does not have.
    pub fn get(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or(0.0)
    }

    /// Every hyper-parameter and its value.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.values.iter().map(|(name, x)| (*name, *x))
    }

    /// The same with another value of one hyper-parameter; none where the optimizer does not have it, or not with this
    /// value.
    #[must_use]
    pub fn with(mut self, name: &str, value: f64) -> Option<Settings> {
        let hyper = self.optimizer.hypers.iter().find(|h| h.name == name)?;
        hyper.range.has(value).then(|| self.values.insert(hyper.name, value))?;
        Some(self)
    }

    /// Reads what [`Settings`] displays; the hyper-parameters it does not name have their defaults.
    pub fn parse(text: &str) -> Option<Settings> {
        let mut words = text.split_whitespace();
        let start = Settings::new(find(words.next()?)?);
        words.try_fold(start, |settings, word| {
            let (name, value) = word.split_once('=')?;
            settings.with(name, value.parse().ok()?)
        })
    }

    /// `formula` with the values of hyper-parameters in the place of their names.
    pub fn substituted(&self, formula: &str) -> String {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let mut out = String::new();
        let mut rest = formula;
        while let Some(c) = rest.chars().next() {
            let end = match part(c) {
                true => rest.find(|c| !part(c)).unwrap_or(rest.len()),
                false => c.len_utf8(),
            };
            let (word, behind) = rest.split_at(end);
            match self.values.get(word) {
                Some(value) => out.push_str(&value.to_string()),
                None => out.push_str(word),
            }
            rest = behind;
        }
        out
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.optimizer.name())?;
        // In the order of the declaration. `{:?}` is the shortest text that reads back as the same number.
        self.optimizer
            .hypers
            .iter()
            .try_for_each(|h| write!(f, " {}={:?}", h.name, self.get(h.name)))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Settings) -> bool {
        self.to_string() == other.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ALL;

    #[test]
    fn what_is_displayed_is_read_back() {
        for o in ALL {
            let mut settings = Settings::new(o);
            assert_eq!(Settings::parse(&settings.to_string()), Some(settings.clone()));
            for h in o.hypers {
                let other = [0.3, 1.0].into_iter().find(|x| h.range.has(*x)).unwrap();
                settings = settings.with(h.name, other).unwrap();
                assert_eq!(settings.get(h.name), other);
            }
            assert_eq!(Settings::parse(&settings.to_string()), Some(settings.clone()));
            assert_eq!(settings.clone().with(o.hypers[0].name, f64::NAN), None);
            assert_eq!(settings.with("colour", 1.0), None);
        }
        for wrong in ["", "momentous", "adam beta1", "adam beta1=x", "adam beta1=2", "adam x=1"] {
            assert_eq!(Settings::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn formulas_get_numbers_for_names() {
        let adam = Settings::parse("adam beta1=0.75").unwrap();
        assert_eq!(adam.substituted("1 - beta1^step + beta10"), "1 - 0.75^step + beta10");
    }
}
