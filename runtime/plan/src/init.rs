//! How a parameter starts: an expression of what is drawn for an element and of where the element is.
//!
//! ```text
//! 0        1        0.02 * normal        log(1 + index(1))        exp(2.3 * uniform - 6.9)
//! ```
//! `normal` is the element's draw from the normal distribution around 0 with deviation 1, `uniform` its draw from
//! (0, 1), `index(k)` the element's index along dim k of the published shape, counted from 0. Numbers, `+ - * /`,
//! `min(a, b)`, `max(a, b)`, `exp`, `log` and `sqrt` are computed in f64; the value is rounded to f32 once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Expressions nested deeper than this are refused.
const MAX_DEPTH: usize = 32;

/// Longer texts are refused, bytes: nothing that walks an expression goes deeper than it is long.
const MAX_BYTES: usize = 512;

/// A start value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Init {
    /// A number.
    Number(f64),
    /// The element's draw from the normal distribution around 0 with deviation 1.
    Normal,
    /// The element's draw from (0, 1).
    Uniform,
    /// The element's index along a dim of the published shape.
    Index(usize),
    /// A function of one value.
    Of(Function, Box<Init>),
    /// Two values combined.
    Both(Operator, Box<Init>, Box<Init>),
}

/// A function of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Negation.
    Neg,
    /// e to the power of the value.
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
}

/// What combines two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// `a · b`.
    Mul,
    /// Quotient.
    Div,
    /// The smaller one.
    Min,
    /// The larger one.
    Max,
}

impl Operator {
    /// How it is written between values, and how tightly it binds; none of what is written as a function.
    fn sign(self) -> Option<(char, u8)> {
        match self {
            Operator::Add => Some(('+', 1)),
            Operator::Sub => Some(('-', 1)),
            Operator::Mul => Some(('*', 2)),
            Operator::Div => Some(('/', 2)),
            Operator::Min | Operator::Max => None,
        }
    }
}

/// What an expression may ask of an element.
#[derive(Debug, Clone, Copy)]
pub struct Element<'a> {
    /// Its draw from the normal distribution.
    pub normal: f64,
    /// Its draw from (0, 1).
    pub uniform: f64,
    /// Its index along each dim of the published shape.
    pub index: &'a [u64],
}

impl Init {
    /// The value of one element.
    pub fn value(&self, e: &Element<'_>) -> f64 {
        match self {
            Init::Number(x) => *x,
            Init::Normal => e.normal,
            Init::Uniform => e.uniform,
            Init::Index(dim) => e.index.get(*dim).map_or(0.0, |i| *i as f64),
            Init::Of(f, x) => {
                let x = x.value(e);
                match f {
                    Function::Neg => -x,
                    Function::Exp => x.exp(),
                    Function::Log => x.ln(),
                    Function::Sqrt => x.sqrt(),
                }
            }
            Init::Both(op, x, y) => {
                let (x, y) = (x.value(e), y.value(e));
                match op {
                    Operator::Add => x + y,
                    Operator::Sub => x - y,
                    Operator::Mul => x * y,
                    Operator::Div => x / y,
                    Operator::Min => x.min(y),
                    Operator::Max => x.max(y),
                }
            }
        }
    }

    /// Whether `part`, or a part of it, is such.
    pub fn any(&self, is: &dyn Fn(&Init) -> bool) -> bool {
        let inside = match self {
            Init::Of(_, x) => x.any(is),
            Init::Both(_, x, y) => x.any(is) || y.any(is),
            _ => false,
        };
        inside || is(self)
    }

    fn both(op: Operator, x: Init, y: Init) -> Init {
        Init::Both(op, Box::new(x), Box::new(y))
    }

