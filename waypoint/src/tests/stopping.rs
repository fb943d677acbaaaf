//! What clients notice of a waypoint that stops: they are told in time to go elsewhere, and lose nothing.

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::*;

/// An endpoint that tells of each request and answers when it may.
async fn answering_when_told(served: &mut Served) -> (mpsc::UnboundedReceiver<()>, watch::Sender<bool>) {
    let ((begun, begins), (go, gone)) = (mpsc::unbounded_channel(), watch::channel(false));
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, vec![], vec![route_to(&web(80))], &[endpoint]);
    served.change_cluster(&web(80), |cluster| cluster.protocol = Protocol::Http1);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (begun, mut gone) = (begun.clone(), gone.clone());
            tokio::spawn(async move {
                let mut head = [0; 1024];
                while socket.read(&mut head).await.is_ok_and(|length| length > 0) {
                    begun.send(()).unwrap();
                    gone.wait_for(|gone| *gone).await.unwrap();
                    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                }
            });
        }
    });
    (begins, go)
}

/// Types of frames (RFC 9113 §6) that matter here.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
/// A setting or a ping is acknowledged; a stream ends.
const FLAG: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The next frame that is no matter of the connection itself, which is seen to: type, flags, stream and payload. None at the end.
async fn next(io: &mut TunnelIo) -> Option<(u8, u8, u32, Vec<u8>)> {
    loop {
        let mut head = [0; 9];
        timeout(PATIENCE, io.read_exact(&mut head)).await.expect("a frame").ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
        io.read_exact(&mut payload).await.unwrap();
        match (kind, flags & FLAG) {
            (SETTINGS, 0) => io.write_all(&frame(SETTINGS, FLAG, 0, &[])).await.unwrap(),
            (PING, 0) => io.write_all(&frame(PING, FLAG, 0, &payload)).await.unwrap(),
            (DATA | HEADERS | GOAWAY, _) => return Some((kind, flags, u32::from_be_bytes(stream), payload)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn http2_is_told_to_go_elsewhere_and_what_is_under_way_finishes() {
    let mut served = Served::start().await;
    let (mut begins, go) = answering_when_told(&mut served).await;
    let mut io = served.dial("10.96.0.1:80").await;
    // GET http://web/ by HPACK's static table (RFC 7541, appendix A), with the name written out.
    let request = [&[0x82, 0x86, 0x84, 0x41, 3][..], b"web"].concat();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let all = [preface, frame(SETTINGS, 0, 0, &[]), frame(HEADERS, 4 | FLAG, 1, &request)].concat();
    io.write_all(&all).await.unwrap();
    begins.recv().await.unwrap();
    served.stop();
    // First that there will be an end, and then which request was the last (RFC 9113 §6.8); neither is an error.
    let mut told = Vec::new();
    while told.last() != Some(&1) {
        let (kind, _, _, payload) = next(&mut io).await.expect("the connection lasts while a request is under way");
        assert_eq!((kind, &payload[4..8]), (GOAWAY, &[0; 4][..]), "nothing is answered yet");
        told.push(u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]));
    }
    assert_eq!(told, [u32::MAX >> 1, 1]);
    go.send(true).unwrap();
    let (kind, _, stream, payload) = next(&mut io).await.unwrap();
    assert_eq!((kind, stream, payload[0]), (HEADERS, 1, 0x88), "the status is 200");
    let mut body = Vec::new();
    while let Some((DATA, flags, 1, payload)) = next(&mut io).await {
        body.extend(payload);
        if flags & FLAG != 0 {
            break;
        }
    }
    assert_eq!(body, b"ok");
    assert_eq!(next(&mut io).await, None, "the connection ends with the last of them");
}

#[tokio::test]
async fn http1_is_told_with_an_answer_and_not_closed_under_the_next_request() {
    let mut served = Served::start().await;
    let (_begins, go) = answering_when_told(&mut served).await;
    go.send(true).unwrap();
    let io = TokioIo::new(served.dial("10.96.0.1:80").await);
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    for (row, is_last) in [("before", false), ("unused since", true)] {
        if is_last {
            served.stop();
        }
        let answer = timeout(PATIENCE, sender.send_request(get("/", &[]))).await.unwrap().expect(row);
        assert_eq!(answer.headers().get("connection").is_some_and(|told| told == "close"), is_last, "{row}");
        http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    }
    timeout(PATIENCE, connection).await.expect("the connection ends").unwrap().unwrap();
}
