//! Formulas of the numbers that a step is given: `1 - 0.9^step`, over the step's number and the schedule's learning rate.
//!
//! ```text
//! sum    = factor (("+" | "-") factor)*
//! factor = power (("*" | "/") power)*
//! power  = unary ("^" power)?
//! unary  = "-" unary | number | "step" | "lr" | "loss_scale" | ("min" | "max") "(" sum "," sum ")" | "(" sum ")"
//! ```
//! Values are f64. A power of a whole number is repeated multiplication, so that it is the same on every machine.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most brackets and signs inside each other: a formula is text from a file.
const MAX_DEPTH: usize = 64;

/// A formula that could be read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Formula {
    text: String,
    term: Term,
}

#[derive(Debug, Clone, PartialEq)]
enum Term {
    Number(f64),
    Step,
    Rate,
    Scale,
    Neg(Box<Term>),
    Two(Two, Box<Term>, Box<Term>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Two {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Min,
    Max,
}

impl Formula {
    /// Reads a formula.
    ///
    /// # Errors
    /// Says where it stops being one.
    pub fn parse(text: &str) -> Result<Formula, String> {
        let mut r = Reader { text, at: 0, depth: 0 };
        let term = r.sum()?;
        match r.peek() {
            None => Ok(Formula { text: text.to_string(), term }),
            Some(_) => Err(r.wrong("an operator or the end")),
        }
    }

    /// Its value before a step.
    pub fn value(&self, given: Given) -> f64 {
        self.term.value(given)
    }
}

/// What formulas know of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Given {
    /// Its number among the steps that changed the weights, counted from 1.
    pub step: u64,
    /// The schedule's learning rate.
    pub lr: f64,
    /// What the loss is multiplied by; 1 but in fp16.
    pub loss_scale: f64,
}

impl Term {
    fn value(&self, given: Given) -> f64 {
        match self {
            Term::Number(x) => *x,
            Term::Step => given.step as f64,
            Term::Rate => given.lr,
            Term::Scale => given.loss_scale,
            Term::Neg(x) => -x.value(given),
            Term::Two(op, a, b) => {
                let (a, b) = (a.value(given), b.value(given));
                match op {
                    Two::Add => a + b,
                    Two::Sub => a - b,
                    Two::Mul => a * b,
                    Two::Div => a / b,
                    Two::Pow if b.fract() == 0.0 && b.abs() <= f64::from(i32::MAX) => {
                        a.powi(b as i32)
                    }
                    Two::Pow => a.powf(b),
                    Two::Min => a.min(b),
                    Two::Max => a.max(b),
                }
            }
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn wrong(&self, wanted: &str) -> String {
        format!("`{}` is no formula: {wanted} is missing at byte {}", self.text, self.at)
    }

    /// The next character that is no blank.
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text[self.at..].chars().next()
    }

    fn takes(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    fn needs(&mut self, c: char) -> Result<(), String> {
        if self.takes(c) { Ok(()) } else { Err(self.wrong(&format!("`{c}`"))) }
    }

    fn chain(
        &mut self,
        ops: [(char, Two); 2],
        next: fn(&mut Self) -> Result<Term, String>,
    ) -> Result<Term, String> {
        let mut left = next(self)?;
        while let Some((_, op)) = ops.into_iter().find(|(c, _)| self.takes(*c)) {
            left = Term::Two(op, Box::new(left), Box::new(next(self)?));
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Term, String> {
        self.chain([('+', Two::Add), ('-', Two::Sub)], Self::factor)
    }

    fn factor(&mut self) -> Result<Term, String> {
        self.chain([('*', Two::Mul), ('/', Two::Div)], Self::power)
    }

    fn power(&mut self) -> Result<Term, String> {
        let base = self.unary()?;
        if !self.takes('^') {
            return Ok(base);
        }
        let exponent = self.deeper(Self::power)?;
        Ok(Term::Two(Two::Pow, Box::new(base), Box::new(exponent)))
    }

    fn deeper(&mut self, next: fn(&mut Self) -> Result<Term, String>) -> Result<Term, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.wrong("an end of brackets"));
        }
        let term = next(self);
        self.depth -= 1;
        term
    }

    fn unary(&mut self) -> Result<Term, String> {
        if self.takes('-') {
            return Ok(Term::Neg(Box::new(self.deeper(Self::unary)?)));
        }
        if self.takes('(') {
            let inside = self.deeper(Self::sum)?;
            self.needs(')')?;
            return Ok(inside);
        }
        self.peek();
        let rest = &self.text[self.at..];
        let letters =
            rest.find(|c: char| !c.is_ascii_alphabetic() && c != '_').unwrap_or(rest.len());
        if letters == 0 {
            return self.number();
        }
        let pair = match &rest[..letters] {
            "step" => Err(Term::Step),
            "lr" => Err(Term::Rate),
            "loss_scale" => Err(Term::Scale),
            "min" => Ok(Two::Min),
            "max" => Ok(Two::Max),
            _ => return Err(self.wrong("a number or a name")),
        };
        self.at += letters;
        match pair {
            Err(term) => Ok(term),
            Ok(op) => {
                self.needs('(')?;
                let a = self.deeper(Self::sum)?;
                self.needs(',')?;
                let b = self.deeper(Self::sum)?;
                self.needs(')')?;
                Ok(Term::Two(op, Box::new(a), Box::new(b)))
            }
        }
    }

    fn number(&mut self) -> Result<Term, String> {
        let rest = &self.text[self.at..];
        let digit = |c: char| c.is_ascii_digit() || c == '.';
        let mut end = rest.find(|c| !digit(c)).unwrap_or(rest.len());
        if let Some(exponent) = rest[end..].strip_prefix('e') {
            let sign = usize::from(exponent.starts_with(['-', '+']));
            let digits = exponent[sign..].find(|c: char| !c.is_ascii_digit());
            end += 1 + sign + digits.unwrap_or(exponent.len() - sign);
        }
        let value = rest[..end].parse().map_err(|_| self.wrong("a number or a name"))?;
        self.at += end;
        Ok(Term::Number(value))
    }
}

impl TryFrom<String> for Formula {
    type Error = String;

