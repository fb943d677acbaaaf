//! Who may send which requests through a waypoint: what AuthorizationPolicies with targets come to, in no proxy's language.
//!
//! A policy is a formula over what a request and its connection show. What whoever enforces it cannot know never widens
//! access: an ALLOW rule with such a part matches nothing, and a DENY rule is enforced without that part.

use fairway_core::source::ObjectKey;
use ipnet::IpNet;

pub mod read;

/// A policy that is attached to something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Namespace and name, joined with a slash.
    pub name: String,
    /// What it is attached to.
    pub places: Vec<Place>,
    /// Verdict when a rule matches.
    pub verdict: Verdict,
    /// It is only tried out: what it would decide is told, and nothing follows from it.
    pub is_tried: bool,
    /// Any may match.
    pub rules: Vec<Rule>,
}

/// What a policy is attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A Service, ServiceEntry or Gateway.
    Object(ObjectKey),
    /// All waypoints of this class.
    Class(String),
    /// Everything in this namespace: what was meant cannot be read.
    Namespace(String),
}

/// What a policy decides where a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Once there is such a policy, what none of them matches is refused.
    Allow,
    /// It is refused.
    Deny,
    /// The provider of this name is asked; where it cannot be, it is refused.
    Custom(String),
    /// Nothing; it is told that it matches.
    Audit,
}

/// One rule: both must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its place among the policy's rules.
    pub index: usize,
    /// Who asks.
    pub who: Check<Who>,
    /// What for.
    pub what: Check<What>,
}

/// What must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check<T> {
    /// All of these; always, if there are none.
    All(Vec<Check<T>>),
    /// Any of these; never, if there are none.
    Any(Vec<Check<T>>),
    /// Not this.
    Not(Box<Check<T>>),
    /// This.
    Is(T),
    /// Something that no waypoint knows.
    Unknown,
}

/// What can be known of who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Its SPIFFE ID.
    Peer(Pattern),
    /// Where its connection comes from.
    Source(IpNet),
    /// Where its request comes from, before proxies that are believed.
    Remote(IpNet),
    /// A header of its request, name in lower case.
    Header(String, Pattern),
    /// A claim of its token, by the names that lead to it; of one that is a list, any element.
    Claim(Vec<String>, Pattern),
}

/// What can be known of what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Address that was dialled.
    Destination(IpNet),
    /// Port that was dialled.
    Port(u16),
    /// The name that a TLS client asks for, in lower case.
    ServerName(Pattern),
    /// A header, name in lower case.
    Header(String, Pattern),
    /// The path, without the query.
    Path(Pattern),
}

/// Something that shows on connections or on requests.
pub trait Shown: Clone + PartialEq {
    /// Where it shows.
    fn layer(&self) -> Layer;
}

impl Shown for Who {
    fn layer(&self) -> Layer {
        match self {
            Self::Peer(_) | Self::Source(_) => Layer::Connection,
            Self::Remote(_) | Self::Header(..) => Layer::Head,
            // Tokens are looked at after who is asked about requests.
            Self::Claim(..) => Layer::Request,
        }
    }
}

impl Shown for What {
    fn layer(&self) -> Layer {
        match self {
            Self::Destination(_) | Self::Port(_) => Layer::Connection,
            Self::ServerName(_) => Layer::Hello,
            Self::Header(..) | Self::Path(_) => Layer::Head,
        }
    }
}

/// A text to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// This one.
    Exact(String),
    /// Those that begin so.
    Prefix(String),
    /// Those that end so.
    Suffix(String),
    /// Those that match as a whole.
    Regex(String),
}

/// How much of the traffic is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Connections.
    Connection,
    /// How their clients begin to speak TLS, too.
    Hello,
    /// Requests as they come, and their connections.
    Head,
    /// What their tokens claim, too.
    Request,
}

impl<T: Shown> Check<T> {
    /// Holds for everything.
    pub const ALWAYS: Self = Self::All(Vec::new());

