//! Reads expressions: words first, then what binds most weakly before what binds more strongly (cel-spec, Syntax).

use super::{ATTRIBUTES, Attribute, BadExpression, Comparison, HEADERS, Kind, LONGEST, Node, PEERS, Test, Vocabulary};

/// Expressions inside of expressions; no sensible one is deeper, and the stack has to hold them.
const DEPTH: usize = 32;

/// Headers that HTTP/2 has for what is an attribute here.
const PSEUDO_HEADERS: [(&str, Attribute); 4] = [
    (":method", Attribute::Method),
    (":path", Attribute::Path),
    (":authority", Attribute::Host),
    (":scheme", Attribute::Scheme),
];

/// Signs, the longer ones first.
const SIGNS: [&str; 17] = ["==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "?", ":", "(", ")", "[", "]", ",", "."];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Name(String),
    Text(String),
    Number(i64),
    Sign(&'static str),
}

/// An expression and its kind.
type Typed = (Node, Kind);

pub(super) fn parse(text: &str, vocabulary: Vocabulary) -> Result<Typed, BadExpression> {
    if text.len() > LONGEST {
        return Err(wrong(0, format!("is longer than {LONGEST} bytes")));
    }
    let words = words(text)?;
    let mut parser = Parser { words, next: 0, end: text.chars().count(), vocabulary };
    let read = parser.choice(0)?;
    match parser.words.get(parser.next) {
        None => Ok(read),
        Some((at, word)) => Err(wrong(*at, format!("{} is not understood here", shown(word)))),
    }
}

fn wrong(at: usize, problem: impl Into<String>) -> BadExpression {
    BadExpression { at, problem: problem.into() }
}

fn shown(word: &Word) -> String {
    match word {
        Word::Name(name) => format!("{name:?}"),
        Word::Text(text) => format!("the text {text:?}"),
        Word::Number(number) => format!("{number}"),
        Word::Sign(sign) => format!("{sign:?}"),
    }
}

/// Words, and where each begins.
fn words(text: &str) -> Result<Vec<(usize, Word)>, BadExpression> {
    let characters: Vec<char> = text.chars().collect();
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(&first) = characters.get(at) {
        let rest = characters.get(at..).unwrap_or_default();
        let length = |is_part: fn(char) -> bool| rest.iter().take_while(|it| is_part(**it)).count();
        let begun = at;
        let word = if first.is_ascii_whitespace() {
            at += 1;
            continue;
        } else if first == '+' {
            at += 1;
            Word::Sign("+")
        } else if first.is_ascii_alphabetic() || first == '_' {
            let length = length(|it| it.is_ascii_alphanumeric() || it == '_');
            at += length;
            let name: String = rest.iter().take(length).collect();
            if matches!(characters.get(at), Some('\'' | '"')) {
                return Err(wrong(begun, format!("texts that begin with {name} are not supported")));
            }
            Word::Name(name)
        } else if first.is_ascii_digit() || (first == '-' && rest.get(1).is_some_and(char::is_ascii_digit)) {
            let digits = 1 + rest.iter().skip(1).take_while(|it| it.is_ascii_digit()).count();
            at += digits;
            if characters.get(at).is_some_and(|next| next.is_ascii_alphabetic() || *next == '.') {
                return Err(wrong(begun, "only whole numbers in decimal digits are supported"));
            }
            let number: String = rest.iter().take(digits).collect();
            Word::Number(number.parse().map_err(|_| wrong(begun, "the number is too large"))?)
        } else if first == '\'' || first == '"' {
            let (read, length) = quoted(rest, first).map_err(|problem| wrong(begun, problem))?;
            at += length;
            Word::Text(read)
        } else {
            let sign = SIGNS.into_iter().find(|sign| sign.chars().eq(rest.iter().copied().take(sign.len())));
            let sign = sign.ok_or_else(|| wrong(begun, format!("{first:?} is not supported")))?;
            at += sign.len();
            Word::Sign(sign)
        };
        words.push((begun, word));
    }
    Ok(words)
}

/// A text in these quotes, and how many characters it takes with them.
fn quoted(characters: &[char], quote: char) -> Result<(String, usize), &'static str> {
    let mut text = String::new();
    let mut length = 1;
    loop {
        let character = *characters.get(length).ok_or("the text has no end")?;
        length += 1;
        match character {
            '\\' => {
                let escaped = *characters.get(length).ok_or("the text has no end")?;
                length += 1;
                text.push(match escaped {
                    '\\' | '\'' | '"' => escaped,
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    _ => return Err("of escapes in texts, only \\\\ \\' \\\" \\n \\t \\r are supported"),
                });
            }
            '\n' | '\r' => return Err("the text has no end in its line"),
            _ if character == quote => break,
            _ => text.push(character),
        }
    }
    if text.is_empty() && characters.get(length) == Some(&quote) {
        return Err("texts in three quotes are not supported");
    }
    Ok((text, length))
}

