//! Text of a selector to its expression tree: a tokenizer, then recursive descent.
//!
//! `||` binds weaker than `&&`, `&&` weaker than `!`. Words are operators only right behind a
//! label, so that `in in {'in'}` is a selector on a label named `in` (libcalico-go
//! `lib/selector/tokenizer`).

use std::collections::BTreeSet;

use super::Node;

/// Longest selector, in bytes.
pub const MAX_LENGTH: usize = 64 * 1024;

/// Deepest nesting of parentheses, as written and in the canonical form, which puts some around
/// every list of operands: what is accepted can be read back.
pub const MAX_DEPTH: usize = 64;

/// Longest label name in a selector, in bytes (upstream's bound).
pub const MAX_LABEL_LENGTH: usize = 512;

/// A text that is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {problem}")]
pub struct SelectorError {
    /// Where, in bytes from the start of the selector.
    pub offset: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Something else has to stand there.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What would be right.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A quote that nothing closes.
    #[error("the string that starts here has no closing {0}")]
    Unterminated(char),
    /// A label name beyond [`MAX_LABEL_LENGTH`].
    #[error("the label name is {0} bytes long, at most {MAX_LABEL_LENGTH} are allowed")]
    LabelTooLong(usize),
    /// Parentheses beyond [`MAX_DEPTH`].
    #[error("parentheses are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// A selector beyond [`MAX_LENGTH`].
    #[error("the selector is {0} bytes long, at most {MAX_LENGTH} are allowed")]
    TooLong(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Label(&'a str),
    Text(&'a str),
    Has(&'a str),
    All,
    Global,
    Equal,
    NotEqual,
    In,
    NotIn,
    Contains,
    StartsWith,
    EndsWith,
    Not,
    And,
    Or,
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    Comma,
    End,
}

pub(super) fn parse(text: &str) -> Result<Node, SelectorError> {
    if text.len() > MAX_LENGTH {
        return Err(SelectorError { offset: MAX_LENGTH, problem: Problem::TooLong(text.len()) });
    }
    let tokens = tokenize(text)?;
    let mut parser = Parser { text, tokens: &tokens, depth: 0 };
    if parser.peek() == Token::End {
        return Ok(Node::All);
    }
    let node = parser.or_expression()?;
    match parser.peek() {
        Token::End if node.nesting() > MAX_DEPTH => {
            Err(SelectorError { offset: 0, problem: Problem::TooDeep })
        }
        Token::End => Ok(node),
        _ => Err(parser.expected("`&&`, `||` or the end of the selector")),
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

const fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'/' | b'-')
}

/// The text and the place that the tokenizer has come to.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.byte().is_some_and(is_space) {
            self.at += 1;
        }
    }

    fn eat(&mut self, prefix: &str) -> bool {
        let found = self.rest().starts_with(prefix);
        if found {
            self.at += prefix.len();
        }
        found
    }

    /// The words in this order, with or without space between them, ending at a word boundary.
    fn eat_words(&mut self, words: &[&str]) -> bool {
        let mut ahead = *self;
        for (index, word) in words.iter().enumerate() {
            if index > 0 {
                ahead.skip_space();
            }
            if !ahead.eat(word) {
                return false;
            }
        }
        if ahead.byte().is_some_and(is_label_byte) {
            return false;
        }
        *self = ahead;
        true
    }

    fn label(&mut self) -> Result<&'a str, SelectorError> {
        let rest = self.rest();
        let length = rest.bytes().take_while(|byte| is_label_byte(*byte)).count();
        match length {
            0 => Err(self.expected("a label name")),
            1..=MAX_LABEL_LENGTH => {
                self.at += length;
                Ok(rest.get(..length).unwrap_or_default())
            }
            _ => Err(SelectorError { offset: self.at, problem: Problem::LabelTooLong(length) }),
        }
    }