    fn is_known(&self, layer: Layer) -> bool {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().all(|part| part.is_known(layer)),
            Self::Not(part) => part.is_known(layer),
            Self::Is(shown) => shown.layer() <= layer,
            Self::Unknown => false,
        }
    }

    /// A check that holds at least where this one does, and needs nothing that is not known.
    fn widened(&self, layer: Layer) -> Self {
        match self {
            known if known.is_known(layer) => known.clone(),
            Self::All(parts) => {
                let parts = parts.iter().map(|part| part.widened(layer)).filter(|part| *part != Self::ALWAYS);
                Self::All(parts.collect())
            }
            Self::Any(parts) => {
                let parts: Vec<_> = parts.iter().map(|part| part.widened(layer)).collect();
                if parts.contains(&Self::ALWAYS) { Self::ALWAYS } else { Self::Any(parts) }
            }
            _ => Self::ALWAYS,
        }
    }
}

impl<T> Check<T> {
    /// Whether anything of this kind is in it.
    fn has(&self, is_meant: fn(&T) -> bool) -> bool {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().any(|part| part.has(is_meant)),
            Self::Not(part) => part.has(is_meant),
            Self::Is(shown) => is_meant(shown),
            Self::Unknown => false,
        }
    }
}

impl Policy {
    /// Whether it asks for names of TLS.
    #[must_use]
    pub fn asks_for_server_names(&self) -> bool {
        self.rules.iter().any(|rule| rule.what.has(|what| matches!(what, What::ServerName(_))))
    }

    /// Whether it asks where requests come from, before proxies.
    #[must_use]
    pub fn asks_for_remote(&self) -> bool {
        self.rules.iter().any(|rule| rule.who.has(|who| matches!(who, Who::Remote(_))))
    }

    /// The rules, as far as who looks at this layer can follow them.
    pub fn rules_at(&self, layer: Layer) -> impl Iterator<Item = Rule> {
        self.rules.iter().filter_map(move |rule| match self.verdict {
            // Rather one too many is told of than one too few.
            Verdict::Deny | Verdict::Custom(_) | Verdict::Audit => {
                Some(Rule { index: rule.index, who: rule.who.widened(layer), what: rule.what.widened(layer) })
            }
            Verdict::Allow => (rule.who.is_known(layer) && rule.what.is_known(layer)).then(|| rule.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Check<Who> {
        Check::Is(Who::Peer(Pattern::Exact("spiffe://a".to_owned())))
    }

    fn header() -> Check<Who> {
        Check::Is(Who::Header("a".to_owned(), Pattern::Exact("b".to_owned())))
    }

    #[test]
    fn what_is_not_known_never_widens_access() {
        let not = |check: Check<Who>| Check::Not(Box::new(check));
        let rows = [
            ("known", peer(), Layer::Connection, true, peer()),
            ("a request at layer 4", header(), Layer::Connection, false, Check::ALWAYS),
            ("a request at layer 7", header(), Layer::Request, true, header()),
            ("a request, before TLS", header(), Layer::Hello, false, Check::ALWAYS),
            ("nobody knows", Check::Unknown, Layer::Request, false, Check::ALWAYS),
            ("one of two", Check::All(vec![peer(), header()]), Layer::Connection, false, Check::All(vec![peer()])),
            ("either of two", Check::Any(vec![peer(), header()]), Layer::Connection, false, Check::ALWAYS),
            ("a negation", not(header()), Layer::Connection, false, Check::ALWAYS),
            ("a known negation", not(peer()), Layer::Connection, true, not(peer())),
            (
                "a negation of both",
                Check::All(vec![not(Check::Any(vec![peer(), header()])), peer()]),
                Layer::Connection,
                false,
                Check::All(vec![peer()]),
            ),
        ];
        for (name, check, layer, allows, denies) in rows {
            let rules = |verdict| {
                let rule = Rule { index: 0, who: check.clone(), what: Check::ALWAYS };
                let (name, places) = (String::new(), Vec::new());
                let policy = Policy { name, places, verdict, is_tried: false, rules: vec![rule] };
                policy.rules_at(layer).map(|rule| rule.who).collect::<Vec<_>>()
            };
            assert_eq!(rules(Verdict::Allow), if allows { vec![check.clone()] } else { Vec::new() }, "{name}");
            assert_eq!(rules(Verdict::Deny), vec![denies.clone()], "{name}");
            assert_eq!(rules(Verdict::Audit), vec![denies], "{name}");
        }
    }
}
