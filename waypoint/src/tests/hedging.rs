//! Attempts that are late and go on, while another one is sent beside them. The clock stands still unless a test moves it.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use fairway_core::access_log::Template;
use fairway_core::reason::Reason;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{advance, timeout};

use super::{reason_of, web};
use crate::config::{Balancer, Format, Listener, Logger, Logs, Protocol, Retry, Sink};
use crate::in_flight::{self, Row};
use crate::testing::{PATIENCE, Served, forwarding, get, out_after_two_errors, own_address, route_to};

/// After so long an attempt is late.
const LATE: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(2);

/// Time passes only when it is told to as long as this is there, or until a test hangs.
struct Stopped(#[expect(dead_code, reason = "what it is for is to be dropped")] mpsc::Sender<()>);

impl Stopped {
    fn clock() -> Self {
        tokio::time::pause();
        let (held, released) = mpsc::channel::<()>();
        // While something blocks, tokio does not go on to the next timer by itself.
        tokio::task::spawn_blocking(move || released.recv_timeout(PATIENCE));
        Self(held)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        tokio::time::resume();
    }
}

/// What an endpoint notices.
#[derive(Debug, PartialEq, Eq)]
enum Noticed {
    /// Somebody asks.
    Head,
    /// All of the question, with this body.
    Whole(String),
    /// Nobody waits for the answer any more.
    Left,
}

/// An endpoint that says what it notices, and answers when it is told to.
struct Endpoint {
    address: SocketAddr,
    notices: UnboundedReceiver<Noticed>,
    answer: watch::Sender<Option<u16>>,
}

impl Endpoint {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (notice, notices) = unbounded_channel();
        let (answer, answers) = watch::channel(None);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(converse(socket, name, notice.clone(), answers.clone()));
            }
        });
        Self { address, notices, answer }
    }

    async fn notices(&mut self, expected: Noticed) {
        let noticed = timeout(PATIENCE, self.notices.recv()).await.expect("something to notice");
        assert_eq!(noticed, Some(expected), "{}", self.address);
    }

    /// Waits for a question with this body.
    async fn is_asked(&mut self, body: &str) {
        self.notices(Noticed::Head).await;
        self.notices(Noticed::Whole(body.to_owned())).await;
    }

    fn has_noticed_nothing(&mut self) -> bool {
        self.notices.try_recv().is_err()
    }

    fn answers(&self, status: u16) {
        self.answer.send_replace(Some(status));
    }
}

async fn converse(
    mut socket: TcpStream,
    name: &str,
    notice: UnboundedSender<Noticed>,
    mut answers: watch::Receiver<Option<u16>>,
) {
    let tell = |noticed| drop(notice.send(noticed));
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = socket.read_u8().await else { return };
            head.push(byte);
        }
        tell(Noticed::Head);
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        if socket.read_exact(&mut body).await.is_err() {
            return tell(Noticed::Left);
        }
        tell(Noticed::Whole(String::from_utf8(body).unwrap()));
        let mut nothing = [0];
        tokio::select! {
            status = async { answers.wait_for(Option::is_some).await.unwrap().unwrap() } => {
                let text = format!("HTTP/1.1 {status} Any\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                socket.write_all(text.as_bytes()).await.unwrap();
            }
            _end = socket.read(&mut nothing) => return tell(Noticed::Left),
        }
    }
}

fn hedging() -> Retry {
    Retry {
        statuses: vec![StatusCode::SERVICE_UNAVAILABLE],
        attempts: 1,
        elsewhere: true,
        attempt_timeout: Some(LATE),
        hedges: true,
        ..Retry::default()
    }
}

