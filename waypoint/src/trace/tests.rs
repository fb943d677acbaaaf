//! Traces: what clients say in either form, and what endpoints are told.

use http::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::config::{Collector, Tag};

const DRAWN: Drawn = Drawn { trace: 0xaa, span: 0xbb, chance: 499_999 };
const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

fn tracing(per_million: u32, tags: Vec<Tag>) -> Arc<Tracing> {
    let collector = Arc::new(Collector { cluster: "collector".into(), attributes: Vec::new() });
    Arc::new(Tracing { collector, per_million, tags })
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let lines = lines.iter();
    lines.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap())).collect()
}

fn begun(lines: &[(&'static str, &str)]) -> Trace {
    begin(&tracing(500_000, Vec::new()), &headers(lines), DRAWN, SystemTime::UNIX_EPOCH)
}

#[test]
fn who_begins_a_trace_decides_whether_it_is_told_about() {
    for (per_million, chance, expected) in [(0, 0, false), (500_000, 499_999, true), (500_000, 500_000, false)] {
        let drawn = Drawn { chance, ..DRAWN };
        let trace = begin(&tracing(per_million, Vec::new()), &HeaderMap::new(), drawn, SystemTime::UNIX_EPOCH);
        assert_eq!((trace.trace, trace.span, trace.parent, trace.is_sampled), (0xaa, 0xbb, None, expected));
        let mut told = HeaderMap::new();
        trace.write(&mut told);
        let flags = if expected { "01" } else { "00" };
        let line = format!("00-000000000000000000000000000000aa-00000000000000bb-{flags}");
        assert_eq!(told, headers(&[("traceparent", &line)]));
    }
}

#[test]
fn what_clients_say_is_continued() {
    let w3c = |flags: &str| format!("00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-{flags}");
    let b3 = |rest: &str| format!("0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7{rest}");
    // What the client says; the parent; whether it is told about, of which half are if the client does not decide.
    type Row<'a> = (&'a [(&'static str, &'a str)], Option<(u128, u64)>, bool);
    let ids = Some((TRACE, SPAN));
    let rows: [Row<'_>; 27] = [
        (&[("traceparent", &w3c("01"))], ids, true),
        (&[("traceparent", &w3c("00"))], ids, false),
        (&[("traceparent", &w3c("03"))], ids, true),
        (&[("traceparent", &w3c("1"))], None, true),
        (&[("traceparent", &w3c("01-more"))], None, true),
        (&[("traceparent", &w3c("00").replacen("00-", "cc-", 1))], ids, false),
        (&[("traceparent", &w3c("00-more").replacen("00-", "cc-", 1))], ids, false),
        (&[("traceparent", &w3c("00more").replacen("00-", "cc-", 1))], None, true),
        (&[("traceparent", &w3c("00").replacen("00-", "ff-", 1))], None, true),
        (&[("traceparent", &w3c("00").to_uppercase())], None, true),
        (&[("traceparent", &w3c("00").replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)))], None, true),
        (&[("traceparent", &w3c("00").replace("00f067aa0ba902b7", &"0".repeat(16)))], None, true),
        (&[("traceparent", &w3c("00")), ("traceparent", &w3c("00"))], None, true),
        (&[("b3", &b3(""))], ids, true),
        (&[("b3", &b3("-0"))], ids, false),
        (&[("b3", &b3("-1-00000000000000aa"))], ids, true),
        (&[("b3", &b3("-d"))], ids, true),
        (&[("b3", &b3("-x"))], None, true),
        (&[("b3", &b3("-0-zz"))], None, true),
        (&[("b3", &b3("-0-00000000000000aa-more"))], None, true),
        (&[("b3", "0")], None, false),
        (&[("b3", "8448eb211c80319c-00f067aa0ba902b7-0")], Some((TRACE & u128::from(u64::MAX), SPAN)), false),
        (&[("x-b3-traceid", "8448eb211c80319c")], None, true),
        (&[("x-b3-traceid", "0AF7651916CD43DD8448EB211C80319C"), ("x-b3-spanid", "00f067aa0ba902b7")], ids, true),
        (&[("x-b3-sampled", "0")], None, false),
        (&[("x-b3-sampled", "0"), ("x-b3-flags", "1")], None, true),
        (&[("traceparent", &w3c("00")), ("b3", "1")], ids, false),
    ];
    for (lines, parent, is_sampled) in rows {
        let trace = begun(lines);
        let expected = parent.map_or((0xaa, None), |(trace, span)| (trace, Some(span)));
        assert_eq!(((trace.trace, trace.parent), trace.is_sampled), (expected, is_sampled), "{lines:?}");
    }
}

