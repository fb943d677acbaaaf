//! Conditions and values about requests, in the part of CEL (the language definition of cel-spec) that is understood here, with
//! the attributes that Envoy has for requests.
//!
//! What is understood means exactly what it means there; everything else is refused by name. Types are checked when an expression
//! is read, so that a comparison that could never be made is an error of who wrote it rather than of a request.
//! Labels of metrics may ask for what the mesh knows of both ends, too, by Istio's names.

use std::borrow::Cow;
use std::fmt;

mod parse;

/// Bytes of an expression; a longer one is a mistake.
pub const LONGEST: usize = 4096;

/// An expression whose types fit.
#[derive(Clone)]
pub struct Expression {
    text: String,
    root: Node,
    kind: Kind,
}

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} (at character {at})")]
pub struct BadExpression {
    /// How many characters there are before it.
    pub at: usize,
    /// What is wrong there.
    pub problem: String,
}

/// What is known of a request, by the names that Envoy has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attribute {
    /// `request.method`
    Method,
    /// `request.path`: with the query.
    Path,
    /// `request.url_path`: without it.
    UrlPath,
    /// `request.query`
    Query,
    /// `request.host`
    Host,
    /// `request.scheme`
    Scheme,
    /// `request.protocol`
    Protocol,
    /// `request.size`: bytes of its body.
    RequestSize,
    /// `response.code`
    ResponseCode,
    /// `response.grpc_status`
    GrpcStatus,
    /// `response.size`: bytes of its body.
    ResponseSize,
    /// `connection.mtls`
    MutualTls,
    /// `connection.uri_san_peer_certificate`: whom the client has proved to be.
    Principal,
    /// `source.address`
    SourceAddress,
    /// `source.port`
    SourcePort,
    /// `destination.address`
    DestinationAddress,
    /// `destination.port`
    DestinationPort,
    /// `upstream.address`
    UpstreamAddress,
    /// `xds.route_name`
    RouteName,
    /// Something of one of the ends, which labels may ask for.
    Peer(End, Known),
}

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// The client.
    Source,
    /// The endpoint.
    Destination,
}

/// What the mesh knows of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Known {
    /// Name of the pod.
    Pod,
    /// Name of what the pod is a part of, such as its Deployment.
    Workload,
    /// Its namespace.
    Namespace,
    /// Who it has proved to be.
    Principal,
    /// Its canonical service, which is its app.
    Service,
    /// Its canonical revision, which is its version.
    Revision,
    /// Its cluster.
    Cluster,
}

