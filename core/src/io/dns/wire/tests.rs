//! Tests of `io::dns::wire`: bytes in, bytes out.

use crate::service::Service;
use crate::snapshot::{Update, World};
use fairway_proto::workload as proto;
use proptest::prelude::*;

use super::*;

const CLIENT: &str = "Kubernetes//Pod/shop/client";

/// `server` with one address of each family, `crowd` with many, a host outside, and a client to ask.
fn world() -> World {
    let service = |hostname: &str, addresses: Vec<Vec<u8>>| {
        let network_address = |address| proto::NetworkAddress { address, ..Default::default() };
        let message = proto::Service {
            name: hostname.into(),
            namespace: "shop".into(),
            hostname: hostname.into(),
            addresses: addresses.into_iter().map(network_address).collect(),
            ..Default::default()
        };
        Update::from(Service::try_from(message).unwrap())
    };
    let client =
        proto::Workload { uid: CLIENT.into(), name: "client".into(), namespace: "shop".into(), ..Default::default() };
    let six = [&[0xfd, 0][..], &[0; 13], &[1]].concat();
    let crowd = (0..100).map(|last| vec![10, 96, 1, last]).collect();
    let mut world = World::complete();
    world.apply(vec![
        Update::from(Workload::try_from(client).unwrap()),
        service("server.shop.svc.cluster.local", vec![vec![10, 96, 0, 1], six]),
        service("crowd.shop.svc.cluster.local", crowd),
        service("api.example.com", vec![vec![240, 240, 0, 1]]),
    ]);
    world
}

fn considered(query: &[u8], transport: Transport) -> Verdict {
    let snapshot = world().snapshot();
    let client = snapshot.workload_by_uid(CLIENT).map(|client| &**client);
    consider(&snapshot, &Zone::default(), client, transport, query, &mut rand::rng())
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    message
}

fn replied(verdict: Verdict) -> Vec<u8> {
    match verdict.action {
        Action::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

/// A question for `server.shop`, written out: number, flags, counts, name, type, class.
const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06seRver\x04shop\x00\x00\x01\x00\x01";

#[test]
fn an_answer_byte_by_byte() {
    let expected = [
        // The same number; a response, authoritative, recursion desired and available, no error; one question, one answer.
        &b"\x12\x34\x85\x80\x00\x01\x00\x01\x00\x00\x00\x00"[..],
        // The question as it was asked, capitals and all.
        b"\x06seRver\x04shop\x00\x00\x01\x00\x01",
        // The name by a pointer to it, A, IN, 30 s, four bytes.
        b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x0a\x60\x00\x01",
    ]
    .concat();
    assert_eq!(replied(considered(QUERY, Transport::Udp)), expected);
    assert_eq!(replied(considered(QUERY, Transport::Tcp)), expected);
}

#[test]
fn a_name_with_a_search_suffix_is_an_alias() {
    let reply = replied(considered(
        &query("api.example.com.shop.svc.cluster.local", RecordType::A).to_vec().unwrap(),
        Transport::Udp,
    ));
    let reply = Message::from_vec(&reply).unwrap();
    let texts: Vec<String> = reply.answers.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "api.example.com.shop.svc.cluster.local. 30 IN CNAME api.example.com.",
            "api.example.com. 30 IN A 240.240.0.1"
        ]
    );
}