    /// Writes it where an operator that binds as tightly as `around` stands beside it.
    fn write(&self, f: &mut fmt::Formatter<'_>, around: u8) -> fmt::Result {
        match self {
            // A sign of its own needs no parentheses at the beginning only.
            Init::Number(x) if x.is_sign_negative() && around > 0 => write!(f, "({x:?})"),
            Init::Number(x) => write!(f, "{x:?}"),
            Init::Normal => f.write_str("normal"),
            Init::Uniform => f.write_str("uniform"),
            Init::Index(dim) => write!(f, "index({dim})"),
            Init::Of(function, x) => {
                let name = match function {
                    Function::Neg => "neg",
                    Function::Exp => "exp",
                    Function::Log => "log",
                    Function::Sqrt => "sqrt",
                };
                write!(f, "{name}({x})")
            }
            Init::Both(op, x, y) => {
                let Some((sign, tight)) = op.sign() else {
                    let name = if *op == Operator::Min { "min" } else { "max" };
                    return write!(f, "{name}({x}, {y})");
                };
                let open = tight < around;
                f.write_str(if open { "(" } else { "" })?;
                x.write(f, tight)?;
                write!(f, " {sign} ")?;
                y.write(f, tight + 1)?;
                f.write_str(if open { ")" } else { "" })
            }
        }
    }
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl From<Init> for String {
    fn from(init: Init) -> String {
        init.to_string()
    }
}

impl TryFrom<String> for Init {
    type Error = String;
    fn try_from(text: String) -> Result<Init, String> {
        text.parse()
    }
}

impl FromStr for Init {
    type Err = String;
    fn from_str(text: &str) -> Result<Init, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("a start value of {} bytes is too long", text.len()));
        }
        let mut p = Parser { rest: text };
        let init = p.sum(0).map_err(|e| format!("`{text}` is no start value: {e}"))?;
        match p.rest.trim() {
            "" => Ok(init),
            rest => Err(format!("`{text}` is no start value: `{rest}` is too much")),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn eat(&mut self, c: char) -> bool {
        let rest = self.rest.trim_start().strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn need(&mut self, c: char) -> Result<(), String> {
        if self.eat(c) { Ok(()) } else { Err(format!("`{c}` is missing")) }
    }

    fn sum(&mut self, depth: usize) -> Result<Init, String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply".into());
        }
        let mut x = self.term(depth)?;
        loop {
            let op = match () {
                _ if self.eat('+') => Operator::Add,
                _ if self.eat('-') => Operator::Sub,
                _ => return Ok(x),
            };
            x = Init::both(op, x, self.term(depth)?);
        }
    }

    fn term(&mut self, depth: usize) -> Result<Init, String> {
        let mut x = self.factor(depth)?;
        loop {
            let op = match () {
                _ if self.eat('*') => Operator::Mul,
                _ if self.eat('/') => Operator::Div,
                _ => return Ok(x),
            };
            x = Init::both(op, x, self.factor(depth)?);
        }
    }

    fn factor(&mut self, depth: usize) -> Result<Init, String> {
        if self.eat('(') {
            let x = self.sum(depth + 1)?;
            self.need(')')?;
            return Ok(x);
        }
        let text = self.rest.trim_start();
        if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            return self.number();
        }
        let end = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        self.rest = rest;
        let function = |f| move |x| Init::Of(f, Box::new(x));
        match name {
            "normal" => Ok(Init::Normal),
            "uniform" => Ok(Init::Uniform),
            "index" => {
                self.need('(')?;
                let Init::Number(dim) = self.number()? else { return Err("no number".into()) };
                self.need(')')?;
                let whole = dim.fract() == 0.0 && (0.0..8.0).contains(&dim);
                whole.then_some(Init::Index(dim as usize)).ok_or(format!("no dim {dim}"))
            }
            "neg" => self.of_one(depth).map(function(Function::Neg)),
            "exp" => self.of_one(depth).map(function(Function::Exp)),
            "log" => self.of_one(depth).map(function(Function::Log)),
            "sqrt" => self.of_one(depth).map(function(Function::Sqrt)),
            "min" => self.of_two(depth, Operator::Min),
            "max" => self.of_two(depth, Operator::Max),
            _ => Err(format!("nothing is called `{name}`")),
        }
    }

    fn of_one(&mut self, depth: usize) -> Result<Init, String> {
        self.need('(')?;
        let x = self.sum(depth + 1)?;
        self.need(')')?;
        Ok(x)
    }

    fn of_two(&mut self, depth: usize, op: Operator) -> Result<Init, String> {
        self.need('(')?;
        let x = self.sum(depth + 1)?;
        self.need(',')?;
        let y = self.sum(depth + 1)?;
        self.need(')')?;
        Ok(Init::both(op, x, y))
    }

    fn number(&mut self) -> Result<Init, String> {
        let text = self.rest.trim_start();
        let bytes = text.as_bytes();
        let digit = |i: usize| bytes.get(i).is_some_and(|c| c.is_ascii_digit() || *c == b'.');
        let mut end = usize::from(bytes.first() == Some(&b'-'));
        while digit(end) {
            end += 1;
        }
        if bytes.get(end) == Some(&b'e') {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
            let first = end + 1 + sign;
            if digit(first) {
                end = first;
                while digit(end) {
                    end += 1;
                }
            }
        }
        let (number, rest) = text.split_at(end);
        let x: f64 = number.parse().map_err(|_| format!("`{number}` is no number"))?;
        self.rest = rest;
        if x.is_finite() { Ok(Init::Number(x)) } else { Err(format!("{number} is too large")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_print_what_they_parse() {
        let e = Element { normal: -1.5, uniform: 0.25, index: &[3, 7] };
        for (text, printed, value) in [
            ("0", "0.0", 0.0),
            ("1", "1.0", 1.0),
            ("0.02 * normal", "0.02 * normal", -0.03),
            ("1e-5*normal", "1e-5 * normal", -1.5e-5),
            ("log(1 + index(1))", "log(1.0 + index(1))", 8f64.ln()),
            ("index(0) - (2 - uniform)", "index(0) - (2.0 - uniform)", 1.25),
            ("8 / 2 / 2", "8.0 / 2.0 / 2.0", 2.0),
            ("(1 + 2) * -3", "(1.0 + 2.0) * (-3.0)", -9.0),
            ("max(uniform, neg(normal))", "max(uniform, neg(normal))", 1.5),
            ("min(exp(0), sqrt(4))", "min(exp(0.0), sqrt(4.0))", 1.0),
        ] {
            let init: Init = text.parse().unwrap();
            assert_eq!(init.to_string(), printed);
            assert_eq!(printed.parse::<Init>().unwrap(), init, "{text}");
            assert!((init.value(&e) - value).abs() < 1e-12, "{text}: {}", init.value(&e));
        }
    }

    #[test]
    fn what_is_no_start_value_is_refused() {
        let (deep, long) = ("(".repeat(200), "1+".repeat(1000) + "1");
        let bad = ["", "normal:0.02", "1 +", "sin(1)", "index(9)", "index(0.5)", "1e999", "1 2"];
        for text in bad.into_iter().chain(["max(1)", &deep, &long]) {
            assert!(text.parse::<Init>().is_err(), "{text}");
        }
    }
}
