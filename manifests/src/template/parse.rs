//! Reads a template: text and actions become a tree. The grammar is the part of Go's `text/template` that the chart uses.

use std::collections::BTreeMap;

use serde_json::Value;

use super::lex::{self, Lexeme, Token};
use super::{Failure, Result};

/// A piece of a template.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// Passed on as it is.
    Text(String),
    /// What comes out is written.
    Output(Pipeline, usize),
    /// What comes out is remembered.
    Remember(String, Pipeline, usize),
    /// The first branch whose condition holds, or the last list.
    If(Vec<(Pipeline, Vec<Node>, usize)>, Vec<Node>),
    /// The list with the value as dot, or the other list when it is empty.
    With(Pipeline, Vec<Node>, Vec<Node>, usize),
    /// The list for each element, or the other list when there is none.
    Range { names: Vec<String>, of: Pipeline, each: Vec<Node>, none: Vec<Node>, line: usize },
}

/// Commands, each of which gets the result of the one before as its last argument.
pub(super) type Pipeline = Vec<Command>;
/// A function with arguments, or one value.
pub(super) type Command = Vec<Operand>;

/// A word of a command.
#[derive(Clone, Debug)]
pub(super) enum Operand {
    /// A value as written.
    Literal(Value),
    /// Fields of dot, or of a variable when it is named; `$` is the variable without a name.
    Path(Option<String>, Vec<String>),
    /// A function.
    Function(String),
    /// A pipeline in parentheses.
    Group(Pipeline),
}

/// Adds what a file defines to `defined`; gives the rest of it.
pub(super) fn parse(text: &str, defined: &mut BTreeMap<String, Vec<Node>>) -> Result<Vec<Node>> {
    let mut parser = Parser { lexemes: lex::split(text)?.into_iter().peekable(), defined };
    let (nodes, end) = parser.list()?;
    match end {
        Stop::Text => Ok(nodes),
        Stop::End(line) | Stop::Else(_, line) => Err(Failure::new(line, "there is nothing to end here")),
    }
}

struct Parser<'a> {
    lexemes: std::iter::Peekable<std::vec::IntoIter<Lexeme>>,
    defined: &'a mut BTreeMap<String, Vec<Node>>,
}

/// How a list ends.
enum Stop {
    Text,
    End(usize),
    /// With the words of an `else if`.
    Else(Vec<Token>, usize),
}

