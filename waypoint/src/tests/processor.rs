//! Who sees requests and changes them: a real server of Envoy's protocol that follows a script, and what holds without it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fairway_core::limits::Limits;
use fairway_core::reason::Reason;
use fairway_proto::envoy::fraction::HttpStatus;
use fairway_proto::external_processor::body_mutation::Mutation;
use fairway_proto::external_processor::external_processor_server::{ExternalProcessor, ExternalProcessorServer};
use fairway_proto::external_processor::processing_request::Request as Asked;
use fairway_proto::external_processor::processing_response::Response as Answer;
use fairway_proto::external_processor::{
    BodyMutation, BodyResponse, CommonResponse, HeaderLine, HeaderMutation, HeaderOption, HeadersResponse,
    ImmediateResponse, ProcessingRequest, ProcessingResponse, TrailersResponse,
};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Response, Status, Streaming};

use super::{reason_of, told, web};
use crate::config::{BodyMode, Header, HeaderMatch, Listener, Modes, Parts, Processing, Processor, Protocol, Text};
use crate::testing::{PATIENCE, Served, answer, get, own_address, route_to};

/// What is done when something is asked.
enum Step {
    Says(Answer),
    Leaves,
    Fails,
    Waits,
}

type Script = fn(&Asked) -> Step;

/// Follows a script, and remembers what it was asked, and how many calls there are at the moment.
#[derive(Clone)]
struct Scripted {
    script: Script,
    asked: Arc<Mutex<Vec<ProcessingRequest>>>,
    calls: Arc<watch::Sender<u32>>,
}

impl Scripted {
    fn new(script: Script) -> Self {
        Self { script, asked: Arc::default(), calls: Arc::new(watch::Sender::new(0)) }
    }

    /// What it was asked since somebody looked.
    fn take(&self) -> Vec<ProcessingRequest> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(ExternalProcessorServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }
}

#[tonic::async_trait]
impl ExternalProcessor for Scripted {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: tonic::Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let (says, said) = mpsc::channel(4);
        let (mut asks, this) = (request.into_inner(), self.clone());
        this.calls.send_modify(|calls| *calls += 1);
        tokio::spawn(async move {
            while let Ok(Some(asked)) = asks.message().await {
                let step = asked.request.as_ref().map_or(Step::Waits, this.script);
                this.asked.lock().unwrap().push(asked);
                match step {
                    Step::Says(answer) => {
                        let response = ProcessingResponse { response: Some(answer), ..ProcessingResponse::default() };
                        let _ = says.send(Ok(response)).await;
                    }
                    Step::Leaves => break,
                    Step::Fails => {
                        let _ = says.send(Err(Status::unavailable("no"))).await;
                        break;
                    }
                    Step::Waits => {}
                }
            }
            this.calls.send_modify(|calls| *calls -= 1);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(said))))
    }
}

const NOTHING: Parts = Parts { headers: false, body: BodyMode::Unseen, trailers: false };
const HEADERS: Parts = Parts { headers: true, ..NOTHING };

fn with(body: BodyMode) -> Parts {
    Parts { body, ..HEADERS }
}

fn processor(modes: Modes) -> Processor {
    Processor {
        cluster: "processor".into(),
        timeout: PATIENCE,
        longest: None,
        fails_open: false,
        status_on_error: StatusCode::BAD_GATEWAY,
        modes,
        may_override: false,
        kept: None,
    }
}

fn sets(name: &str, value: &str) -> CommonResponse {
    let header = HeaderLine { key: name.into(), value: String::new(), raw_value: value.into() };
    let set_headers = vec![HeaderOption { header: Some(header), ..HeaderOption::default() }];
    let header_mutation = Some(HeaderMutation { set_headers, remove_headers: vec!["x-secret".into()] });
    CommonResponse { header_mutation, ..CommonResponse::default() }
}

fn upper(body: &[u8]) -> CommonResponse {
    let mutation = Some(Mutation::Body(body.to_ascii_uppercase()));
    CommonResponse { body_mutation: Some(BodyMutation { mutation }), ..CommonResponse::default() }
}

fn headers(answer: CommonResponse) -> HeadersResponse {
    HeadersResponse { response: Some(answer) }
}

fn body(answer: CommonResponse) -> BodyResponse {
    BodyResponse { response: Some(answer) }
}

fn replies(code: i32) -> Step {
    let status = Some(HttpStatus { code });
    let answer = ImmediateResponse { status, body: b"mine".to_vec(), ..ImmediateResponse::default() };
    Step::Says(Answer::ImmediateResponse(answer))
}

