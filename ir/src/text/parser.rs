//! Text → module.
//!
//! Accepts what the printer makes, with free white space, `//` comments, and MLIR's aliases of types
//! (`!x = tensor<4xf32, {dims = ["seq"]}>` above the module). Types are read, not
//! inferred; the verifier compares them with the rules.

use std::collections::HashMap;

use super::lexer::{Spanned, Token, lex};
use crate::attrs::{Attr, Attrs};
use crate::module::{Function, Loc, Module, Op, ValueId};
use crate::ops;
use crate::types::{DType, Dim, TensorType};

/// Where and why text is not a module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What was expected.
    pub message: String,
}

type Result<T> = std::result::Result<T, ParseError>;

/// Nesting depth of attributes and locations beyond which text is refused, not recursed into.
const MAX_DEPTH: usize = 64;

/// Parses a module.
pub fn parse(text: &str) -> Result<Module> {
    let tokens = lex(text)?;
    let mut p = Parser { tokens, at: 0, aliases: HashMap::new() };
    while let Token::Alias(name) = p.peek().clone() {
        p.next();
        p.expect("=")?;
        let ty = p.ty()?;
        p.aliases.insert(name, ty);
    }
    let module = p.module()?;
    match p.peek() {
        Token::End => Ok(module),
        _ => p.fail("expected the end of the text"),
    }
}

