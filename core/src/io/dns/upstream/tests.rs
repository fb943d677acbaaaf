//! Tests of `io::dns::upstream`, against resolvers on loopback. Time is paused: it passes only when nothing else can happen.

use hickory_proto::op::ResponseCode;

use super::*;
use crate::io::dns::test_resolver::{FakeResolver, nobody, odd_reply, silent, with_code};

const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x10\x00\x01";

fn upstream(resolvers: &[SocketAddr]) -> Upstream {
    let ours = SocketFactory::host(None);
    Upstream::new(Resolvers::fixed(resolvers), ours.clone(), ours)
}

fn odd(query: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(query, QUERY, "the query was changed");
    vec![odd_reply(query, b"\xff\x00 not what a parser would like")]
}

fn truncated(query: &[u8]) -> Vec<Vec<u8>> {
    let mut reply = odd_reply(query, b"");
    reply[2] |= 0x02;
    vec![reply]
}

fn failing(query: &[u8]) -> Vec<Vec<u8>> {
    vec![with_code(query, ResponseCode::ServFail)]
}

fn no_such_name(query: &[u8]) -> Vec<Vec<u8>> {
    vec![with_code(query, ResponseCode::NXDomain)]
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_untouched_both_ways() {
    let resolver = FakeResolver::start(odd, Some(odd)).await;
    for transport in [Transport::Udp, Transport::Tcp] {
        let reply = upstream(&[resolver.address]).exchange(QUERY, transport).await.unwrap();
        assert_eq!(reply, odd_reply(QUERY, b"\xff\x00 not what a parser would like"));
    }
    assert_eq!(resolver.asked(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn replies_to_other_queries_are_not_taken() {
    fn forged_first(query: &[u8]) -> Vec<Vec<u8>> {
        let mut other_number = odd_reply(query, b"forged");
        other_number[1] ^= 1;
        let mut other_name = odd_reply(query, b"forged");
        other_name[13] ^= 1;
        vec![other_number, other_name, query.to_vec(), b"\x12\x34".to_vec(), odd_reply(query, b"real")]
    }
    let resolver = FakeResolver::start(forged_first, Some(forged_first)).await;
    for transport in [Transport::Udp, Transport::Tcp] {
        let reply = upstream(&[resolver.address]).exchange(QUERY, transport).await.unwrap();
        assert!(reply.ends_with(b"real"), "{transport:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_resolver_is_asked_when_one_is_silent_fails_or_is_not_there() {
    let good = FakeResolver::start(odd, Some(odd)).await;
    let quiet = FakeResolver::start(silent, Some(silent)).await;
    let sick = FakeResolver::start(failing, Some(failing)).await;
    let gone = nobody().await;
    for transport in [Transport::Udp, Transport::Tcp] {
        for (first, longest) in [(quiet.address, 1_100), (sick.address, 100), (gone, 100)] {
            let started = Instant::now();
            let reply = upstream(&[first, good.address]).exchange(QUERY, transport).await.unwrap();
            assert!(reply.ends_with(b"like"), "{first} {transport:?}");
            assert!(
                started.elapsed() <= Duration::from_millis(longest),
                "{first} {transport:?} {:?}",
                started.elapsed()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_does_not_exist_is_an_answer() {
    let (first, second) = (FakeResolver::start(no_such_name, None).await, FakeResolver::start(odd, None).await);
    let reply = upstream(&[first.address, second.address]).exchange(QUERY, Transport::Udp).await.unwrap();
    assert_eq!(wire::code_of(&reply), 3);
    assert_eq!(second.asked(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_all_is_passed_on_and_each_is_asked_once() {
    let (one, other) = (FakeResolver::start(failing, None).await, FakeResolver::start(failing, None).await);
    let reply = upstream(&[one.address, other.address]).exchange(QUERY, Transport::Udp).await.unwrap();
    assert_eq!(wire::code_of(&reply), 2);
    assert_eq!((one.asked(), other.asked()), ((1, 0), (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_in_bounded_time_after_few_packets() {
    let quiet = FakeResolver::start(silent, Some(silent)).await;
    for transport in [Transport::Udp, Transport::Tcp] {
        let started = Instant::now();
        let error = upstream(&[quiet.address]).exchange(QUERY, transport).await.unwrap_err();
        assert_eq!(error.reason(), Reason::TimedOut, "{error}");
        assert!(error.to_string().contains(&quiet.address.to_string()), "{error}");
        assert_eq!(started.elapsed().as_secs(), limits::DNS_TIMEOUT.duration().as_secs());
    }
    let (datagrams, connections) = quiet.asked();
    assert!(datagrams <= 2 * limits::DNS_ATTEMPTS.size(), "{datagrams}");
    assert!(connections <= limits::DNS_ATTEMPTS.size(), "{connections}");
}

#[tokio::test(start_paused = true)]
async fn nobody_to_ask_is_told_at_once() {
    let started = Instant::now();
    let gone = nobody().await;
    let error = upstream(&[gone]).exchange(QUERY, Transport::Udp).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Exchange { resolver, .. } if resolver == gone), "{error}");
    let error = upstream(&[]).exchange(QUERY, Transport::Udp).await.unwrap_err();
    assert!(matches!(error, UpstreamError::NoResolver), "{error}");
    assert_eq!(error.reason(), Reason::DnsFailed);
    assert!(started.elapsed() < limits::DNS_RETRY.duration());
}

#[tokio::test(start_paused = true)]
async fn a_stream_falls_back_to_datagrams_unless_they_hold_less() {
    let only_datagrams = FakeResolver::start(odd, None).await;
    let reply = upstream(&[only_datagrams.address]).exchange(QUERY, Transport::Tcp).await.unwrap();
    assert!(reply.ends_with(b"like"));
    let too_large = FakeResolver::start(truncated, None).await;
    assert!(upstream(&[too_large.address]).exchange(QUERY, Transport::Tcp).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_truncated_reply_is_the_clients_to_ask_again_and_ours_when_we_ask() {
    let large = FakeResolver::start(truncated, Some(odd)).await;
    let upstream_of = upstream(&[large.address]);
    let reply = upstream_of.exchange(QUERY, Transport::Udp).await.unwrap();
    assert!(wire::is_truncated(&reply));
    assert_eq!(large.asked(), (1, 0));
    let reply = upstream_of.ask(QUERY).await.unwrap();
    assert!(!wire::is_truncated(&reply) && reply.ends_with(b"like"));
    // Where there is no more to be had, what there is will do.
    let cut = FakeResolver::start(truncated, None).await;
    assert!(wire::is_truncated(&upstream(&[cut.address]).ask(QUERY).await.unwrap()));
}

#[tokio::test]
async fn messages_on_a_stream() {
    let (mut one, mut other) = tokio::io::duplex(1 << 20);
    write_message(&mut one, QUERY).await.unwrap();
    write_message(&mut one, b"").await.unwrap();
    write_message(&mut one, &[7; MAX_MESSAGE]).await.unwrap();
    assert!(write_message(&mut one, &[7; MAX_MESSAGE + 1]).await.is_err());
    one.write_all(b"\x00\x09half").await.unwrap();
    drop(one);
    assert_eq!(read_message(&mut other).await.unwrap(), QUERY);
    assert_eq!(read_message(&mut other).await.unwrap(), b"");
    assert_eq!(read_message(&mut other).await.unwrap(), [7; MAX_MESSAGE]);
    assert_eq!(read_message(&mut other).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}
