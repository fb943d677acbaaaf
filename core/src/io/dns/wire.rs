//! DNS messages as bytes: what a query asks, the answer to it, and whether a reply belongs to a query.
//!
//! Nothing here trusts its input, and nothing panics on it. What cannot be read is passed on, so that nothing works worse
//! than without us.

use std::net::IpAddr;
use std::time::Duration;

use crate::dns::{Answer, Decision, Family, Zone, decide};
use crate::limits;
use crate::snapshot::Snapshot;
use crate::workload::Workload;
use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinDecodable;
use rand::Rng;

/// A message's header (RFC 1035 §4.1.1).
const HEADER: usize = 12;
/// The largest message: its length has two bytes over TCP (RFC 1035 §4.2.2), and a datagram's has, too.
pub const MAX_MESSAGE: usize = 65_535;
/// What a client takes in a datagram unless it says otherwise (RFC 1035 §4.2.1).
const PLAIN_DATAGRAM: u16 = 512;
/// What we ask resolvers to send in a datagram at most: it fits every link without fragments (RFC 9715 §3.1).
const OUR_DATAGRAM: u16 = 1_232;
/// Bytes of a record whose name is a pointer to one before (RFC 1035 §4.1.4), without its data.
const RECORD: usize = 12;

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram each.
    Udp,
    /// A stream of messages, each after its length.
    Tcp,
}

impl Transport {
    /// The value of Istio's `request_protocol` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// What to do with the bytes a pod sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// No query: nobody waits for an answer.
    Drop,
    /// Answer with this message.
    Reply(Vec<u8>),
    /// Ask a resolver with the same bytes, and give its answer as it is.
    Forward,
}

/// What a query asks for, for metrics: a name from a closed list.
pub type Kind = &'static str;

/// The action, and what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub action: Action,
    /// What was asked for.
    pub kind: Kind,
}

/// Decides on what a pod sent, whose workload is `client`. Decodes, decides and encodes; the whole of what bytes from a
/// pod can reach without a resolver.
#[must_use]
pub fn consider(
    snapshot: &Snapshot,
    zone: &Zone,
    client: Option<&Workload>,
    transport: Transport,
    bytes: &[u8],
    rng: &mut impl Rng,
) -> Verdict {
    let verdict = |action, kind| Verdict { action, kind };
    let Some(header) = bytes.get(..HEADER).and_then(|bytes| Header::from_bytes(bytes).ok()) else {
        return verdict(Action::Drop, UNKNOWN_KIND);
    };
    if header.metadata.message_type == MessageType::Response {
        return verdict(Action::Drop, UNKNOWN_KIND);
    }
    if header.metadata.op_code != OpCode::Query {
        return verdict(failure(bytes, ResponseCode::NotImp).map_or(Action::Drop, Action::Reply), UNKNOWN_KIND);
    }
    // Asked before the rest is read, because room is made for as many questions as the header says.
    let Some(query) = (header.counts.queries == 1).then(|| Message::from_vec(bytes).ok()).flatten() else {
        return verdict(Action::Forward, UNKNOWN_KIND);
    };
    let Some(question) = query.queries.first() else { return verdict(Action::Forward, UNKNOWN_KIND) };
    let kind = kind_of(question.query_type);
    let reply = client.and_then(|client| {
        let (name, family) = ours_to_decide(&query, question)?;
        match decide(snapshot, zone, client, &name, family, rng) {
            Decision::Answer(answer) => encode(&query, question, answer, transport),
            Decision::Forward => None,
        }
    });
    verdict(reply.map_or(Action::Forward, Action::Reply), kind)
}

/// The name and family that are asked for, if that is what is asked, in a way we understand in full.
fn ours_to_decide(query: &Message, question: &Query) -> Option<(String, Family)> {
    let family = match question.query_type {
        RecordType::A => Family::V4,
        RecordType::AAAA => Family::V6,
        _ => return None,
    };
    // Signatures, newer versions of EDNS and the like are for those who know them.
    let plain = query.answers.is_empty()
        && query.authorities.is_empty()
        && query.additionals.is_empty()
        && query.signature.is_none()
        && query.edns.as_ref().is_none_or(|edns| edns.version() == 0);
    if !plain || question.query_class != DNSClass::IN {
        return None;
    }
    Some((text_of(&question.name)?, family))
}