#[test]
fn what_is_answered_and_what_is_passed_on() {
    let edited = |edit: &dyn Fn(&mut Message)| {
        let mut message = query("server", RecordType::A);
        edit(&mut message);
        message.to_vec().unwrap()
    };
    let asked = |name: &str, kind| query(name, kind).to_vec().unwrap();
    let with_byte = |at: usize, byte: u8| {
        let mut bytes = QUERY.to_vec();
        bytes[at] = byte;
        bytes
    };
    let rows: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("an address", asked("server", RecordType::A), "NoError 1", "a"),
        ("the other family", asked("server", RecordType::AAAA), "NoError 1", "aaaa"),
        ("no address of the family", asked("api.example.com", RecordType::AAAA), "NoError 0", "aaaa"),
        ("another name", asked("example.org", RecordType::A), "forward", "a"),
        ("another type", asked("server", RecordType::TXT), "forward", "txt"),
        ("a service record", asked("_http._tcp.server.shop.svc.cluster.local", RecordType::SRV), "forward", "srv"),
        ("HTTPS", asked("server", RecordType::HTTPS), "forward", "https"),
        ("any type", asked("server", RecordType::ANY), "forward", "any"),
        ("a type nobody knows", asked("server", RecordType::Unknown(65_280)), "forward", "unknown"),
        ("another class", edited(&|message| message.queries[0].query_class = DNSClass::CH), "forward", "a"),
        ("two questions", edited(&|message| message.queries.push(message.queries[0].clone())), "forward", "unknown"),
        ("no question", edited(&|message| message.queries.clear()), "forward", "unknown"),
        (
            "a record that is no option",
            edited(&|message| {
                message.add_additional(Record::from_rdata(Name::root(), 0, RData::A(A::new(1, 2, 3, 4))));
            }),
            "forward",
            "a",
        ),
        ("EDNS", edited(&|message| message.edns = Some(Edns::new())), "NoError 1", "a"),
        (
            "a later EDNS",
            edited(&|message| {
                let mut edns = Edns::new();
                edns.set_version(1);
                message.set_edns(edns);
            }),
            "forward",
            "a",
        ),
        ("a label with a dot in it", with_byte(14, b'.'), "forward", "a"),
        ("a label that is not text", with_byte(14, 0xff), "forward", "a"),
        ("a name that has no end", with_byte(19, 0xc0), "forward", "unknown"),
        ("a count without records", with_byte(11, 9), "forward", "unknown"),
        ("many questions announced", with_byte(4, 0xff), "forward", "unknown"),
        ("an update", edited(&|message| message.metadata.op_code = OpCode::Update), "NotImp 0", "unknown"),
        ("a response", edited(&|message| message.metadata.message_type = MessageType::Response), "drop", "unknown"),
        ("half a header", QUERY[..11].to_vec(), "drop", "unknown"),
        ("nothing", Vec::new(), "drop", "unknown"),
        ("a header alone", QUERY[..12].to_vec(), "forward", "unknown"),
    ];
    for (what, bytes, expected, kind) in rows {
        let verdict = considered(&bytes, Transport::Udp);
        let outline = match &verdict.action {
            Action::Drop => "drop".to_owned(),
            Action::Forward => "forward".to_owned(),
            Action::Reply(reply) => {
                let reply = Message::from_vec(reply).unwrap();
                assert_eq!((reply.metadata.id, reply.metadata.message_type), (0x1234, MessageType::Response), "{what}");
                format!("{:?} {}", reply.metadata.response_code, reply.answers.len())
            }
        };
        assert_eq!((&*outline, verdict.kind), (expected, kind), "{what}");
    }
}

#[test]
fn a_pod_that_is_not_known_is_passed_on() {
    let snapshot = world().snapshot();
    let verdict = consider(&snapshot, &Zone::default(), None, Transport::Udp, QUERY, &mut rand::rng());
    assert_eq!(verdict, Verdict { action: Action::Forward, kind: "a" });
}

#[test]
fn what_does_not_fit_a_datagram_is_cut_at_a_record() {
    for (payload, expected) in [(None, 512), (Some(0), 512), (Some(900), 900), (Some(1232), 1232), (Some(4096), 4096)] {
        let mut asked = query("crowd", RecordType::A);
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns.set_dnssec_ok(true);
            asked.set_edns(edns);
        }
        let asked = asked.to_vec().unwrap();
        let bytes = replied(considered(&asked, Transport::Udp));
        let reply = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= expected, "{} bytes for {payload:?}", bytes.len());
        assert_eq!(reply.metadata.truncation, reply.answers.len() < 100, "{payload:?}");
        // Nothing is left out that would fit.
        assert!(reply.answers.len() == 100 || bytes.len() + 16 > expected, "{} bytes for {payload:?}", bytes.len());
        let edns = reply.edns.map(|edns| (usize::from(edns.max_payload()), edns.flags().dnssec_ok));
        assert_eq!(edns, payload.map(|_| (expected, true)), "{payload:?}");
        let whole = Message::from_vec(&replied(considered(&asked, Transport::Tcp))).unwrap();
        assert!(!whole.metadata.truncation && whole.answers.len() == 100);
    }
}

#[test]
fn failures_carry_what_can_be_read_of_the_query() {
    let bytes = failure(QUERY, ResponseCode::ServFail).unwrap();
    assert_eq!(bytes, [&b"\x12\x34\x81\x82\x00\x01\x00\x00\x00\x00\x00\x00"[..], &QUERY[12..]].concat());
    let broken = [&QUERY[..12], b"\xc0\xff"].concat();
    assert_eq!(failure(&broken, ResponseCode::ServFail).unwrap(), b"\x12\x34\x81\x82\x00\x00\x00\x00\x00\x00\x00\x00");
    assert_eq!(failure(&bytes, ResponseCode::ServFail), None, "an answer to an answer");
    assert_eq!(failure(b"\x12", ResponseCode::ServFail), None);
}