struct Parser {
    words: Vec<(usize, Word)>,
    next: usize,
    end: usize,
    vocabulary: Vocabulary,
}

impl Parser {
    fn at(&self) -> usize {
        self.words.get(self.next).map_or(self.end, |(at, _)| *at)
    }

    fn take(&mut self) -> Option<Word> {
        let word = self.words.get(self.next).map(|(_, word)| word.clone());
        self.next += 1;
        word
    }

    fn takes(&mut self, sign: &str) -> bool {
        let is_next = matches!(self.words.get(self.next), Some((_, Word::Sign(next))) if *next == sign);
        self.next += usize::from(is_next);
        is_next
    }

    fn takes_one(&mut self, signs: &[&'static str]) -> Option<&'static str> {
        signs.iter().copied().find(|sign| self.takes(sign))
    }

    fn need(&mut self, sign: &str) -> Result<(), BadExpression> {
        if self.takes(sign) { Ok(()) } else { Err(wrong(self.at(), format!("{sign:?} is missing"))) }
    }

    /// `a ? b : c`
    fn choice(&mut self, depth: usize) -> Result<Typed, BadExpression> {
        if depth > DEPTH {
            return Err(wrong(self.at(), "is nested too deeply"));
        }
        let at = self.at();
        let condition = self.either(depth)?;
        if !self.takes("?") {
            return Ok(condition);
        }
        let condition = of_kind(at, condition, Kind::Truth, "?")?;
        let (yes, kind) = self.either(depth)?;
        self.need(":")?;
        let at = self.at();
        let no = of_kind(at, self.choice(depth + 1)?, kind, ":")?;
        Ok((Node::Choice(Box::new(condition), Box::new(yes), Box::new(no)), kind))
    }

    fn either(&mut self, depth: usize) -> Result<Typed, BadExpression> {
        self.joined(depth, "||", Node::Either, Self::both)
    }

    fn both(&mut self, depth: usize) -> Result<Typed, BadExpression> {
        self.joined(depth, "&&", Node::Both, Self::relation)
    }

    fn joined(
        &mut self,
        depth: usize,
        sign: &str,
        join: fn(Box<Node>, Box<Node>) -> Node,
        part: fn(&mut Self, usize) -> Result<Typed, BadExpression>,
    ) -> Result<Typed, BadExpression> {
        let at = self.at();
        let first = part(self, depth)?;
        let mut all = Vec::new();
        while self.takes(sign) {
            let at = self.at();
            all.push(of_kind(at, part(self, depth)?, Kind::Truth, sign)?);
        }
        if all.is_empty() {
            return Ok(first);
        }
        let first = of_kind(at, first, Kind::Truth, sign)?;
        let mut all: Vec<Node> = [first].into_iter().chain(all).collect();
        // A balanced tree, so that a long chain is not a deep one.
        while all.len() > 1 {
            let mut pairs = all.into_iter();
            let mut halved = Vec::new();
            while let Some(left) = pairs.next() {
                halved.push(match pairs.next() {
                    Some(right) => join(Box::new(left), Box::new(right)),
                    None => left,
                });
            }
            all = halved;
        }
        let all = all.pop().ok_or_else(|| wrong(at, "is missing"))?;
        Ok((all, Kind::Truth))
    }

    fn relation(&mut self, depth: usize) -> Result<Typed, BadExpression> {
        const SIGNS: [&str; 6] = ["==", "!=", "<=", ">=", "<", ">"];
        let (left, kind) = self.sum(depth)?;
        let at = self.at();
        let read = if let Some(sign) = self.takes_one(&SIGNS) {
            let comparison = match sign {
                "==" => Comparison::Equal,
                "!=" => Comparison::Unequal,
                "<=" => Comparison::LessOrEqual,
                ">=" => Comparison::GreaterOrEqual,
                "<" => Comparison::Less,
                _ => Comparison::Greater,
            };
            let right = of_kind(at, self.sum(depth)?, kind, sign)?;
            (Node::Compare(comparison, Box::new(left), Box::new(right)), Kind::Truth)
        } else if self.words.get(self.next).is_some_and(|(_, word)| *word == Word::Name("in".to_owned())) {
            self.next += 1;
            (self.membership(depth, at, left, kind)?, Kind::Truth)
        } else {
            return Ok((left, kind));
        };
        // `a == b == c` compares a truth value, which nobody means.
        match self.takes_one(&SIGNS) {
            Some(sign) => Err(wrong(self.at(), format!("{sign:?} needs parentheses around what it compares"))),
            None => Ok(read),
        }
    }

    /// What comes behind `in`.
    fn membership(&mut self, depth: usize, at: usize, left: Node, kind: Kind) -> Result<Node, BadExpression> {
        if self.takes("[") {
            let mut list = Vec::new();
            while !self.takes("]") {
                let at = self.at();
                list.push(of_kind(at, self.choice(depth + 1)?, kind, "in")?);
                if !self.takes(",") {
                    self.need("]")?;
                    break;
                }
            }
            return Ok(Node::OneOf(Box::new(left), list));
        }
        let is_headers = [Word::Name("request".into()), Word::Sign("."), Word::Name("headers".into())]
            .into_iter()
            .all(|word| self.take() == Some(word));
        let Node::Text(name) = left else {
            return Err(wrong(
                at,
                "behind \"in\" there must be a list, or a name before it and request.headers behind",
            ));
        };
        if !is_headers {
            return Err(wrong(at, "behind \"in\" there must be a list or request.headers"));
        }
        Ok(Node::Has(Box::new(header(at, &name)?.0)))
    }

    fn sum(&mut self, depth: usize) -> Result<Typed, BadExpression> {
        let (mut left, kind) = self.unary(depth)?;
        let mut terms = 0;
        while self.takes("+") {
            let at = self.at();
            terms += 1;
            if kind == Kind::Truth || terms > DEPTH {
                return Err(wrong(at, "\"+\" is for some numbers or texts"));
            }
            let right = of_kind(at, self.unary(depth)?, kind, "+")?;
            left = Node::Sum(Box::new(left), Box::new(right));
        }
        Ok((left, kind))
    }

    fn unary(&mut self, depth: usize) -> Result<Typed, BadExpression> {
        if depth > DEPTH {
            return Err(wrong(self.at(), "is nested too deeply"));
        }
        if !self.takes("!") {
            return self.member(depth);
        }
        let at = self.at();
        let inner = of_kind(at, self.unary(depth + 1)?, Kind::Truth, "!")?;
        Ok((Node::Not(Box::new(inner)), Kind::Truth))
    }

    /// Something, and what is asked of it by a function behind it.
    fn member(&mut self, depth: usize) -> Result<Typed, BadExpression> {
        let begun = self.at();
        let (mut node, mut kind) = self.primary(depth)?;
        while self.takes(".") {
            let at = self.at();
            let Some(Word::Name(name)) = self.take() else { return Err(wrong(at, "a name is missing behind \".\"")) };
            let test = match name.as_str() {
                "startsWith" => Test::StartsWith,
                "endsWith" => Test::EndsWith,
                "contains" => Test::Contains,
                _ => return Err(wrong(at, format!("{name:?} is not supported"))),
            };
            let whole = of_kind(begun, (node, kind), Kind::Text, &name)?;
            self.need("(")?;
            let at = self.at();
            let part = of_kind(at, self.choice(depth + 1)?, Kind::Text, &name)?;
            self.need(")")?;
            (node, kind) = (Node::Test(test, Box::new(whole), Box::new(part)), Kind::Truth);
        }
        Ok((node, kind))
    }

    fn primary(&mut self, depth: usize) -> Result<Typed, BadExpression> {
        let at = self.at();
        match self.take() {
            Some(Word::Text(text)) => Ok((Node::Text(text), Kind::Text)),
            Some(Word::Number(number)) => Ok((Node::Number(number), Kind::Number)),
            Some(Word::Sign("(")) => {
                let read = self.choice(depth + 1)?;
                self.need(")")?;
                Ok(read)
            }
            Some(Word::Name(name)) => match name.as_str() {
                "true" => Ok((Node::Truth(true), Kind::Truth)),
                "false" => Ok((Node::Truth(false), Kind::Truth)),
                "has" => {
                    let inner = self.argument(depth)?;
                    match inner.0 {
                        Node::Attribute(_) | Node::Header(_) => Ok((Node::Has(Box::new(inner.0)), Kind::Truth)),
                        _ => Err(wrong(at, "has() is for attributes")),
                    }
                }
                "size" => {
                    let inner = of_kind(at, self.argument(depth)?, Kind::Text, "size")?;
                    Ok((Node::Size(Box::new(inner)), Kind::Number))
                }
                "string" => Ok((Node::Written(Box::new(self.argument(depth)?.0)), Kind::Text)),
                _ => self.attribute(at, name),
            },
            Some(word) => Err(wrong(at, format!("{} is not understood here", shown(&word)))),
            None => Err(wrong(at, "something is missing")),
        }
    }

    fn argument(&mut self, depth: usize) -> Result<Typed, BadExpression> {
        self.need("(")?;
        let read = self.choice(depth + 1)?;
        self.need(")")?;
        Ok(read)
    }

    /// An attribute: names with dots between them, but for functions at their end.
    fn attribute(&mut self, at: usize, mut name: String) -> Result<Typed, BadExpression> {
        if self.takes(".") {
            let Some(Word::Name(second)) = self.take() else { return Err(wrong(at, format!("{name:?} is not known"))) };
            name = format!("{name}.{second}");
        }
        if self.vocabulary == Vocabulary::Labels {
            let below = format!("{name}.");
            if PEERS.iter().any(|(known, _)| known.starts_with(&below)) && self.takes(".") {
                let Some(Word::Name(third)) = self.take() else {
                    return Err(wrong(at, format!("{name:?} is not known")));
                };
                name = below + &third;
            }
            if let Some((_, attribute)) = PEERS.into_iter().find(|(known, _)| *known == name) {
                return Ok((Node::Attribute(attribute), Kind::Text));
            }
        }
        if name == "request.headers" {
            if self.takes("[") {
                let Some(Word::Text(asked)) = self.take() else {
                    return Err(wrong(at, "request.headers[] needs the name of a header, in quotes"));
                };
                self.need("]")?;
                return header(at, &asked);
            }
            if self.takes(".")
                && let Some(Word::Name(asked)) = self.take()
            {
                return header(at, &asked);
            }
            return Err(wrong(at, "of request.headers, one is asked for: request.headers['x-name']"));
        }
        if let Some((_, asked)) = HEADERS.into_iter().find(|(known, _)| *known == name) {
            return header(at, asked);
        }
        let known = ATTRIBUTES.into_iter().find(|(known, ..)| *known == name);
        let (_, attribute, kind) = known.ok_or_else(|| wrong(at, format!("{name:?} is not known")))?;
        Ok((Node::Attribute(attribute), kind))
    }
}

fn header(at: usize, name: &str) -> Result<Typed, BadExpression> {
    let name = name.to_ascii_lowercase();
    if let Some((_, attribute)) = PSEUDO_HEADERS.into_iter().find(|(known, _)| *known == name) {
        return Ok((Node::Attribute(attribute), Kind::Text));
    }
    // RFC 9110 §5.6.2
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(wrong(at, format!("{name:?} is no name of a header")));
    }
    Ok((Node::Header(name), Kind::Text))
}

fn of_kind(at: usize, (node, kind): Typed, wanted: Kind, sign: &str) -> Result<Node, BadExpression> {
    if kind == wanted { Ok(node) } else { Err(wrong(at, format!("{sign:?} needs {wanted} here, and this is {kind}"))) }
}