#[test]
fn endpoints_are_told_in_the_forms_that_the_client_knows() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
    let own = "00-0af7651916cd43dd8448eb211c80319c-00000000000000bb-01";
    let short = "00-00000000000000008448eb211c80319c-00000000000000bb-00";
    let fresh = "00-000000000000000000000000000000aa-00000000000000bb-01";
    type Lines<'a> = &'a [(&'static str, &'a str)];
    let rows: [(Lines<'_>, Lines<'_>); 7] = [
        (&[("traceparent", parent), ("tracestate", "a=b,c=d")], &[("traceparent", own), ("tracestate", "a=b,c=d")]),
        (&[("traceparent", "nothing"), ("tracestate", "a=b")], &[("traceparent", fresh)]),
        (
            &[("b3", "8448eb211c80319c-00f067aa0ba902b7-0")],
            &[("b3", "8448eb211c80319c-00000000000000bb-0-00f067aa0ba902b7"), ("traceparent", short)],
        ),
        (
            &[
                ("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
                ("x-b3-spanid", "00f067aa0ba902b7"),
                ("x-b3-parentspanid", "0000000000000001"),
                ("x-b3-sampled", "1"),
            ],
            &[
                ("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
                ("x-b3-spanid", "00000000000000bb"),
                ("x-b3-parentspanid", "00f067aa0ba902b7"),
                ("x-b3-sampled", "1"),
                ("traceparent", own),
            ],
        ),
        (&[("b3", "d")], &[("b3", "000000000000000000000000000000aa-00000000000000bb-d"), ("traceparent", fresh)]),
        (
            &[("traceparent", parent), ("b3", "1")],
            &[("traceparent", own), ("b3", "0af7651916cd43dd8448eb211c80319c-00000000000000bb-1-00f067aa0ba902b7")],
        ),
        (
            &[("traceparent", parent), ("b3", "00000000000000cc-00000000000000dd-0")],
            &[("traceparent", own), ("b3", "0af7651916cd43dd8448eb211c80319c-00000000000000bb-1-00f067aa0ba902b7")],
        ),
    ];
    for (said, expected) in rows {
        let mut told = headers(said);
        begun(said).write(&mut told);
        assert_eq!(told, headers(expected), "{said:?}");
    }
}

#[test]
fn spans_say_what_the_telemetry_asks_for_and_no_more_of_it_than_fits() {
    let header =
        |otherwise: Option<&str>| TagValue::Header(HeaderName::from_static("x-user"), otherwise.map(str::to_owned));
    let tag = |name: &str, value| Tag { name: name.to_owned(), value };
    let tags = vec![tag("fixed", TagValue::Fixed("a".into())), tag("user", header(None)), tag("or", header(Some("b")))];
    let said = |tracing: &Arc<Tracing>, lines| begin(tracing, &headers(lines), DRAWN, SystemTime::UNIX_EPOCH).tags;
    let tracing = tracing(500_000, tags);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(said(&tracing, &[]), [pair("fixed", "a"), pair("or", "b")]);
    assert_eq!(said(&tracing, &[("x-user", "c")]), [pair("fixed", "a"), pair("user", "c"), pair("or", "c")]);
    assert!(said(&tracing, &[("b3", "0"), ("x-user", "c")]).is_empty(), "nobody is told");
    // Of a character that would be cut there is nothing.
    assert_eq!(shortened(&"é".repeat(TEXT_BYTES)).len(), TEXT_BYTES);
    assert_eq!(shortened(&format!("a{}", "é".repeat(TEXT_BYTES))).len(), TEXT_BYTES - 1);
}

proptest! {
    /// Whatever a client says, there is one span, which is told on in forms of which each can be read again by itself.
    #[test]
    fn whatever_is_said_can_be_continued(
        parent in "00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]|[0-9a-f-]{0,60}|[ -~]{0,60}",
        b3 in "([0-9a-f]{16}){1,2}-[0-9a-f]{16}-[01d]|[0-9a-fd-]{0,60}",
        trace in "[0-9a-f]{16,32}",
        span in "[0-9a-f]{16}",
    ) {
        let said: &[(&'static str, &str)] =
            &[("traceparent", &parent), ("b3", &b3), ("x-b3-traceid", &trace), ("x-b3-spanid", &span)];
        let trace = begun(said);
        let mut told = headers(said);
        trace.write(&mut told);
        // In the order in which they count.
        for form in ["traceparent", "b3", "x-b3-traceid"] {
            let next = begin(&trace.tracing, &told, DRAWN, SystemTime::UNIX_EPOCH);
            let read = (next.trace, next.parent, next.is_sampled);
            prop_assert_eq!(read, (trace.trace, Some(trace.span), trace.is_sampled), "{}", form);
            prop_assert!(told.remove(form).is_some(), "{}", form);
        }
    }
}
