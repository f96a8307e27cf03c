//! Selectors, read a second time: as plainly as the language allows, and not by `policy-core`.
//!
//! In: a selector's text. Out: whether it holds for something whose labels are looked up by name.

use anyhow::{Context as _, Result, bail, ensure};

/// A selector.
#[derive(Clone, Debug)]
pub(crate) enum Selector {
    All,
    Global,
    Has(String),
    /// Label, operator, what stands behind it.
    Test(String, Operator, Vec<String>),
    Not(Box<Selector>),
    And(Vec<Selector>),
    Or(Vec<Selector>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Operator {
    In,
    NotIn,
    Contains,
    StartsWith,
    EndsWith,
}

/// In an order in which none is taken for another.
const OPERATORS: [(&str, Operator); 7] = [
    ("==", Operator::In),
    ("!=", Operator::NotIn),
    ("not in", Operator::NotIn),
    ("in", Operator::In),
    ("contains", Operator::Contains),
    ("starts with", Operator::StartsWith),
    ("ends with", Operator::EndsWith),
];

impl Selector {
    pub(crate) fn read(text: &str) -> Result<Selector> {
        let mut rest = Rest(text);
        let selector = rest.either().with_context(|| format!("in the selector {text}"))?;
        ensure!(rest.0.trim().is_empty(), "{} is left over of the selector {text}", rest.0);
        Ok(selector)
    }

    /// Whether it holds. `all` is what `all()` means: always, of labels; of namespaces, whether
    /// there is one. `global()` is the opposite.
    pub(crate) fn holds<'a>(&self, all: bool, label: &dyn Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Selector::All => all,
            Selector::Global => !all,
            Selector::Has(name) => label(name).is_some(),
            Selector::Test(name, operator, values) => {
                let found = label(name);
                let any = |test: &dyn Fn(&str, &str) -> bool| {
                    found.is_some_and(|found| values.iter().any(|value| test(found, value)))
                };
                match operator {
                    Operator::In => any(&|found, value| found == value),
                    Operator::NotIn => !any(&|found, value| found == value),
                    Operator::Contains => any(&|found, value| found.contains(value)),
                    Operator::StartsWith => any(&|found, value| found.starts_with(value)),
                    Operator::EndsWith => any(&|found, value| found.ends_with(value)),
                }
            }
            Selector::Not(operand) => !operand.holds(all, label),
            Selector::And(operands) => operands.iter().all(|operand| operand.holds(all, label)),
            Selector::Or(operands) => operands.iter().any(|operand| operand.holds(all, label)),
        }
    }
}

/// What has not been read yet.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn take(&mut self, word: &str) -> bool {
        match self.0.trim_start().strip_prefix(word) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn either(&mut self) -> Result<Selector> {
        let mut operands = vec![self.both()?];
        while self.take("||") {
            operands.push(self.both()?);
        }
        Ok(Selector::Or(operands))
    }

    fn both(&mut self) -> Result<Selector> {
        let mut operands = vec![self.operand()?];
        while self.take("&&") {
            operands.push(self.operand()?);
        }
        Ok(Selector::And(operands))
    }

    fn operand(&mut self) -> Result<Selector> {
        if self.take("!") {
            return Ok(Selector::Not(Box::new(self.operand()?)));
        }
        if self.take("all()") {
            return Ok(Selector::All);
        }
        if self.take("global()") {
            return Ok(Selector::Global);
        }
        if self.take("has(") {
            let name = self.name()?;
            ensure!(self.take(")"), "has({name} is not closed");
            return Ok(Selector::Has(name.to_owned()));
        }
        if self.take("(") {
            let inner = self.either()?;
            ensure!(self.take(")"), "a parenthesis is not closed");
            return Ok(inner);
        }
        let name = self.name()?.to_owned();
        for (word, operator) in OPERATORS {
            if self.take(word) {
                let values = if self.take("{") { self.members()? } else { vec![self.text()?] };
                return Ok(Selector::Test(name, operator, values));
            }
        }
        bail!("no operator behind {name}")
    }

    fn members(&mut self) -> Result<Vec<String>> {
        let mut members = Vec::new();
        while !self.take("}") {
            members.push(self.text()?);
            self.take(",");
        }
        Ok(members)
    }

    fn name(&mut self) -> Result<&'a str> {
        let text = self.0.trim_start();
        let is_part = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
        let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
        ensure!(end > 0, "no name of a label at {text}");
        let (name, rest) = text.split_at(end);
        self.0 = rest;
        Ok(name)
    }

    fn text(&mut self) -> Result<String> {
        let text = self.0.trim_start();
        let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let quote = quote.with_context(|| format!("no string at {text}"))?;
        let (inside, rest) = text[1..].split_once(quote).context("a string is not closed")?;
        self.0 = rest;
        Ok(inside.to_owned())
    }
}