    fn try_from(text: String) -> Result<Formula, String> {
        Formula::parse(&text)
    }
}

impl From<Formula> for String {
    fn from(f: Formula) -> String {
        f.text
    }
}

impl fmt::Display for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_rules_of_arithmetic() {
        for (text, want) in [
            ("lr", 0.5),
            ("1 - 0.9^step", 1.0 - 0.9f64.powi(3)),
            ("1-2-3", -4.0),
            ("2 * 3 + 4 / 8", 6.5),
            ("2^3^2", 512.0),
            ("-2^2", 4.0),
            ("-(2^2)", -4.0),
            ("1e-3 * 2.5e2", 0.25),
            ("1 - 0.25 * min(1, step - 1)", 0.75),
            ("max(step, 7) / (1 + lr)", 7.0 / 1.5),
            ("4^lr", 2.0),
            ("loss_scale / 2", 8.0),
        ] {
            let f = Formula::parse(text).unwrap();
            assert_eq!(f.value(Given { step: 3, lr: 0.5, loss_scale: 16.0 }), want, "{text}");
            assert_eq!(f.to_string(), text);
        }
        let first = Formula::parse("1 - 0.25 * min(1, step - 1)").unwrap();
        assert_eq!(first.value(Given { step: 1, lr: 0.5, loss_scale: 1.0 }), 1.0);
    }

    #[test]
    fn what_is_no_formula_is_refused() {
        let deep = "(".repeat(1000);
        let signs = "-".repeat(1000);
        for text in [
            "",
            "1 +",
            "beta1^step",
            "step step",
            "min(1)",
            "(1",
            "1.2.3",
            "é",
            "1e",
            &deep,
            &signs,
        ] {
            assert!(Formula::parse(text).is_err_and(|e| e.contains("is no formula")), "{text}");
        }
    }
}