#[test]
fn replies_that_belong_to_a_query() {
    let reply = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = QUERY.to_vec();
        bytes[2] = 0x81;
        edit(&mut bytes);
        bytes
    };
    type Row = (&'static str, Vec<u8>, bool);
    let rows: [Row; 10] = [
        ("itself", reply(&|_| {}), true),
        ("in other capitals", reply(&|bytes| bytes[13] = b'S'), true),
        ("with records", reply(&|bytes| bytes.extend(b"whatever")), true),
        ("another number", reply(&|bytes| bytes[1] = 0), false),
        ("a query", QUERY.to_vec(), false),
        ("another name", reply(&|bytes| bytes[13] = b't'), false),
        ("another type", reply(&|bytes| bytes[26] = 28), false),
        ("an error without question", b"\x12\x34\x81\x85\x00\x00\x00\x00\x00\x00\x00\x00".to_vec(), true),
        ("an answer without question", b"\x12\x34\x81\x80\x00\x00\x00\x00\x00\x00\x00\x00".to_vec(), false),
        ("half a header", reply(&|bytes| bytes.truncate(11)), false),
    ];
    for (what, bytes, expected) in rows {
        assert_eq!(accepts(QUERY, &bytes), expected, "{what}");
    }
    // HTTPS (65) and type 97 differ by the bit that makes letters small.
    let with_type = |kind: u8| [&QUERY[..26], &[kind], &QUERY[27..]].concat();
    let mut other = with_type(97);
    other[2] = 0x81;
    assert!(!accepts(&with_type(65), &other));
    // What we cannot read may be somebody's right answer.
    assert!(accepts(
        b"\x12\x34\x01\x00\x00\x07\x00\x00\x00\x00\x00\x00",
        b"\x12\x34\x81\x80\x00\x07\x00\x00\x00\x00\x00\x00"
    ));
}

#[test]
fn our_own_questions_and_what_is_answered_to_them() {
    let asked = question(0x1234, "api.example.com", Family::V6).unwrap();
    let parsed = Message::from_vec(&asked).unwrap();
    assert_eq!(parsed.queries[0].to_string(), "api.example.com. IN AAAA");
    assert!(parsed.metadata.recursion_desired);
    for wrong in ["a..b", &"a".repeat(64), &"a.".repeat(130)] {
        assert_eq!(question(1, wrong, Family::V4), None, "{wrong}");
    }
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let mut reply = query("api.example.com", RecordType::A).into_response();
    assert_eq!(addresses(&reply.to_vec().unwrap()), Found::Addresses(Vec::new(), Duration::ZERO));
    reply.add_answer(Record::from_rdata(name("api.example.com."), 20, RData::CNAME(CNAME(name("x.example.com.")))));
    reply.add_answer(Record::from_rdata(name("x.example.com."), 60, RData::A(A::new(192, 0, 2, 1))));
    reply.add_answer(Record::from_rdata(name("x.example.com."), 90, RData::A(A::new(192, 0, 2, 2))));
    let expected = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
    assert_eq!(addresses(&reply.to_vec().unwrap()), Found::Addresses(expected.into(), Duration::from_secs(20)));
    reply.metadata.response_code = ResponseCode::NXDomain;
    assert!(matches!(addresses(&reply.to_vec().unwrap()), Found::Nothing(why) if why.contains("Non-Existent Domain")));
    assert!(matches!(addresses(b"nonsense, and a lot of it"), Found::Nothing(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// No bytes of a pod, or of a resolver, make anything panic, and what we say fits what was asked.
    #[test]
    fn bytes_of_any_kind(
        noise in proptest::collection::vec(any::<u8>(), 0..600),
        changes in proptest::collection::vec((0_usize..29, any::<u8>()), 0..4),
        cut in 0_usize..40,
        tcp: bool,
    ) {
        let mut changed = QUERY.to_vec();
        for (at, byte) in changes {
            changed[at] = byte;
        }
        changed.truncate(cut.max(12));
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        for bytes in [&noise, &changed, &[&QUERY[..12], &*noise].concat(), &[QUERY, &*noise].concat()] {
            if let Action::Reply(reply) = considered(bytes, transport).action {
                prop_assert!(accepts(bytes, &reply), "{bytes:?} {reply:?}");
                prop_assert!(tcp || reply.len() <= 512 || Message::from_vec(bytes).unwrap().edns.is_some());
                prop_assert!(Message::from_vec(&reply).is_ok());
            }
            if let Some(reply) = failure(bytes, ResponseCode::ServFail) {
                prop_assert!(accepts(bytes, &reply), "{bytes:?} {reply:?}");
            }
            let _ = addresses(bytes);
            let _ = accepts(&noise, bytes);
        }
    }
}
