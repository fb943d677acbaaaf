//! What users write of access logs and labels: conditions and values in CEL, and formats of lines.

use std::borrow::Cow;

use fairway_core::access_log::{Entry, Operator, Said, Template};
use fairway_core::cel::{Attribute, Expression, Subject, Value};

use crate::input::Input;

/// A request that has every other thing, so that both ways are walked.
struct Request(u8);

impl Subject for Request {
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        Some(match attribute {
            Attribute::RequestSize => Value::Number(i64::MAX),
            Attribute::ResponseCode => Value::Number(200),
            Attribute::MutualTls => Value::Truth(true),
            Attribute::Method => Value::Text("GET".into()),
            _ => return None,
        })
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        (name.len() % 2 == usize::from(self.0 & 1)).then(|| name.to_owned().into())
    }
}

impl Entry for Request {
    fn say(&self, operator: &Operator) -> Option<Said<'_>> {
        match operator {
            Operator::Request(name, _) => Some(Said::Text(name.as_str().to_owned().into())),
            Operator::Plain(_) => Some(Said::Number(7)),
            Operator::StartTime | Operator::Response(..) => None,
        }
    }
}

/// An expression, and a format. What is read is as it was written, and has a value or none, whatever the request.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let request = Request(input.byte());
    let (expression, format) = (input.piece(), input.rest());
    if let Ok(text) = std::str::from_utf8(expression)
        && let Ok(read) = Expression::label(text)
    {
        let value = read.of(&request);
        // What Envoy's attributes are enough for means the same with more of them.
        assert!(Expression::value(text).is_ok_and(|it| it.of(&request) == value) || Expression::value(text).is_err());
    }
    if let Ok(text) = std::str::from_utf8(expression)
        && let Ok(read) = Expression::value(text)
    {
        assert!(Expression::label(text).is_ok(), "{text}");
        assert_eq!(read.text(), text);
        let says = read.of(&request) == Some(Value::Truth(true));
        assert_eq!(read.holds(&request), says);
        let is_condition = Expression::condition(text).is_ok();
        assert!(is_condition || !says, "{text}");
        assert!(read.headers().iter().all(|name| !name.is_empty() && !name.contains(' ')));
    }
    if let Ok(text) = std::str::from_utf8(format)
        && let Ok(template) = Template::parse(text)
    {
        let (line, short) = (template.write(&request, false), template.write(&request, true));
        assert!(short.len() <= line.len(), "{text}");
        assert!(text.contains('%') || line == text);
    }
}