struct Parser {
    tokens: Vec<Spanned>,
    at: usize,
    aliases: HashMap<String, TensorType>,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].token
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        let Spanned { line, column, token } = &self.tokens[self.at];
        let got = match token {
            Token::End => " but the text ends".to_string(),
            Token::Word(s) | Token::Number(s) => format!(", got `{s}`"),
            Token::Value(s) => format!(", got `%{s}`"),
            Token::Symbol(s) => format!(", got `@{s}`"),
            Token::Alias(s) => format!(", got `!{s}`"),
            Token::Str(s) => format!(", got {s:?}"),
            Token::Punct(s) => format!(", got `{s}`"),
        };
        Err(ParseError { line: *line, column: *column, message: message.into() + &got })
    }

    fn is(&self, punct: &str) -> bool {
        matches!(self.peek(), Token::Punct(p) if *p == punct)
    }

    fn eat(&mut self, punct: &str) -> bool {
        let found = self.is(punct);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, punct: &str) -> Result<()> {
        if self.eat(punct) { Ok(()) } else { self.fail(format!("expected `{punct}`")) }
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(w) if w == word);
        if found {
            self.next();
        }
        found
    }

    fn word(&mut self, word: &str) -> Result<()> {
        if self.eat_word(word) { Ok(()) } else { self.fail(format!("expected `{word}`")) }
    }

    fn string(&mut self) -> Result<String> {
        match self.peek() {
            Token::Str(s) => {
                let s = s.clone();
                self.next();
                Ok(s)
            }
            _ => self.fail("expected a string"),
        }
    }

    fn u32(&mut self) -> Result<u32> {
        match self.peek() {
            Token::Number(n) => match n.parse() {
                Ok(n) => {
                    self.next();
                    Ok(n)
                }
                Err(_) => self.fail("expected a number below 2^32"),
            },
            _ => self.fail("expected a number"),
        }
    }

    fn module(&mut self) -> Result<Module> {
        self.word("module")?;
        let attrs = if self.eat_word("attributes") { self.attrs()? } else { Attrs::new() };
        self.expect("{")?;
        let mut functions = vec![];
        while !self.eat("}") {
            functions.push(self.function()?);
        }
        Ok(Module { attrs, functions })
    }

    fn function(&mut self) -> Result<Function> {
        self.word("func.func")?;
        let Token::Symbol(name) = self.peek().clone() else {
            return self.fail("expected `@name`");
        };
        self.next();
        let mut f = Function::new(&name);
        let mut names = HashMap::new();
        self.expect("(")?;
        while !self.eat(")") {
            if !f.params.is_empty() {
                self.expect(",")?;
            }
            let Token::Value(name) = self.peek().clone() else {
                return self.fail("expected `%name`");
            };
            self.next();
            self.expect(":")?;
            let ty = self.ty()?;
            let attrs = if self.is("{") { self.attrs()? } else { Attrs::new() };
            let v = f.add_param(&name, ty, attrs);
            // A name the printer would give anyway is not stored, so that round trips are exact.
            if name == format!("arg{}", f.params.len() - 1) {
                f.values[v.index()].name = None;
            }
            if names.insert((name, 0), v).is_some() {
                return self.fail("two parameters have one name");
            }
        }
        let result_types = if self.eat("->") { self.types()? } else { vec![] };
        if self.eat_word("attributes") {
            f.attrs = self.attrs()?;
        }
        self.expect("{")?;
        while !self.eat_word("return") {
            self.op(&mut f, &mut names)?;
        }
        if !self.is("}") {
            let mut results = self.values(&names)?;
            self.expect(":")?;
            for (i, result) in results.iter().enumerate() {
                if i > 0 {
                    self.expect(",")?;
                }
                let ty = self.ty()?;
                if &ty != f.ty(*result) {
                    return self.fail(format!("returned value has type {}", f.ty(*result)));
                }
            }
            f.results.append(&mut results);
        }
        let declared = f.results.iter().map(|r| f.ty(*r)).eq(result_types.iter());
        if !declared {
            return self.fail("`return` does not give what the signature says");
        }
        self.expect("}")?;
        Ok(f)
    }

    fn op(
        &mut self,
        f: &mut Function,
        names: &mut HashMap<(String, usize), ValueId>,
    ) -> Result<()> {
        let mut result = None;
        if let Token::Value(name) = self.peek().clone() {
            self.next();
            let count = if self.eat(":") { self.u32()? as usize } else { 1 };
            self.expect("=")?;
            result = Some((name, count));
        }
        let full = self.string()?;
        let short = full.rsplit_once('.').map(|(_, name)| name);
        let kind = short.and_then(ops::find).filter(|kind| kind.full_name() == full);
        let Some(kind) = kind else {
            self.at = self.at.saturating_sub(1);
            return self.fail(format!("no op is called \"{full}\""));
        };
        self.expect("(")?;
        let operands = if self.is(")") { vec![] } else { self.values(names)? };
        self.expect(")")?;
        let attrs = if self.is("{") { self.attrs()? } else { Attrs::new() };
        self.expect(":")?;
        self.expect("(")?;
        for (i, operand) in operands.iter().enumerate() {
            if i > 0 {
                self.expect(",")?;
            }
            let ty = self.ty()?;
            if &ty != f.ty(*operand) {
                return self.fail(format!("operand {i} has type {}", f.ty(*operand)));
            }
        }
        self.expect(")")?;
        self.expect("->")?;
        let types = self.types()?;
        let (name, count) = result.unwrap_or_default();
        if types.len() != count {
            return self.fail(format!("{} results are named, {} typed", count, types.len()));
        }
        let loc = if self.eat_word("loc") {
            self.expect("(")?;
            let loc = self.loc(0)?;
            self.expect(")")?;
            loc
        } else {
            Loc::Unknown
        };
        let results: Vec<ValueId> = types.into_iter().map(|t| f.add_value(t)).collect();
        for (i, r) in results.iter().enumerate() {
            if names.insert((name.clone(), i), *r).is_some() {
                return self.fail(format!("`%{name}` is defined twice"));
            }
        }
        f.ops.push(Op { kind, operands, results, attrs, loc });
        Ok(())
    }

    fn values(&mut self, names: &HashMap<(String, usize), ValueId>) -> Result<Vec<ValueId>> {
        let mut out = vec![];
        loop {
            let Token::Value(name) = self.peek().clone() else {
                return self.fail("expected `%name`");
            };
            let start = self.at;
            self.next();
            let i = if self.eat("#") { self.u32()? as usize } else { 0 };
            match names.get(&(name, i)) {
                Some(v) => out.push(*v),
                None => {
                    self.at = start;
                    return self.fail("expected a value defined above");
                }
            }
            if !self.eat(",") {
                return Ok(out);
            }
        }
    }

    fn types(&mut self) -> Result<Vec<TensorType>> {
        if !self.eat("(") {
            return Ok(vec![self.ty()?]);
        }
        let mut out = vec![];
        while !self.eat(")") {
            if !out.is_empty() {
                self.expect(",")?;
            }
            out.push(self.ty()?);
        }
        Ok(out)
    }

    fn ty(&mut self) -> Result<TensorType> {
        if let Token::Alias(name) = self.peek() {
            let Some(ty) = self.aliases.get(name).cloned() else {
                return self.fail("expected the alias of a type, defined above the module");
            };
            self.next();
            return Ok(ty);
        }
        self.word("tensor")?;
        self.expect("<")?;
        let shape = match self.peek() {
            Token::Word(s) | Token::Number(s) => s.clone(),
            _ => return self.fail("expected a shape"),
        };
        let (sizes, dtype) = match shape.rsplit_once('x') {
            Some((s, d)) => (s, d),
            None => ("", shape.as_str()),
        };
        let Some(dtype) = DType::ALL.into_iter().find(|d| d.name() == dtype) else {
            return self.fail("expected a dtype");
        };
        let sizes: Option<Vec<usize>> = match sizes {
            "" => Some(vec![]),
            s => s.split('x').map(|n| n.parse().ok()).collect(),
        };
        let Some(sizes) = sizes else {
            return self.fail("expected sizes such as 4x8xf32");
        };
        self.next();
        let mut names: Vec<String> = vec![];
        if self.eat(",") {
            let start = self.at;
            let attrs = self.attrs()?;
            if let Err(message) = check_encoding(&attrs) {
                self.at = start;
                return self.fail(message);
            }
            let list = attrs.strs("dims").unwrap_or_default();
            names = list.into_iter().map(str::to_string).collect();
        }
        if names.len() != sizes.len() {
            return self.fail(format!("expected {} dim names", sizes.len()));
        }
        self.expect(">")?;
        let dims = names.iter().zip(sizes).map(|(n, s)| Dim::new(n, s)).collect();
        let ty = TensorType::new(dtype, dims);
        match ty.checked_elements() {
            Ok(_) => Ok(ty),
            Err(e) => self.fail(e.0),
        }
    }

    fn loc(&mut self, depth: usize) -> Result<Loc> {
        if depth > MAX_DEPTH {
            return self.fail("expected less nesting");
        }
        if self.eat_word("unknown") {
            return Ok(Loc::Unknown);
        }
        if self.eat_word("fused") {
            self.expect("[")?;
            let mut inner = vec![];
            while !self.eat("]") {
                if !inner.is_empty() {
                    self.expect(",")?;
                }
                inner.push(self.loc(depth + 1)?);
            }
            return Ok(Loc::Fused(inner));
        }
        let file = self.string()?;
        self.expect(":")?;
        let line = self.u32()?;
        self.expect(":")?;
        let column = self.u32()?;
        Ok(Loc::file(&file, line, column))
    }

    fn attrs(&mut self) -> Result<Attrs> {
        self.expect("{")?;
        let mut attrs = Attrs::new();
        while !self.eat("}") {
            if !attrs.is_empty() {
                self.expect(",")?;
            }
            let Token::Word(name) = self.peek().clone() else {
                return self.fail("expected an attribute name");
            };
            self.next();
            let value = if self.eat("=") { self.attr(0)? } else { Attr::Unit };
            if attrs.get(&name).is_some() {
                return self.fail(format!("attribute `{name}` is given twice"));
            }
            attrs.set(&name, value);
        }
        Ok(attrs)
    }

    fn attr(&mut self, depth: usize) -> Result<Attr> {
        if depth > MAX_DEPTH {
            return self.fail("expected less nesting");
        }
        let value = match self.peek().clone() {
            Token::Word(w) if w == "true" || w == "false" => Attr::Bool(w == "true"),
            Token::Word(w) if w == "unit" => Attr::Unit,
            Token::Str(s) => Attr::Str(s),
            Token::Symbol(s) => Attr::Symbol(s),
            Token::Number(n) => {
                self.next();
                return self.number(&n);
            }
            Token::Punct("[") => {
                self.next();
                let mut items = vec![];
                while !self.eat("]") {
                    if !items.is_empty() {
                        self.expect(",")?;
                    }
                    items.push(self.attr(depth + 1)?);
                }
                return Ok(Attr::Array(items));
            }
            _ => return self.fail("expected an attribute value"),
        };
        self.next();
        Ok(value)
    }

    fn number(&mut self, text: &str) -> Result<Attr> {
        let float = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok().map(f64::from_bits),
            None => text.parse::<f64>().ok(),
        };
        if self.eat(":") {
            self.word("f64")?;
            return match float {
                Some(x) => Ok(Attr::Float(x)),
                None => self.fail("expected a float"),
            };
        }
        match text.parse::<i64>() {
            Ok(i) => Ok(Attr::Int(i)),
            Err(_) => match float {
                Some(x) if !text.starts_with("0x") => Ok(Attr::Float(x)),
                _ => self.fail("expected a number"),
            },
        }
    }
}

/// Checks a type's `{dims = [..]}`: a list of words, and nothing else is there.
fn check_encoding(attrs: &Attrs) -> std::result::Result<(), String> {
    let word = |s: &str| {
        !s.is_empty() && !s.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',')
    };
    for name in attrs.0.keys() {
        if name != "dims" {
            return Err(format!("expected `dims`, not `{name}`"));
        }
        let Some(entries) = attrs.strs(name) else {
            return Err(format!("expected `{name}` to be a list of strings"));
        };
        if let Some(bad) = entries.iter().find(|s| !word(s)) {
            return Err(format!("{bad:?} is not the name of a dim"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_may_have_aliases() {
        let alias = "!x = tensor<4xf32, {dims = [\"a\"]}>\n";
        let body = "module { func.func @f(%x: !x) -> !x { return %x : !x } }";
        let m = parse(&format!("{alias}{body}")).unwrap();
        assert_eq!(parse(&super::super::print(&m)), Ok(m));
        let told = parse(body).unwrap_err().to_string();
        assert_eq!(told, "1:27: expected the alias of a type, defined above the module, got `!x`");
    }
}