/// A name as text; none if a label has characters that hostnames do not.
fn text_of(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*');
        if !label.iter().all(allowed) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(std::str::from_utf8(label).ok()?);
    }
    Some(text)
}

/// The message with the answer; none if it cannot be written.
fn encode(query: &Message, question: &Query, answer: Answer, transport: Transport) -> Option<Vec<u8>> {
    let ttl = u32::try_from(limits::DNS_ANSWER_TTL.duration().as_secs()).unwrap_or(0);
    let mut reply = reply_to(query, ResponseCode::NoError);
    reply.metadata.authoritative = true;
    let mut owner = question.name.clone();
    if let Some(alias) = answer.alias_of {
        let mut target = Name::from_ascii(alias).ok()?;
        target.set_fqdn(true);
        reply.answers.push(Record::from_rdata(owner, ttl, RData::CNAME(CNAME(target.clone()))));
        owner = target;
    }
    reply.answers.extend(answer.addresses.iter().map(|ip| {
        let data = match *ip {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        Record::from_rdata(owner.clone(), ttl, data)
    }));
    let limit = match transport {
        Transport::Udp => usize::from(query.max_payload().max(PLAIN_DATAGRAM)),
        Transport::Tcp => MAX_MESSAGE,
    };
    let bytes = reply.to_vec().ok()?;
    let Some(excess) = bytes.len().checked_sub(limit).filter(|excess| *excess > 0) else { return Some(bytes) };
    // Whole records only, and a sign that there are more: the client asks again over TCP, or makes do (RFC 2181 §9).
    let record = RECORD + if question.query_type == RecordType::A { 4 } else { 16 };
    let kept = answer.addresses.len().saturating_sub(excess.div_ceil(record));
    let names = reply.answers.len() - answer.addresses.len();
    reply.answers.truncate(names + kept);
    reply.metadata.truncation = true;
    reply.to_vec().ok().filter(|bytes| bytes.len() <= limit)
}

fn reply_to(query: &Message, code: ResponseCode) -> Message {
    let mut metadata = Metadata::response_from_request(&query.metadata);
    metadata.recursion_available = true;
    metadata.response_code = code;
    let mut reply = Message::new(metadata.id, MessageType::Response, metadata.op_code);
    reply.metadata = metadata;
    reply.queries.clone_from(&query.queries);
    // RFC 6891 §6.1.1: who asks with it is answered with it.
    reply.edns = query.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(asked.max_payload().max(PLAIN_DATAGRAM));
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    });
    reply
}

/// The message that says that a query failed, as much of the query in it as can be read; none if it is no query.
#[must_use]
pub fn failure(query: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let header = Header::from_bytes(query.get(..HEADER)?).ok()?;
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    let readable = (header.counts.queries == 1).then(|| Message::from_vec(query).ok()).flatten();
    let query = readable.unwrap_or_else(|| {
        let mut bare = Message::new(header.metadata.id, MessageType::Query, header.metadata.op_code);
        bare.metadata = header.metadata;
        bare
    });
    reply_to(&query, code).to_vec().ok()
}

/// Whether `reply` answers `query` (RFC 5452 §4.2 and §4.3): its number, and its question where it has one.
#[must_use]
pub fn accepts(query: &[u8], reply: &[u8]) -> bool {
    let (Some(asked), Some(answered)) = (query.get(..HEADER), reply.get(..HEADER)) else { return false };
    let is_response = answered.get(2).is_some_and(|flags| flags & 0x80 != 0);
    if asked.get(..2) != answered.get(..2) || !is_response {
        return false;
    }
    // Where we cannot read the question, others may: there the number must do.
    let Some((name, kind)) = question_of(query) else { return true };
    match question_of(reply) {
        Some((answered_name, answered_kind)) => kind == answered_kind && name.eq_ignore_ascii_case(answered_name),
        // Some leave the question out of errors.
        None => answered.get(4..6) == Some(&[0, 0]) && code_of(reply) != 0,
    }
}

