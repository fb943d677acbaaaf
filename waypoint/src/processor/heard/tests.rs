//! What a processor says, and what is done: answer by answer.

use fairway_proto::envoy::ext_proc::ProcessingMode;
use fairway_proto::envoy::fraction::HttpStatus;
use fairway_proto::external_processor::{
    BodyResponse, GrpcStatus, HeaderLine, HeadersResponse, StreamedBodyResponse, TrailersResponse,
};
use http::HeaderValue;

use super::*;
use crate::config::{BodyMode, Parts};

fn rules() -> Rules {
    let kept = Some(Regex::new("^(?:x-kept)$").unwrap());
    Rules { modes: Modes::default(), may_override: false, own: vec![HeaderName::from_static("x-subject")], kept }
}

fn line(key: &str, value: &str, append: Option<bool>, append_action: i32) -> HeaderOption {
    let header = HeaderLine { key: key.into(), value: value.into(), raw_value: Vec::new() };
    HeaderOption { header: Some(header), append, append_action }
}

fn sets(lines: Vec<HeaderOption>) -> CommonResponse {
    let header_mutation = Some(HeaderMutation { set_headers: lines, remove_headers: Vec::new() });
    CommonResponse { header_mutation, ..CommonResponse::default() }
}

fn mutates(mutation: Mutation, status: ResponseStatus) -> CommonResponse {
    let body_mutation = Some(BodyMutation { mutation: Some(mutation) });
    CommonResponse { body_mutation, status: status.into(), ..CommonResponse::default() }
}

fn headers(answer: CommonResponse) -> ProcessingResponse {
    let response = Some(Response::RequestHeaders(HeadersResponse { response: Some(answer) }));
    ProcessingResponse { response, ..ProcessingResponse::default() }
}

fn body(answer: CommonResponse) -> ProcessingResponse {
    let response = Some(Response::ResponseBody(BodyResponse { response: Some(answer) }));
    ProcessingResponse { response, ..ProcessingResponse::default() }
}

fn heard(message: ProcessingResponse) -> Heard {
    match read(message, &rules()).unwrap() {
        Said::Answers(_, heard) => heard,
        other => panic!("{other:?}"),
    }
}

#[test]
fn headers_are_set_appended_and_removed_as_envoy_reads_it() {
    let rows = [
        (None, 0, Manner::Overwrite),
        (Some(false), 0, Manner::Overwrite),
        (Some(true), 0, Manner::Append),
        (None, 1, Manner::AddIfAbsent),
        (Some(true), 2, Manner::Overwrite),
        (None, 3, Manner::OverwriteIfPresent),
    ];
    for (append, action, expected) in rows {
        let put = heard(headers(sets(vec![line("X-A", "b", append, action)]))).edits.put;
        let value = HeaderValue::from_static("b");
        assert_eq!(put, [Put { name: HeaderName::from_static("x-a"), value, manner: expected }], "{append:?} {action}");
    }
    assert!(read(headers(sets(vec![line("x-a", "b", None, 4)])), &rules()).is_err());
}

#[test]
fn what_frames_addresses_and_identifies_is_not_the_processors_to_change() {
    let names = [
        "Host",
        ":path",
        ":authority",
        ":method",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "upgrade",
        "x-forwarded-client-cert",
        "x-subject",
        "x-kept",
        "bad name",
    ];
    let mutation = HeaderMutation {
        set_headers: names.into_iter().chain(["x-free"]).map(|name| line(name, "evil", None, 0)).collect(),
        remove_headers: names.into_iter().chain(["x-old"]).map(str::to_owned).collect(),
    };
    let of_headers = CommonResponse { header_mutation: Some(mutation.clone()), ..CommonResponse::default() };
    let trailers = Some(Response::RequestTrailers(TrailersResponse { header_mutation: Some(mutation) }));
    let trailers = ProcessingResponse { response: trailers, ..ProcessingResponse::default() };
    for message in [headers(of_headers.clone()), body(of_headers), trailers] {
        let edits = heard(message).edits;
        assert_eq!(edits.put.iter().map(|put| put.name.as_str()).collect::<Vec<_>>(), ["x-free"]);
        assert_eq!(edits.remove, [HeaderName::from_static("x-old")]);
    }
}