/// A waypoint before two endpoints, of which the slow one is asked first.
async fn served(retry: Retry) -> (Served, Endpoint, Endpoint) {
    let mut served = Served::start().await;
    let (slow, fast) = (Endpoint::start("slow").await, Endpoint::start("fast").await);
    for (name, endpoint) in [("slow", &slow), ("fast", &fast)] {
        served.announce(name, endpoint.address.ip(), false, |_| {});
    }
    let route = forwarding(route_to(&web(80)), |forward| {
        (forward.retry, forward.timeout) = (Some(retry), Some(LATE * 3));
    });
    served.http(80, vec![], vec![route], &[slow.address, fast.address]);
    let line = Template::parse("%RESPONSE_CODE% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_HOST%\n").unwrap();
    let logger = Logger { condition: None, sink: Sink::Line(Format::Text(line), false) };
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
        http.logs = Some(Arc::new(Logs { loggers: vec![logger], asked: Vec::new(), answered: Vec::new() }));
    }
    served.change_cluster(&web(80), |cluster| cluster.protocol = Protocol::Http1);
    (served, slow, fast)
}

fn post(text: &'static str) -> Request<Full<Bytes>> {
    let mut request = get("/", &[]);
    *request.method_mut() = Method::POST;
    *request.body_mut() = Full::from(text);
    request
}

fn row(served: &Served) -> Row {
    in_flight::shown(&served.waypoint, (Instant::now(), SystemTime::now())).requests.remove(0)
}

/// Requests and repetitions under way, and requests to endpoints.
fn under_way(served: &Served) -> [u32; 3] {
    served.waypoint.loads.known(&web(80)).unwrap().under_way()
}

#[tokio::test]
async fn another_attempt_is_sent_beside_one_that_is_late() {
    // Whether the later one of both answers first.
    for is_later in [true, false] {
        let (mut served, mut one, mut two) = served(hedging()).await;
        served.change_cluster(&web(80), |cluster| cluster.balancer = Balancer::LeastRequest);
        let clock = Stopped::clock();
        let script = async {
            let (late, other) = tokio::select! {
                () = one.notices(Noticed::Head) => (&mut one, &mut two),
                () = two.notices(Noticed::Head) => (&mut two, &mut one),
            };
            late.notices(Noticed::Whole("twice".to_owned())).await;
            advance(LATE - MOMENT).await;
            assert_eq!((row(&served).attempts, other.has_noticed_nothing()), (1, true));
            advance(MOMENT * 2).await;
            other.is_asked("twice").await;
            let row = row(&served);
            assert_eq!((row.attempts, row.phase, row.endpoint), (2, "waitingForAnswer", Some(other.address)));
            assert_eq!(under_way(&served), [1, 1, 2]);
            assert!(late.has_noticed_nothing(), "it goes on");
            let (first, given_up) = if is_later { (other, late) } else { (late, other) };
            first.answers(200);
            given_up.notices(Noticed::Left).await;
            first.address
        };
        let ((response, _), first) = tokio::join!(served.send(80, false, post("twice")), script);
        drop(clock);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(served.logged.lines(1).await, [format!("200 2 {first}")]);
        let page = served.metrics.render();
        let counted: Vec<_> = page.lines().filter(|line| line.starts_with("istio_requests_total")).collect();
        assert!(matches!(*counted, [one] if one.ends_with(" 1")), "{counted:?}");
        assert_eq!(under_way(&served), [0; 3]);
    }
}

/// What the slow endpoint and the other one answer once both are asked, in which order, and what the client gets.
#[tokio::test]
async fn the_first_good_answer_counts_or_else_the_last() {
    let rows = [
        ([("fast", 503), ("slow", 200)], 200, "slow"),
        ([("slow", 503), ("fast", 200)], 200, "fast"),
        ([("fast", 404), ("slow", 200)], 404, "fast"),
        ([("fast", 503), ("slow", 503)], 503, "slow"),
        ([("slow", 503), ("fast", 503)], 503, "fast"),
    ];
    for (answers, status, from) in rows {
        let (served, mut slow, mut fast) = served(hedging()).await;
        let _clock = Stopped::clock();
        let script = async {
            slow.is_asked("").await;
            advance(LATE + MOMENT).await;
            fast.is_asked("").await;
            for (name, status) in answers {
                if name == "slow" { &slow } else { &fast }.answers(status);
                // It is looked at before the next one is there.
                for _ in 0..1000 {
                    tokio::task::yield_now().await;
                }
            }
        };
        let ((response, body), ()) = tokio::join!(served.send(80, false, get("/", &[])), script);
        assert_eq!((response.status().as_u16(), &*body), (status, from), "{answers:?}");
        assert_eq!(under_way(&served), [0; 3]);
    }
}