/// The only question of a message: its name as it is written, then type and class.
fn question_of(message: &[u8]) -> Option<(&[u8], &[u8])> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut end = HEADER;
    loop {
        let length = usize::from(*message.get(end)?);
        end += 1 + length;
        match length {
            0 => break,
            1..=63 => {}
            // A pointer makes no sense in what comes first.
            _ => return None,
        }
    }
    Some((message.get(HEADER..end)?, message.get(end..end + 4)?))
}

/// The response code in the header.
#[must_use]
pub fn code_of(reply: &[u8]) -> u8 {
    reply.get(3).map_or(0, |flags| flags & 0x0f)
}

/// Whether there is more than fitted.
#[must_use]
pub fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

/// Whether another resolver may do better: this one failed, or does not want to be asked.
#[must_use]
pub fn is_refusal(reply: &[u8]) -> bool {
    [ResponseCode::ServFail, ResponseCode::NotImp, ResponseCode::Refused]
        .iter()
        .any(|code| code.low() == code_of(reply))
}

/// A query of our own for the addresses of `name`; none if that is no name.
#[must_use]
pub fn question(id: u16, name: &str, family: Family) -> Option<Vec<u8>> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    let kind = match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    };
    let mut query = Message::new(id, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name, kind));
    let mut edns = Edns::new();
    edns.set_max_payload(OUR_DATAGRAM);
    query.set_edns(edns);
    query.to_vec().ok()
}

/// What a resolver's reply says about a name's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// These, for so long; none if the name has none of the family.
    Addresses(Vec<IpAddr>, Duration),
    /// The resolver has no answer, for this reason.
    Nothing(String),
}

/// Reads the reply to a [`question`].
#[must_use]
pub fn addresses(reply: &[u8]) -> Found {
    let single = reply.get(4..6).is_some_and(|count| count <= &[0, 1][..]);
    let Some(message) = single.then(|| Message::from_vec(reply).ok()).flatten() else {
        return Found::Nothing("the resolver's reply cannot be read".to_owned());
    };
    if message.metadata.response_code != ResponseCode::NoError {
        return Found::Nothing(format!("the resolver says {}", message.metadata.response_code));
    }
    // Whoever owns them: a resolver gives the chain of aliases and the records at its end.
    let records = message.answers.iter().filter_map(|record| match record.data {
        RData::A(A(ip)) => Some((IpAddr::from(ip), record.ttl)),
        RData::AAAA(AAAA(ip)) => Some((IpAddr::from(ip).to_canonical(), record.ttl)),
        _ => None,
    });
    let (addresses, lifetimes): (Vec<_>, Vec<_>) = records.unzip();
    let aliases = message.answers.iter().map(|record| record.ttl).min();
    let ttl = lifetimes.into_iter().chain(aliases).min().unwrap_or(0);
    Found::Addresses(addresses, Duration::from_secs(ttl.into()))
}

/// The kind of a query nobody has a name for.
pub const UNKNOWN_KIND: Kind = "unknown";

/// A closed list, because the label of a metric must not be the pod's to choose.
fn kind_of(kind: RecordType) -> Kind {
    match kind {
        RecordType::A => "a",
        RecordType::AAAA => "aaaa",
        RecordType::ANY => "any",
        RecordType::AXFR => "axfr",
        RecordType::CAA => "caa",
        RecordType::CNAME => "cname",
        RecordType::HTTPS => "https",
        RecordType::IXFR => "ixfr",
        RecordType::MX => "mx",
        RecordType::NAPTR => "naptr",
        RecordType::NS => "ns",
        RecordType::PTR => "ptr",
        RecordType::SOA => "soa",
        RecordType::SRV => "srv",
        RecordType::SVCB => "svcb",
        RecordType::TLSA => "tlsa",
        RecordType::TXT => "txt",
        _ => UNKNOWN_KIND,
    }
}

#[cfg(test)]
mod tests;