    fn expected(&self, expected: &'static str) -> SelectorError {
        let found = self.rest().chars().next().map_or_else(
            || "the end of the selector".to_owned(),
            |found| format!("`{}`", found.escape_debug()),
        );
        SelectorError { offset: self.at, problem: Problem::Expected { expected, found } }
    }
}

fn tokenize(text: &str) -> Result<Vec<(usize, Token<'_>)>, SelectorError> {
    let mut tokens = Vec::new();
    let mut cursor = Cursor { text, at: 0 };
    loop {
        cursor.skip_space();
        let start = cursor.at;
        let behind_label = matches!(tokens.last(), Some((_, Token::Label(_))));
        let token = next_token(&mut cursor, behind_label)?;
        tokens.push((start, token));
        if token == Token::End {
            return Ok(tokens);
        }
    }
}

fn next_token<'a>(cursor: &mut Cursor<'a>, behind_label: bool) -> Result<Token<'a>, SelectorError> {
    const FIXED: [(&str, Token<'static>); 9] = [
        ("(", Token::LeftParen),
        (")", Token::RightParen),
        ("{", Token::LeftBrace),
        ("}", Token::RightBrace),
        (",", Token::Comma),
        ("==", Token::Equal),
        ("!=", Token::NotEqual),
        ("&&", Token::And),
        ("||", Token::Or),
    ];
    const OPERATORS: [(&[&str], Token<'static>); 5] = [
        (&["contains"], Token::Contains),
        (&["starts", "with"], Token::StartsWith),
        (&["ends", "with"], Token::EndsWith),
        (&["not", "in"], Token::NotIn),
        (&["in"], Token::In),
    ];
    if let Some((_, token)) = FIXED.iter().find(|(symbol, _)| cursor.eat(symbol)) {
        return Ok(*token);
    }
    match cursor.byte() {
        None => return Ok(Token::End),
        Some(b'!') => {
            cursor.at += 1;
            return Ok(Token::Not);
        }
        Some(b'"') => return quoted(cursor, '"'),
        Some(b'\'') => return quoted(cursor, '\''),
        Some(b'=') => return Err(cursor.expected("`==`")),
        Some(b'&') => return Err(cursor.expected("`&&`")),
        Some(b'|') => return Err(cursor.expected("`||`")),
        Some(_) => {}
    }
    if behind_label {
        return match OPERATORS.iter().find(|(words, _)| cursor.eat_words(words)) {
            Some((_, token)) => Ok(*token),
            None => Err(cursor.expected(OPERATOR)),
        };
    }
    if cursor.eat("has(") {
        cursor.skip_space();
        let label = cursor.label()?;
        close(cursor)?;
        return Ok(Token::Has(label));
    }
    if cursor.eat("all(") {
        close(cursor)?;
        return Ok(Token::All);
    }
    if cursor.eat("global(") {
        close(cursor)?;
        return Ok(Token::Global);
    }
    match cursor.byte() {
        Some(byte) if is_label_byte(byte) => cursor.label().map(Token::Label),
        _ => Err(cursor.expected(OPERAND)),
    }
}

const OPERAND: &str = "a label name, `has(...)`, `all()`, `!` or `(`";
const OPERATOR: &str =
    "`==`, `!=`, `in`, `not in`, `contains`, `starts with` or `ends with` after the label name";

fn quoted<'a>(cursor: &mut Cursor<'a>, quote: char) -> Result<Token<'a>, SelectorError> {
    let start = cursor.at;
    cursor.at += 1;
    let rest = cursor.rest();
    let Some(length) = rest.find(quote) else {
        return Err(SelectorError { offset: start, problem: Problem::Unterminated(quote) });
    };
    cursor.at += length + 1;
    Ok(Token::Text(rest.get(..length).unwrap_or_default()))
}

fn close(cursor: &mut Cursor<'_>) -> Result<(), SelectorError> {
    cursor.skip_space();
    if cursor.eat(")") { Ok(()) } else { Err(cursor.expected("`)`")) }
}

struct Parser<'a, 't> {
    text: &'a str,
    /// What is left; the last is [`Token::End`], which is never taken.
    tokens: &'t [(usize, Token<'a>)],
    depth: usize,
}