/// Of what kind a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// True or false.
    Truth,
    /// A whole number.
    Number,
    /// A text.
    Text,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truth => "a truth value",
            Self::Number => "a number",
            Self::Text => "a text",
        })
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// True or false.
    Truth(bool),
    /// A whole number.
    Number(i64),
    /// A text.
    Text(Cow<'a, str>),
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truth(truth) => truth.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// What expressions are about.
pub trait Subject {
    /// An attribute; none where there is none, for example no status as the client has left.
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>>;

    /// A header of the request, by its name in lower case.
    fn header(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// All names, and the kinds of what they stand for.
const ATTRIBUTES: [(&str, Attribute, Kind); 19] = [
    ("request.method", Attribute::Method, Kind::Text),
    ("request.path", Attribute::Path, Kind::Text),
    ("request.url_path", Attribute::UrlPath, Kind::Text),
    ("request.query", Attribute::Query, Kind::Text),
    ("request.host", Attribute::Host, Kind::Text),
    ("request.scheme", Attribute::Scheme, Kind::Text),
    ("request.protocol", Attribute::Protocol, Kind::Text),
    ("request.size", Attribute::RequestSize, Kind::Number),
    ("response.code", Attribute::ResponseCode, Kind::Number),
    ("response.grpc_status", Attribute::GrpcStatus, Kind::Number),
    ("response.size", Attribute::ResponseSize, Kind::Number),
    ("connection.mtls", Attribute::MutualTls, Kind::Truth),
    ("connection.uri_san_peer_certificate", Attribute::Principal, Kind::Text),
    ("source.address", Attribute::SourceAddress, Kind::Text),
    ("source.port", Attribute::SourcePort, Kind::Number),
    ("destination.address", Attribute::DestinationAddress, Kind::Text),
    ("destination.port", Attribute::DestinationPort, Kind::Number),
    ("upstream.address", Attribute::UpstreamAddress, Kind::Text),
    ("xds.route_name", Attribute::RouteName, Kind::Text),
];

/// What labels may ask for of both ends. `filter_state` is what Istio's documents use since 1.24, the others are what its
/// policies call the same.
const PEERS: [(&str, Attribute); 22] = [
    ("filter_state.downstream_peer.name", Attribute::Peer(End::Source, Known::Pod)),
    ("filter_state.downstream_peer.workload", Attribute::Peer(End::Source, Known::Workload)),
    ("filter_state.downstream_peer.namespace", Attribute::Peer(End::Source, Known::Namespace)),
    ("filter_state.downstream_peer.service", Attribute::Peer(End::Source, Known::Service)),
    ("filter_state.downstream_peer.app", Attribute::Peer(End::Source, Known::Service)),
    ("filter_state.downstream_peer.revision", Attribute::Peer(End::Source, Known::Revision)),
    ("filter_state.downstream_peer.version", Attribute::Peer(End::Source, Known::Revision)),
    ("filter_state.downstream_peer.cluster", Attribute::Peer(End::Source, Known::Cluster)),
    ("filter_state.upstream_peer.name", Attribute::Peer(End::Destination, Known::Pod)),
    ("filter_state.upstream_peer.workload", Attribute::Peer(End::Destination, Known::Workload)),
    ("filter_state.upstream_peer.namespace", Attribute::Peer(End::Destination, Known::Namespace)),
    ("filter_state.upstream_peer.service", Attribute::Peer(End::Destination, Known::Service)),
    ("filter_state.upstream_peer.app", Attribute::Peer(End::Destination, Known::Service)),
    ("filter_state.upstream_peer.revision", Attribute::Peer(End::Destination, Known::Revision)),
    ("filter_state.upstream_peer.version", Attribute::Peer(End::Destination, Known::Revision)),
    ("filter_state.upstream_peer.cluster", Attribute::Peer(End::Destination, Known::Cluster)),
    ("source.workload.name", Attribute::Peer(End::Source, Known::Workload)),
    ("source.workload.namespace", Attribute::Peer(End::Source, Known::Namespace)),
    ("source.principal", Attribute::Peer(End::Source, Known::Principal)),
    ("destination.workload.name", Attribute::Peer(End::Destination, Known::Workload)),
    ("destination.workload.namespace", Attribute::Peer(End::Destination, Known::Namespace)),
    ("destination.principal", Attribute::Peer(End::Destination, Known::Principal)),
];

/// What an expression may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vocabulary {
    /// What Envoy has for requests and connections.
    Envoy,
    /// And what the mesh knows of both ends.
    Labels,
}

/// Attributes that are headers of the request under another name.
const HEADERS: [(&str, &str); 3] =
    [("request.id", "x-request-id"), ("request.useragent", "user-agent"), ("request.referer", "referer")];

#[derive(Clone, Debug)]
enum Node {
    Truth(bool),
    Number(i64),
    Text(String),
    Attribute(Attribute),
    Header(String),
    Has(Box<Node>),
    Not(Box<Node>),
    Both(Box<Node>, Box<Node>),
    Either(Box<Node>, Box<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    OneOf(Box<Node>, Vec<Node>),
    Test(Test, Box<Node>, Box<Node>),
    Size(Box<Node>),
    Written(Box<Node>),
    Sum(Box<Node>, Box<Node>),
    Choice(Box<Node>, Box<Node>, Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    StartsWith,
    EndsWith,
    Contains,
}

impl Expression {
    /// Reads a condition.
    ///
    /// # Errors
    /// What of it is not understood, or that it is none.
    pub fn condition(text: &str) -> Result<Self, BadExpression> {
        let read = Self::value(text)?;
        if read.kind != Kind::Truth {
            return Err(BadExpression { at: 0, problem: format!("is {}, and not a condition", read.kind) });
        }
        Ok(read)
    }

    /// Reads an expression for any value.
    ///
    /// # Errors
    /// What of it is not understood.
    pub fn value(text: &str) -> Result<Self, BadExpression> {
        Self::read(text, Vocabulary::Envoy)
    }

    /// Reads what a label of a metric says, which may be about both ends, too.
    ///
    /// # Errors
    /// What of it is not understood.
    pub fn label(text: &str) -> Result<Self, BadExpression> {
        Self::read(text, Vocabulary::Labels)
    }

    fn read(text: &str, vocabulary: Vocabulary) -> Result<Self, BadExpression> {
        let (root, kind) = parse::parse(text, vocabulary)?;
        Ok(Self { text: text.to_owned(), root, kind })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the condition holds. One that hangs on what there is not does not.
    pub fn holds(&self, subject: &impl Subject) -> bool {
        self.root.of(subject) == Some(Value::Truth(true))
    }

    /// The value; none where it hangs on what there is not.
    pub fn of<'a>(&'a self, subject: &'a impl Subject) -> Option<Value<'a>> {
        self.root.of(subject)
    }

    /// Names of the headers that it asks for, in lower case.
    #[must_use]
    pub fn headers(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.root.visit(&mut |node| {
            if let Node::Header(name) = node {
                names.push(name.as_str());
            }
        });
        names
    }

    /// Whether it asks for this.
    #[must_use]
    pub fn asks_for(&self, attribute: Attribute) -> bool {
        let mut asks = false;
        self.root.visit(&mut |node| asks |= matches!(node, Node::Attribute(asked) if *asked == attribute));
        asks
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl Node {
    /// Its value; none is CEL's error.
    fn of<'a>(&'a self, subject: &'a impl Subject) -> Option<Value<'a>> {
        let truth = |node: &'a Self| match node.of(subject)? {
            Value::Truth(truth) => Some(truth),
            Value::Number(_) | Value::Text(_) => None,
        };
        let text = |node: &'a Self| match node.of(subject)? {
            Value::Text(text) => Some(text),
            Value::Truth(_) | Value::Number(_) => None,
        };
        Some(match self {
            Self::Truth(truth) => Value::Truth(*truth),
            Self::Number(number) => Value::Number(*number),
            Self::Text(text) => Value::Text(text.as_str().into()),
            Self::Attribute(attribute) => subject.attribute(*attribute)?,
            Self::Header(name) => Value::Text(subject.header(name)?),
            Self::Has(node) => Value::Truth(node.of(subject).is_some()),
            Self::Not(node) => Value::Truth(!truth(node)?),
            // What one side decides is so whatever the other one is, be it an error (cel-spec, Logical Operators).
            Self::Both(left, right) => match (truth(left), truth(right)) {
                (Some(false), _) | (_, Some(false)) => Value::Truth(false),
                (left, right) => Value::Truth(left? && right?),
            },
            Self::Either(left, right) => match (truth(left), truth(right)) {
                (Some(true), _) | (_, Some(true)) => Value::Truth(true),
                (left, right) => Value::Truth(left? || right?),
            },
            Self::Compare(comparison, left, right) => {
                Value::Truth(comparison.holds(&left.of(subject)?, &right.of(subject)?)?)
            }
            Self::OneOf(node, list) => {
                let value = node.of(subject)?;
                // One that is equal is enough, even beside an error (cel-spec, `in`).
                let all: Vec<Option<Value<'_>>> = list.iter().map(|entry| entry.of(subject)).collect();
                let found = all.iter().flatten().any(|entry| *entry == value);
                if !found && all.iter().any(Option::is_none) {
                    return None;
                }
                Value::Truth(found)
            }
            Self::Test(test, whole, part) => {
                let (whole, part) = (text(whole)?, text(part)?);
                Value::Truth(match test {
                    Test::StartsWith => whole.starts_with(&*part),
                    Test::EndsWith => whole.ends_with(&*part),
                    Test::Contains => whole.contains(&*part),
                })
            }
            // In code points (cel-spec, `size`).
            Self::Size(node) => Value::Number(i64::try_from(text(node)?.chars().count()).ok()?),
            Self::Written(node) => Value::Text(node.of(subject)?.to_string().into()),
            Self::Sum(left, right) => match (left.of(subject)?, right.of(subject)?) {
                (Value::Number(left), Value::Number(right)) => Value::Number(left.checked_add(right)?),
                (Value::Text(left), Value::Text(right)) => Value::Text((left + &*right).into_owned().into()),
                _ => return None,
            },
            Self::Choice(condition, yes, no) => {
                return if truth(condition)? { yes.of(subject) } else { no.of(subject) };
            }
        })
    }

    fn visit<'a>(&'a self, see: &mut impl FnMut(&'a Self)) {
        see(self);
        match self {
            Self::Truth(_) | Self::Number(_) | Self::Text(_) | Self::Attribute(_) | Self::Header(_) => {}
            Self::Has(node) | Self::Not(node) | Self::Size(node) | Self::Written(node) => node.visit(see),
            Self::Both(left, right)
            | Self::Either(left, right)
            | Self::Compare(_, left, right)
            | Self::Test(_, left, right)
            | Self::Sum(left, right) => {
                left.visit(see);
                right.visit(see);
            }
            Self::OneOf(node, list) => {
                node.visit(see);
                list.iter().for_each(|entry| entry.visit(see));
            }
            Self::Choice(condition, yes, no) => [condition, yes, no].into_iter().for_each(|node| node.visit(see)),
        }
    }
}

impl Comparison {
    fn holds(self, left: &Value<'_>, right: &Value<'_>) -> Option<bool> {
        // Texts by code points (cel-spec, Ordering), which is the order of their bytes.
        let order = match (left, right) {
            (Value::Truth(left), Value::Truth(right)) => left.cmp(right),
            (Value::Number(left), Value::Number(right)) => left.cmp(right),
            (Value::Text(left), Value::Text(right)) => left.cmp(right),
            _ => return None,
        };
        Some(match self {
            Self::Equal => order.is_eq(),
            Self::Unequal => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        })
    }
}

#[cfg(test)]
mod tests;