/// Says what it was asked again, in capitals, with a header on each side.
fn capitals(asked: &Asked) -> Step {
    Step::Says(match asked {
        Asked::RequestHeaders(_) => Answer::RequestHeaders(headers(sets("x-seen", "yes"))),
        Asked::ResponseHeaders(_) => Answer::ResponseHeaders(headers(sets("x-told", "yes"))),
        Asked::RequestBody(piece) => Answer::RequestBody(body(upper(&piece.body))),
        Asked::ResponseBody(piece) => Answer::ResponseBody(body(upper(&piece.body))),
        Asked::RequestTrailers(_) => Answer::RequestTrailers(TrailersResponse::default()),
        Asked::ResponseTrailers(_) => Answer::ResponseTrailers(TrailersResponse::default()),
    })
}

fn post(text: &str) -> Request<Full<Bytes>> {
    let request = Request::post("http://web.shop/a?b").header("host", "web.shop").header("x-secret", "s");
    request.body(Full::from(text.to_owned())).unwrap()
}

impl Served {
    fn see(&mut self, processor: Processor) {
        if let Listener::Http(http) = Arc::make_mut(self.config.listeners.get_mut(&web(80)).unwrap()) {
            http.processor = Some(Arc::new(processor));
        }
        self.publish();
    }
}

/// A waypoint before an endpoint that tells what it is asked, with a processor at this address.
async fn served(address: SocketAddr) -> Served {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, Vec::new(), vec![route_to(&web(80))], &[endpoint]);
    served.announce("processor", address.ip(), false, |_| {});
    served.cluster("processor", Protocol::Http2, &[address]);
    served
}

#[tokio::test]
async fn requests_and_answers_are_seen_and_changed_part_by_part() {
    use BodyMode::{Buffered, Streamed, Unseen};
    let scripted = Scripted::new(capitals);
    let mut served = served(scripted.serve().await).await;
    // Parts of either side; whether the endpoint's and the client's body are in capitals.
    let rows = [
        (HEADERS, HEADERS, false, false),
        (with(Buffered), HEADERS, true, false),
        (with(Streamed), HEADERS, true, false),
        (HEADERS, with(Buffered), false, true),
        (HEADERS, with(Streamed), false, true),
        (with(Streamed), with(Streamed), true, true),
        (with(Buffered), with(Buffered), true, true),
        (Parts { headers: false, ..with(Buffered) }, NOTHING, true, false),
        (NOTHING, Parts { headers: false, ..with(Streamed) }, false, true),
        (Parts { trailers: true, ..with(Unseen) }, Parts { trailers: true, ..with(Unseen) }, false, false),
    ];
    for (request, response, to_endpoint, to_client) in rows {
        served.see(processor(Modes { request, response }));
        for http2 in [false, true] {
            let name = format!("{request:?} {response:?} {http2}");
            let (answer, text) = served.send(80, http2, post("some text")).await;
            assert_eq!(answer.status(), 200, "{name}: {text}");
            let plain = text.to_ascii_lowercase();
            let sent = if to_endpoint || to_client { ":body=SOME TEXT" } else { ":body=some text" };
            assert!(if to_client { text.contains(":BODY=SOME TEXT") } else { text.contains(sent) }, "{name}: {text}");
            assert_eq!(plain.contains("x-seen=yes"), request.headers, "{name}: {text}");
            assert_eq!(plain.contains("x-secret"), !request.headers, "{name}: {text}");
            assert_eq!(answer.headers().contains_key("x-told"), response.headers, "{name}");
            let lengths = answer.headers().get("content-length").map(|length| length.to_str().unwrap().to_owned());
            assert!(lengths.is_none_or(|length| length == text.len().to_string()), "{name}");
            let asked = scripted.take();
            let config = asked.first().map(|first| first.protocol_config.unwrap());
            let is_first = asked.iter().skip(1).all(|later| later.protocol_config.is_none());
            assert!(is_first && config.is_none_or(|it| it.request_body_mode != 0 || !to_endpoint), "{name}");
        }
    }
}