impl<'a> Parser<'a, '_> {
    fn peek(&self) -> Token<'a> {
        self.tokens.first().map_or(Token::End, |(_, token)| *token)
    }

    fn advance(&mut self) {
        if let [_, rest @ ..] = self.tokens
            && !rest.is_empty()
        {
            self.tokens = rest;
        }
    }

    fn eat(&mut self, token: Token<'_>) -> bool {
        let found = self.peek() == token;
        if found {
            self.advance();
        }
        found
    }

    fn offset(&self) -> usize {
        self.tokens.first().map_or(self.text.len(), |(offset, _)| *offset)
    }

    fn expected(&self, expected: &'static str) -> SelectorError {
        Cursor { text: self.text, at: self.offset() }.expected(expected)
    }

    fn or_expression(&mut self) -> Result<Node, SelectorError> {
        let first = self.and_expression()?;
        if self.peek() != Token::Or {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.eat(Token::Or) {
            operands.push(self.and_expression()?);
        }
        Ok(Node::Or(operands))
    }

    fn and_expression(&mut self) -> Result<Node, SelectorError> {
        let first = self.operation()?;
        if self.peek() != Token::And {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.eat(Token::And) {
            operands.push(self.operation()?);
        }
        Ok(Node::And(operands))
    }

    fn operation(&mut self) -> Result<Node, SelectorError> {
        let mut negated = false;
        while self.eat(Token::Not) {
            negated = !negated;
        }
        let node = match self.peek() {
            Token::Has(label) => {
                self.advance();
                Node::Has(label.to_owned())
            }
            Token::All => {
                self.advance();
                Node::All
            }
            Token::Global => {
                self.advance();
                Node::Global
            }
            Token::Label(label) => {
                self.advance();
                self.comparison(label)?
            }
            Token::LeftParen => self.parenthesised()?,
            _ => return Err(self.expected(OPERAND)),
        };
        Ok(if negated { node.negate() } else { node })
    }

    fn parenthesised(&mut self) -> Result<Node, SelectorError> {
        if self.depth == MAX_DEPTH {
            return Err(SelectorError { offset: self.offset(), problem: Problem::TooDeep });
        }
        self.advance();
        self.depth += 1;
        let node = self.or_expression()?;
        self.depth -= 1;
        if self.eat(Token::RightParen) { Ok(node) } else { Err(self.expected("`&&`, `||` or `)`")) }
    }

    fn comparison(&mut self, label: &str) -> Result<Node, SelectorError> {
        let label = label.to_owned();
        let operator = self.peek();
        let build: fn(String, String) -> Node = match operator {
            Token::Equal => Node::Equal,
            Token::NotEqual => Node::NotEqual,
            Token::Contains => Node::Contains,
            Token::StartsWith => Node::StartsWith,
            Token::EndsWith => Node::EndsWith,
            Token::In => {
                self.advance();
                return Ok(Node::In(label, self.set()?));
            }
            Token::NotIn => {
                self.advance();
                return Ok(Node::NotIn(label, self.set()?));
            }
            _ => return Err(self.expected(OPERATOR)),
        };
        self.advance();
        match self.peek() {
            Token::Text(value) => {
                self.advance();
                Ok(build(label, value.to_owned()))
            }
            _ => Err(self.expected("a value in quotes")),
        }
    }

    /// `{'a', 'b'}`; empty, and with a comma behind the last value, as upstream takes it.
    fn set(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if !self.eat(Token::LeftBrace) {
            return Err(self.expected("a set of values such as `{'a', 'b'}`"));
        }
        let mut values = BTreeSet::new();
        while let Token::Text(value) = self.peek() {
            self.advance();
            values.insert(value.to_owned());
            if !self.eat(Token::Comma) {
                break;
            }
        }
        if self.eat(Token::RightBrace) {
            Ok(values)
        } else {
            Err(self.expected("a value in quotes, `,` or `}`"))
        }
    }
}