/// Without leave for another attempt one that is late goes on alone; where nobody hedges, it is given up.
#[tokio::test]
async fn nothing_is_sent_beyond_what_may_be() {
    let rows = [
        ("as many as there may be", Retry { attempts: 0, ..hedging() }, 9, true),
        ("as many as the service may have", hedging(), 0, true),
        ("not hedged", Retry { hedges: false, ..hedging() }, 9, false),
    ];
    for (name, retry, most, goes_on) in rows {
        let (mut served, mut slow, mut fast) = served(retry).await;
        served.change_cluster(&web(80), |cluster| cluster.bounds.retries = most);
        let _clock = Stopped::clock();
        let script = async {
            slow.is_asked("").await;
            advance(LATE + MOMENT).await;
            if goes_on {
                advance(LATE + MOMENT).await;
                slow.answers(200);
            } else {
                slow.notices(Noticed::Left).await;
            }
        };
        let ((response, body), ()) = tokio::join!(served.send(80, false, get("/", &[])), script);
        let expected = if goes_on { (200, None, "slow") } else { (504, Some(Reason::TimedOut), &*body) };
        assert_eq!((response.status().as_u16(), reason_of(&response), &*body), expected, "{name}");
        assert!(fast.has_noticed_nothing(), "{name}");
    }
}

/// Two attempts cannot read one client.
#[tokio::test]
async fn a_body_that_is_still_coming_is_sent_by_one_attempt_at_a_time() {
    let (served, mut slow, mut fast) = served(hedging()).await;
    let _clock = Stopped::clock();
    let mut stream = served.dial("10.96.0.1:80").await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 4\r\n\r\nbo").await.unwrap();
    slow.notices(Noticed::Head).await;
    while row(&served).received_bytes < 2 {
        tokio::task::yield_now().await;
    }
    advance(LATE + MOMENT).await;
    slow.notices(Noticed::Left).await;
    fast.notices(Noticed::Head).await;
    stream.write_all(b"dy").await.unwrap();
    fast.notices(Noticed::Whole("body".to_owned())).await;
    fast.answers(200);
    let mut answer = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn that_an_endpoint_was_late_is_noted_once() {
    let (mut served, mut slow, mut fast) = served(hedging()).await;
    served.change_cluster(&web(80), |cluster| cluster.outliers = Some(out_after_two_errors()));
    let left_out = |served: &Served| served.metrics.render().contains("fairway_waypoint_endpoints_left_out_total 1");
    let _clock = Stopped::clock();
    // Nobody answers in the time of the route.
    let script = async {
        slow.is_asked("").await;
        advance(LATE + MOMENT).await;
        fast.is_asked("").await;
        advance(LATE * 2 + MOMENT).await;
        slow.notices(Noticed::Left).await;
        fast.notices(Noticed::Left).await;
    };
    let ((response, _), ()) = tokio::join!(served.send(80, false, get("/", &[])), script);
    assert_eq!((response.status(), reason_of(&response)), (StatusCode::GATEWAY_TIMEOUT, Some(Reason::TimedOut)));
    assert!(!left_out(&served), "each was late once");
    let script = async {
        slow.is_asked("").await;
        advance(LATE + MOMENT).await;
        fast.is_asked("").await;
        assert!(left_out(&served), "the slow one was late twice");
        slow.answers(503);
        fast.answers(200);
    };
    let ((response, _), ()) = tokio::join!(served.send(80, false, get("/", &[])), script);
    assert_eq!(response.status(), StatusCode::OK);
}
