//! Splits a template into text and actions, and actions into words.

use serde_json::Value;

use super::{Failure, Result};

/// Text, or the words between `{{` and `}}` with their line.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Lexeme {
    Text(String),
    Action(Vec<Token>, usize),
}

/// A word of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A keyword or the name of a function.
    Name(String),
    /// `.a.b`, or `$name.a.b`.
    Path(Option<String>, Vec<String>),
    Literal(Value),
    Pipe,
    Open,
    Close,
    Comma,
    /// `:=`
    Assign,
}

/// The whole template, with what `{{-` and `-}}` trim gone.
pub(super) fn split(text: &str) -> Result<Vec<Lexeme>> {
    let mut lexemes = Vec::new();
    let (mut rest, mut line, mut trims) = (text, 1, false);
    while let Some(at) = rest.find("{{") {
        let (before, from) = rest.split_at(at);
        let own_line = line + before.matches('\n').count();
        let inside = from.get(2..).unwrap_or_default();
        let trims_before = inside.starts_with("- ") || inside.starts_with("-\n");
        let inside = if trims_before { inside.get(1..).unwrap_or_default() } else { inside };
        push_text(&mut lexemes, before, trims, trims_before);
        let length = end(inside).ok_or_else(|| Failure::new(own_line, "an action is not closed"))?;
        let (action, after) = inside.split_at(length);
        trims = action.ends_with(" -");
        let action = if trims { action.get(..action.len() - 2).unwrap_or_default() } else { action };
        let is_comment = action.trim_start().starts_with("/*");
        if !is_comment {
            lexemes.push(Lexeme::Action(tokens(action, own_line)?, own_line));
        }
        line = own_line + inside.get(..length).unwrap_or_default().matches('\n').count();
        rest = after.get(2..).unwrap_or_default();
    }
    push_text(&mut lexemes, rest, trims, false);
    Ok(lexemes)
}

fn push_text(lexemes: &mut Vec<Lexeme>, text: &str, trims_start: bool, trims_end: bool) {
    let text = if trims_start { text.trim_start() } else { text };
    let text = if trims_end { text.trim_end() } else { text };
    if !text.is_empty() {
        lexemes.push(Lexeme::Text(text.to_owned()));
    }
}

/// Where an action's `}}` is: not within quotes or a comment.
fn end(inside: &str) -> Option<usize> {
    if inside.trim_start().starts_with("/*") {
        let comment = inside.find("*/")?;
        return inside.get(comment..)?.find("}}").map(|at| comment + at);
    }
    let (mut quote, mut escaped) = (None, false);
    let mut previous = ' ';
    for (at, character) in inside.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if character == '"' || character == '`' => quote = Some(character),
            None if character == '}' && previous == '}' => return Some(at - 1),
            None => {}
        }
        previous = character;
    }
    None
}

fn tokens(action: &str, line: usize) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = action.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            ':' if rest.starts_with(":=") => (Token::Assign, 2),
            '"' | '`' => quoted(rest, first, line)?,
            '.' | '$' => path(rest),
            '0'..='9' | '-' => {
                let length = rest.find(|it: char| it.is_whitespace() || it == ')' || it == '|').unwrap_or(rest.len());
                let number: i64 = rest
                    .get(..length)
                    .unwrap_or_default()
                    .parse()
                    .map_err(|_| Failure::new(line, "only whole numbers"))?;
                (Token::Literal(number.into()), length)
            }
            letter if letter.is_ascii_alphabetic() => {
                let length = rest.find(|it: char| !it.is_ascii_alphanumeric() && it != '_').unwrap_or(rest.len());
                (Token::Name(rest.get(..length).unwrap_or_default().to_owned()), length)
            }
            other => return Err(Failure::new(line, format!("{other:?} is not understood"))),
        };
        tokens.push(token);
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    Ok(tokens)
}

fn quoted(rest: &str, quote: char, line: usize) -> Result<(Token, usize)> {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if quote == '"' && character == '\\' {
            escaped = true;
        } else if character == quote {
            let text = rest.get(..=at).unwrap_or_default();
            // Of Go's escapes the chart uses those that JSON has, too.
            let value = if quote == '"' {
                serde_json::from_str(text).map_err(|error| Failure::new(line, error.to_string()))?
            } else {
                Value::String(text.trim_matches('`').to_owned())
            };
            return Ok((Token::Literal(value), text.len()));
        }
    }
    Err(Failure::new(line, "a quote is not closed"))
}

fn path(rest: &str) -> (Token, usize) {
    let length = rest
        .char_indices()
        .skip(1)
        .find(|(_, it)| !it.is_ascii_alphanumeric() && *it != '_' && *it != '.')
        .map_or(rest.len(), |(at, _)| at);
    let text = rest.get(..length).unwrap_or_default();
    let (variable, fields) = match text.strip_prefix('$') {
        Some(named) => {
            let (name, fields) = named.split_once('.').unwrap_or((named, ""));
            (Some(name.to_owned()), fields)
        }
        None => (None, text.trim_start_matches('.')),
    };
    let fields = fields.split('.').filter(|field| !field.is_empty()).map(str::to_owned).collect();
    (Token::Path(variable, fields), length)
}