#[tokio::test]
async fn a_processor_is_shown_what_the_endpoint_would_get() {
    let scripted = Scripted::new(capitals);
    let mut served = served(scripted.serve().await).await;
    served.see(processor(Modes { request: with(BodyMode::Streamed), response: HEADERS }));
    served.send(80, true, post("abc")).await;
    let asked = scripted.take();
    let Some(Asked::RequestHeaders(shown)) = &asked[0].request else { panic!("{asked:?}") };
    let value = |name: &str| {
        let lines = &shown.headers.as_ref().unwrap().headers;
        let line = lines.iter().find(|line| line.key == name).unwrap_or_else(|| panic!("{name} in {lines:?}"));
        String::from_utf8(line.raw_value.clone()).unwrap()
    };
    assert_eq!([":method", ":path", ":authority", ":scheme"].map(value), ["POST", "/a?b", "web.shop", "http"]);
    assert!(value("x-forwarded-client-cert").ends_with("URI=spiffe://cluster.local/ns/shop/sa/client"));
    assert!(!shown.end_of_stream && !value("x-request-id").is_empty());
    let pieces = asked.iter().filter_map(|it| match &it.request {
        Some(Asked::RequestBody(piece)) => Some((piece.body.clone(), piece.end_of_stream)),
        _ => None,
    });
    let pieces: Vec<(Vec<u8>, bool)> = pieces.collect();
    let whole: Vec<u8> = pieces.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
    assert_eq!((whole.as_slice(), pieces.iter().filter(|(_, is_end)| *is_end).count()), (&b"abc"[..], 1), "{pieces:?}");
    assert!(matches!(&asked.last().unwrap().request, Some(Asked::ResponseHeaders(_))), "{asked:?}");

    served.send(80, true, get("/", &[])).await;
    let asked = scripted.take();
    assert!(matches!(&asked[0].request, Some(Asked::RequestHeaders(shown)) if shown.end_of_stream), "{asked:?}");
    assert_eq!(asked.len(), 2, "there is no body to be shown: {asked:?}");
}

#[tokio::test]
async fn an_answer_of_its_own_takes_the_place_of_what_is_under_way() {
    use BodyMode::{Buffered, Streamed};
    let at_headers: Script = |_| replies(418);
    let at_body: Script = |asked| if let Asked::RequestBody(_) = asked { replies(418) } else { capitals(asked) };
    let at_answer: Script = |asked| if let Asked::ResponseHeaders(_) = asked { replies(418) } else { capitals(asked) };
    let at_answers_body: Script =
        |asked| if let Asked::ResponseBody(_) = asked { replies(418) } else { capitals(asked) };
    let rows = [
        ("headers", at_headers, HEADERS, HEADERS),
        ("body at once", at_body, with(Buffered), HEADERS),
        ("body in pieces", at_body, with(Streamed), HEADERS),
        ("answer", at_answer, HEADERS, HEADERS),
        ("answer's body at once", at_answers_body, HEADERS, with(Buffered)),
    ];
    for (name, script, request, response) in rows {
        let scripted = Scripted::new(script);
        let mut served = served(scripted.serve().await).await;
        served.see(processor(Modes { request, response }));
        for http2 in [false, true] {
            let (answer, text) = served.send(80, http2, post("some text")).await;
            assert_eq!((answer.status().as_u16(), text.as_str()), (418, "mine"), "{name}");
            assert_eq!(reason_of(&answer), Some(Reason::ProcessorAnswered), "{name}");
        }
        assert!(!served.metrics.render().contains("fairway_waypoint_processor_failures_total{"), "{name}");
    }
}

#[tokio::test]
async fn without_an_answer_the_provider_says_what_holds() {
    let silent: Script = |_| Step::Waits;
    let fails: Script = |_| Step::Fails;
    let leaves: Script = |_| Step::Leaves;
    let leaves_later: Script =
        |asked| if let Asked::ResponseHeaders(_) = asked { Step::Leaves } else { capitals(asked) };
    let wrong: Script = |_| Step::Says(Answer::ResponseHeaders(headers(CommonResponse::default())));
    let odd: Script = |_| Step::Says(Answer::RequestHeaders(headers(sets("x-a", "a\nb"))));
    let late: Script = |asked| if let Asked::ResponseHeaders(_) = asked { Step::Fails } else { capitals(asked) };
    // Script; whether requests pass closed, and open.
    let rows = [
        ("nobody is there", None, false, true),
        ("nothing is said", Some(silent), false, true),
        ("the call fails", Some(fails), false, true),
        ("the call fails later", Some(late), false, true),
        // Before it has answered anything, too: so says Envoy's protocol.
        ("the call ends well", Some(leaves), true, true),
        ("the call ends well later", Some(leaves_later), true, true),
        ("what nobody asked is answered", Some(wrong), false, false),
        ("an answer cannot be done", Some(odd), false, false),
    ];
    for (name, script, closed, open) in rows {
        let scripted = script.map(Scripted::new);
        let address = match &scripted {
            Some(scripted) => scripted.serve().await,
            None => SocketAddr::from((own_address(), 1)),
        };
        let mut served = served(address).await;
        for (fails_open, passes) in [(false, closed), (true, open)] {
            let timeout = if name == "nothing is said" { Duration::from_millis(50) } else { PATIENCE };
            served.see(Processor { fails_open, timeout, ..processor(Modes { request: HEADERS, response: HEADERS }) });
            let (answer, text) = served.send(80, true, post("some text")).await;
            let expected = if passes { (200, None) } else { (502, Some(Reason::ProcessorFailed)) };
            assert_eq!((answer.status().as_u16(), reason_of(&answer)), expected, "{name}, open: {fails_open}: {text}");
        }
        let page = served.metrics.render();
        let counted =
            |result| page.contains(&format!("fairway_waypoint_processor_failures_total{{result=\"{result}\"}}"));
        assert_eq!((counted("refused"), counted("passed")), (!closed, open && !closed), "{name}");
    }
}

