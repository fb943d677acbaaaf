//! Tests of `events`: what is written, and what becomes of what cannot be, with a server that answers from a list.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request as HttpRequest, Response};
use http_body_util::{BodyExt, Full};
use tower_service::Service;

use super::*;

/// An API server that gives these answers, one after the other, and then takes everything.
#[derive(Clone, Default)]
struct Server {
    answers: Arc<Mutex<VecDeque<u16>>>,
    heard: Arc<Mutex<Vec<(String, Value)>>>,
    more: Arc<Notify>,
}

impl Service<HttpRequest<kube::client::Body>> for Server {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<kube::client::Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let target = format!("{} {}", request.method(), request.uri().path());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let code = server.answers.lock().unwrap().pop_front().unwrap_or(201);
            server.heard.lock().unwrap().push((target, serde_json::from_slice(&body).unwrap()));
            server.more.notify_one();
            let status =
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no"});
            let mut response = Response::new(Full::new(Bytes::from(status.to_string())));
            *response.status_mut() = code.try_into().unwrap();
            Ok(response)
        })
    }
}

impl Server {
    fn answering(answers: &[u16]) -> (Self, Announcer) {
        let server = Self { answers: Arc::new(Mutex::new(answers.to_vec().into())), ..Self::default() };
        let announcer = Announcer::start(kube::Client::new(server.clone(), "default"), CONTROLLER, "node-1");
        (server, announcer)
    }

    /// The requests, once there are so many.
    async fn requests(&self, count: usize) -> Vec<(String, Value)> {
        loop {
            let heard = self.heard.lock().unwrap().clone();
            if heard.len() >= count {
                return heard;
            }
            self.more.notified().await;
        }
    }
}

const CONTROLLER: &str = "fairway.dev/cni-agent";
const NOT_CAPTURED: &str = "NotCaptured";
const CANNOT: &str = "CannotBeCaptured";

fn event(uid: &str, reason: &'static str, message: &str) -> Event {
    let (about, uid, message) = (ObjectKey::pod("shop", "web"), uid.to_owned(), message.to_owned());
    Event { about, uid, reason, action: "Capture", is_warning: true, message }
}

fn said(uid: &str, message: &str) -> Said {
    Said { event: event(uid, NOT_CAPTURED, message), at: SystemTime::UNIX_EPOCH }
}

const COLLECTION: &str = "/apis/events.k8s.io/v1/namespaces/shop/events";

#[test]
fn an_event_says_who_what_and_when() {
    let event = Said { event: event("u1", CANNOT, "hostNetwork"), at: SystemTime::UNIX_EPOCH };
    let expected = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": "web.1", "namespace": "shop"},
        "eventTime": "1970-01-01T00:00:00.000000Z",
        "type": "Warning", "reason": "CannotBeCaptured", "action": "Capture", "note": "hostNetwork",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web", "uid": "u1"},
        "reportingController": "fairway.dev/cni-agent", "reportingInstance": "node-1",
    });
    let speaker = Speaker { controller: CONTROLLER, instance: "node-1".to_owned() };
    assert_eq!(first(&event, "web.1", &speaker), expected);
    let mut long = event;
    long.event.message = "ü".repeat(MAX_NOTE);
    long.event.is_warning = false;
    let made = first(&long, "web.1", &speaker);
    assert_eq!((made["note"].as_str().unwrap().len(), &made["type"]), (MAX_NOTE, &json!("Normal")));
}

#[test]
fn names_differ_where_words_do_and_are_never_too_long() {
    let one = event("u1", NOT_CAPTURED, "a");
    assert_eq!(name(&one), name(&one.clone()));
    for other in [event("u2", NOT_CAPTURED, "a"), event("u1", CANNOT, "a"), event("u1", NOT_CAPTURED, "b")] {
        assert_ne!(name(&one), name(&other), "{other:?}");
    }
    let long = Event { about: ObjectKey::pod("shop", "a.".repeat(126)), ..one };
    let name = name(&long);
    assert!(name.len() <= MAX_NAME && !name.contains(".."), "{name}");
}

#[test]
fn what_waits_is_bounded_and_each_thing_waits_once() {
    let mut queue = Queue::default();
    for message in ["first", "second"] {
        queue.put(said("u1", message));
    }
    assert_eq!(queue.waiting, [said("u1", "second")]);
    queue.put_back(said("u1", "first"));
    assert_eq!(queue.waiting, [said("u1", "second")], "the newer words stay");
    for number in 0..MOST_WAITING {
        queue.put(said(&format!("v{number}"), ""));
    }
    assert_eq!((queue.waiting.len(), queue.lost), (MOST_WAITING, 1));
    queue.put_back(said("u1", "second"));
    assert_eq!(queue.waiting.len(), MOST_WAITING);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_again_is_counted_and_what_the_server_forgot_is_made_anew() {
    // Made; an agent that starts again finds it there; then the server forgets it.
    let (server, announcer) = Server::answering(&[201, 200, 404, 201]);
    let event = event("u1", NOT_CAPTURED, "why");
    for count in [1, 2] {
        announcer.say(event.clone());
        server.requests(count).await;
    }
    announcer.say(event.clone());
    let heard = server.requests(4).await;
    let targets: Vec<&str> = heard.iter().map(|(target, _)| target.as_str()).collect();
    let (made, patched) = (format!("POST {COLLECTION}"), format!("PATCH {COLLECTION}/{}", name(&event)));
    assert_eq!(targets, [&made, &patched, &patched, &made]);
    assert_eq!((&heard[1].1["series"]["count"], &heard[2].1["series"]["count"]), (&json!(2), &json!(3)));

    let (server, announcer) = Server::answering(&[409, 200]);
    announcer.say(event.clone());
    let heard = server.requests(2).await;
    assert_eq!((heard[1].0.as_str(), &heard[1].1["series"]["count"]), (patched.as_str(), &json!(2)));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_hears_of_it_later_and_one_that_refuses_does_not() {
    for (code, is_repeated) in [(500, true), (503, true), (429, true), (403, false), (404, false), (422, false)] {
        let (server, announcer) = Server::answering(&[code]);
        announcer.say(event("u1", NOT_CAPTURED, "why"));
        announcer.say(event("u2", NOT_CAPTURED, "why"));
        let heard = server.requests(2).await;
        assert_eq!(heard[1].1["regarding"]["uid"], if is_repeated { "u1" } else { "u2" }, "{code}");
    }
}