#[test]
fn bodies_are_replaced_cleared_or_left() {
    use ResponseStatus::{Continue, ContinueAndReplace};
    let new = || Mutation::Body(b"new".to_vec());
    let some = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let rows = [
        ("a body", body(mutates(new(), Continue)), some("new"), false),
        ("cleared", body(mutates(Mutation::ClearBody(true), Continue)), some(""), false),
        ("not cleared", body(mutates(Mutation::ClearBody(false), Continue)), None, false),
        ("nothing", body(CommonResponse::default()), None, false),
        ("behind headers it is not looked at", headers(mutates(new(), Continue)), None, false),
        ("unless in place of all", headers(mutates(new(), ContinueAndReplace)), some("new"), true),
    ];
    for (name, message, expected, is_last) in rows {
        let heard = heard(message);
        assert_eq!((heard.body, heard.is_last), (expected, is_last), "{name}");
    }
}

#[test]
fn another_mode_counts_where_it_is_allowed() {
    let mode = ProcessingMode { request_body_mode: 2, response_header_mode: 2, ..ProcessingMode::default() };
    let message = || ProcessingResponse { mode_override: Some(mode), ..headers(CommonResponse::default()) };
    assert_eq!(heard(message()).modes, None, "not allowed");
    let rules = Rules { may_override: true, ..rules() };
    let Ok(Said::Answers(_, told)) = read(message(), &rules) else { panic!("no answer") };
    let request = Parts { headers: true, body: BodyMode::Buffered, trailers: false };
    let response = Parts { headers: false, body: BodyMode::Unseen, trailers: false };
    assert_eq!(told.modes, Some(Modes { request, response }));
    let mut other = message();
    other.mode_override.as_mut().unwrap().response_body_mode = 4;
    let problem = read(other, &rules).unwrap_err();
    assert_eq!(problem, "mode_override: response_body_mode: FULL_DUPLEX_STREAMED is not supported");
}

#[test]
fn an_answer_of_its_own_is_the_clients() {
    let answer = ImmediateResponse {
        status: Some(HttpStatus { code: 429 }),
        headers: sets(vec![line("x-why", "spent", None, 0), line("connection", "close", None, 0)]).header_mutation,
        body: b"later".to_vec(),
        grpc_status: Some(GrpcStatus { status: 8 }),
        details: "budget".into(),
    };
    let message = |answer| ProcessingResponse {
        response: Some(Response::ImmediateResponse(answer)),
        ..ProcessingResponse::default()
    };
    let Ok(Said::Replies(failure)) = read(message(answer), &rules()) else { panic!("no answer of its own") };
    assert_eq!((failure.status().as_u16(), failure.grpc_status), (429, Some(8)));
    assert_eq!((failure.reason, failure.detail.as_str()), (Reason::ProcessorAnswered, "budget"));
    let written = failure.answer.unwrap();
    assert_eq!(
        (written.body, written.headers.len(), &written.headers["x-why"]),
        ("later".into(), 1, &"spent".parse().unwrap())
    );
    for code in [None, Some(0), Some(100), Some(1000), Some(-1)] {
        let status = code.map(|code| HttpStatus { code });
        let wrong = read(message(ImmediateResponse { status, ..ImmediateResponse::default() }), &rules());
        assert_eq!(wrong.unwrap_err(), "answers without a status", "{code:?}");
    }
}

#[test]
fn what_cannot_be_understood_is_no_answer() {
    let twice = HeaderLine { key: "x-a".into(), value: "a".into(), raw_value: b"b".to_vec() };
    let twice = HeaderOption { header: Some(twice), ..HeaderOption::default() };
    let streamed = Mutation::StreamedResponse(StreamedBodyResponse::default());
    let rows = [
        (ProcessingResponse::default(), "says nothing"),
        (headers(CommonResponse { status: 7, ..CommonResponse::default() }), "unknown status 7"),
        (headers(sets(vec![line("x-a", "a\nb", None, 0)])), "no value of x-a"),
        (headers(sets(vec![twice])), "value of x-a twice"),
        (body(mutates(streamed, ResponseStatus::Continue)), "streamed_response"),
    ];
    for (message, part) in rows {
        let problem = read(message, &rules()).unwrap_err();
        assert!(problem.contains(part), "{problem}");
    }
    let seconds = |seconds| ProcessingResponse {
        override_message_timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..ProcessingResponse::default()
    };
    assert!(matches!(read(seconds(3), &rules()), Ok(Said::Waits(time)) if time == Duration::from_secs(3)));
    assert!(read(seconds(-1), &rules()).is_err());
}