impl Parser<'_> {
    fn list(&mut self) -> Result<(Vec<Node>, Stop)> {
        let mut nodes = Vec::new();
        while let Some(lexeme) = self.lexemes.next() {
            let (tokens, line) = match lexeme {
                Lexeme::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Lexeme::Action(tokens, line) => (tokens, line),
            };
            let word = match tokens.first() {
                Some(Token::Name(word)) => word.as_str(),
                _ => "",
            };
            let rest = tokens.get(1..).unwrap_or_default();
            match word {
                "end" => return Ok((nodes, Stop::End(line))),
                "else" => return Ok((nodes, Stop::Else(rest.to_vec(), line))),
                "if" => nodes.push(self.branches(rest, line)?),
                "with" => {
                    let (body, otherwise) = self.two_lists(line)?;
                    nodes.push(Node::With(pipeline(rest, line)?, body, otherwise, line));
                }
                "range" => nodes.push(self.range(rest, line)?),
                "define" => self.define(rest, line)?,
                _ => nodes.push(action(&tokens, line)?),
            }
        }
        Ok((nodes, Stop::Text))
    }

    fn branches(&mut self, condition: &[Token], line: usize) -> Result<Node> {
        let mut branches = Vec::new();
        let (mut condition, mut at) = (pipeline(condition, line)?, line);
        loop {
            let (body, end) = self.list()?;
            branches.push((condition, body, at));
            match end {
                Stop::Text => return Err(Failure::new(line, "this `if` has no end")),
                Stop::End(_) => return Ok(Node::If(branches, Vec::new())),
                Stop::Else(words, next) => match words.split_first() {
                    None => {
                        let (otherwise, end) = self.list()?;
                        return match end {
                            Stop::End(_) => Ok(Node::If(branches, otherwise)),
                            _ => Err(Failure::new(next, "this `else` has no end")),
                        };
                    }
                    Some((Token::Name(word), rest)) if word == "if" => {
                        (condition, at) = (pipeline(rest, next)?, next);
                    }
                    Some(_) => return Err(Failure::new(next, "only `if` may follow `else`")),
                },
            }
        }
    }

    fn two_lists(&mut self, line: usize) -> Result<(Vec<Node>, Vec<Node>)> {
        let (body, end) = self.list()?;
        match end {
            Stop::End(_) => Ok((body, Vec::new())),
            Stop::Else(words, _) if words.is_empty() => match self.list()? {
                (otherwise, Stop::End(_)) => Ok((body, otherwise)),
                _ => Err(Failure::new(line, "this has no end")),
            },
            _ => Err(Failure::new(line, "this has no end")),
        }
    }

    fn range(&mut self, tokens: &[Token], line: usize) -> Result<Node> {
        let (names, of) = match tokens {
            [Token::Path(Some(one), fields), Token::Assign, rest @ ..] if fields.is_empty() => {
                (vec![one.clone()], rest)
            }
            [
                Token::Path(Some(key), none),
                Token::Comma,
                Token::Path(Some(value), fields),
                Token::Assign,
                rest @ ..,
            ] if none.is_empty() && fields.is_empty() => (vec![key.clone(), value.clone()], rest),
            all => (Vec::new(), all),
        };
        let of = pipeline(of, line)?;
        let (each, none) = self.two_lists(line)?;
        Ok(Node::Range { names, of, each, none, line })
    }

    fn define(&mut self, tokens: &[Token], line: usize) -> Result<()> {
        let [Token::Literal(Value::String(name))] = tokens else {
            return Err(Failure::new(line, "`define` takes one name in quotes"));
        };
        match self.list()? {
            (body, Stop::End(_)) => {
                self.defined.insert(name.clone(), body);
                Ok(())
            }
            _ => Err(Failure::new(line, "this `define` has no end")),
        }
    }
}

fn action(tokens: &[Token], line: usize) -> Result<Node> {
    match tokens {
        [Token::Path(Some(name), fields), Token::Assign, rest @ ..] if fields.is_empty() => {
            Ok(Node::Remember(name.clone(), pipeline(rest, line)?, line))
        }
        _ => Ok(Node::Output(pipeline(tokens, line)?, line)),
    }
}

fn pipeline(tokens: &[Token], line: usize) -> Result<Pipeline> {
    let mut tokens = tokens.iter();
    let pipeline = commands(&mut tokens, line)?;
    match tokens.next() {
        None => Ok(pipeline),
        Some(_) => Err(Failure::new(line, "a parenthesis is closed that was never opened")),
    }
}

/// Reads up to the end or up to a closing parenthesis, which is left.
fn commands(tokens: &mut std::slice::Iter<'_, Token>, line: usize) -> Result<Pipeline> {
    let mut pipeline = vec![Vec::new()];
    while let Some(token) = tokens.as_slice().first() {
        if matches!(token, Token::Close) {
            break;
        }
        tokens.next();
        let operand = match token {
            Token::Pipe => {
                pipeline.push(Vec::new());
                continue;
            }
            Token::Open => {
                let group = commands(tokens, line)?;
                if !matches!(tokens.next(), Some(Token::Close)) {
                    return Err(Failure::new(line, "a parenthesis is not closed"));
                }
                Operand::Group(group)
            }
            Token::Literal(value) => Operand::Literal(value.clone()),
            Token::Path(variable, fields) => Operand::Path(variable.clone(), fields.clone()),
            Token::Name(name) => match name.as_str() {
                "true" => Operand::Literal(Value::Bool(true)),
                "false" => Operand::Literal(Value::Bool(false)),
                "nil" => Operand::Literal(Value::Null),
                _ => Operand::Function(name.clone()),
            },
            Token::Assign | Token::Comma | Token::Close => return Err(Failure::new(line, "this cannot stand here")),
        };
        if let Some(command) = pipeline.last_mut() {
            command.push(operand);
        }
    }
    if pipeline.iter().any(Vec::is_empty) {
        return Err(Failure::new(line, "a command is missing"));
    }
    Ok(pipeline)
}