/// That it has ended well is what its status says, and nothing else (gRPC over HTTP2, "Responses").
#[tokio::test]
async fn a_call_that_ends_without_a_status_is_no_answer() {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let mut served = served(listener.local_addr().unwrap()).await;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let ends = service_fn(|_| async { Ok::<_, Infallible>(answer(200, "")) });
            let executor = hyper_util::rt::TokioExecutor::new();
            tokio::spawn(http2::Builder::new(executor).serve_connection(TokioIo::new(socket), ends));
        }
    });
    served.see(processor(Modes { request: HEADERS, response: NOTHING }));
    let (answer, _) = served.send(80, false, get("/", &[])).await;
    assert_eq!((answer.status().as_u16(), reason_of(&answer)), (502, Some(Reason::ProcessorFailed)));
}

#[tokio::test]
async fn bodies_that_are_seen_at_once_have_a_bound() {
    let scripted = Scripted::new(capitals);
    let mut served = served(scripted.serve().await).await;
    let most = Limits::default().size(&fairway_core::limits::PROCESSOR_BODY);
    let long = "x".repeat(most + 1);
    let buffered = with(BodyMode::Buffered);
    for (request, response, expected) in [
        (buffered, HEADERS, (413, Some(Reason::BadRequest))),
        (HEADERS, buffered, (500, Some(Reason::ProcessorFailed))),
        (HEADERS, with(BodyMode::Streamed), (200, None)),
    ] {
        // However it fails: who says much is not let off.
        served.see(Processor { fails_open: true, ..processor(Modes { request, response }) });
        let (answer, _) = served.send(80, true, post(&long)).await;
        assert_eq!((answer.status().as_u16(), reason_of(&answer)), expected);
    }
}

#[tokio::test]
async fn routes_are_chosen_again_where_the_processor_says_so_and_switch_it_off() {
    let again: Script = |asked| match asked {
        Asked::RequestHeaders(_) => {
            let answer = CommonResponse { clear_route_cache: true, ..sets("x-model", "large") };
            Step::Says(Answer::RequestHeaders(headers(answer)))
        }
        other => capitals(other),
    };
    let stays: Script = |asked| match asked {
        Asked::RequestHeaders(_) => Step::Says(Answer::RequestHeaders(headers(sets("x-model", "large")))),
        other => capitals(other),
    };
    for (script, expected) in [(again, "large\n"), (stays, "web\n")] {
        let scripted = Scripted::new(script);
        let mut served = served(scripted.serve().await).await;
        let large = told("large").await;
        served.announce("large", large.ip(), false, |_| {});
        served.cluster("large", Protocol::Http1, &[large]);
        let mut to_large = route_to("large");
        let value = Text::Exact("large".into());
        to_large.matching.headers = vec![HeaderMatch { name: Header::Named("x-model".parse().unwrap()), value }];
        let mut unseen = route_to(&web(80));
        unseen.matching.path = crate::config::PathMatch::Prefix("/unseen".into());
        unseen.before.processing = Some(Processing::Off);
        let endpoint = served.config.endpoints[&web(80)].priorities[0].clone();
        served.http(80, Vec::new(), vec![unseen, to_large, route_to(&web(80))], &endpoint);
        served.see(processor(Modes { request: HEADERS, response: NOTHING }));
        let (_, text) = served.send(80, false, get("/", &[])).await;
        assert!(text.starts_with(expected) && text.contains("x-model=large"), "{text}");
        scripted.take();
        let (answer, text) = served.send(80, false, get("/unseen", &[])).await;
        assert!(answer.status() == 200 && scripted.take().is_empty(), "{text}");
    }
}

#[tokio::test]
async fn who_leaves_takes_the_conversation_along() {
    let scripted = Scripted::new(|_| Step::Waits);
    let mut served = served(scripted.serve().await).await;
    served.see(processor(Modes { request: HEADERS, response: HEADERS }));
    let mut calls = scripted.calls.subscribe();
    {
        let mut sending = std::pin::pin!(served.send(80, true, get("/", &[])));
        tokio::select! {
            _ = &mut sending => panic!("nobody has answered"),
            begun = tokio::time::timeout(PATIENCE, calls.wait_for(|calls| *calls == 1)) => drop(begun.unwrap().unwrap()),
        }
    }
    drop(tokio::time::timeout(PATIENCE, calls.wait_for(|calls| *calls == 0)).await.unwrap().unwrap());
}
