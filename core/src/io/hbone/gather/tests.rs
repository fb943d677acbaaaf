//! Tests of `gather`.

use std::collections::VecDeque;

use bytes::Bytes;
use h2::{client, server};
use http::{Method, Request, Response};
use proptest::prelude::*;

use super::*;

/// A socket that remembers each call, takes so many bytes a call, and refuses calls when it is told to.
#[derive(Default)]
struct Recorder {
    calls: Vec<Vec<u8>>,
    takes: VecDeque<usize>,
    broken: bool,
}

impl AsyncRead for Recorder {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut bytes = slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<_>>();
        match this.takes.pop_front() {
            Some(0) => {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(takes) => bytes.truncate(takes),
            None => {}
        }
        this.calls.push(bytes);
        Poll::Ready(Ok(this.calls.last().map_or(0, Vec::len)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Writes `frames` in one turn, each as h2 writes it: a head and a payload, and a flush after each. Then waits for the
/// turn to have been made up for.
async fn write_in_one_turn(gathered: &mut Gathered<Recorder>, turns: &Turns<Recorder>, frames: &[Vec<u8>]) {
    let mut left: VecDeque<Bytes> = frames.iter().map(|frame| Bytes::from(frame.clone())).collect();
    turns
        .drive(|context| {
            while let Some(mut frame) = left.pop_front() {
                while !frame.is_empty() {
                    let (head, payload) = frame.split_at(frame.len().min(9));
                    let slices = [IoSlice::new(head), IoSlice::new(payload)];
                    match Pin::new(&mut *gathered).poll_write_vectored(context, &slices) {
                        Poll::Ready(written) => frame.advance(written.unwrap()),
                        Poll::Pending => {
                            left.push_front(frame);
                            return Poll::Pending;
                        }
                    }
                }
                assert!(Pin::new(&mut *gathered).poll_flush(context).is_ready());
            }
            let shared = lock(&gathered.shared);
            if shared.unflushed { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
}

/// Drives until nothing is left, as a connection that has nothing to do would be: woken once after the flush.
async fn calls_for(frames: &[Vec<u8>], takes: &[usize]) -> Vec<Vec<u8>> {
    let (mut gathered, turns) = gather(Recorder { takes: takes.iter().copied().collect(), ..Recorder::default() });
    let write = write_in_one_turn(&mut gathered, &turns, frames);
    // The turn after the last flush has nobody to wake it here.
    let mut write = std::pin::pin!(write);
    poll_fn(|context| {
        context.waker().wake_by_ref();
        write.as_mut().poll(context)
    })
    .await;
    let mut shared = lock(&turns.shared);
    assert_eq!(shared.held.capacity(), 0, "nothing is kept when there is nothing to keep");
    std::mem::take(&mut shared.io.calls)
}

#[tokio::test]
async fn small_frames_of_a_turn_are_one_call() {
    let frames = vec![vec![1; 100], vec![2; 17], vec![3; 9_000]];
    let calls = calls_for(&frames, &[]).await;
    assert_eq!(calls, [frames.concat()]);
}

#[tokio::test]
async fn bulk_goes_out_at_once_with_what_was_held() {
    let frames = vec![vec![1; 100], vec![2; 100_000], vec![3; 10]];
    let calls = calls_for(&frames, &[]).await;
    assert_eq!(calls, [frames[..2].concat(), frames[2].clone()]);
}

proptest! {
    #[test]
    fn every_byte_is_sent_once_and_in_order(
        sizes in prop::collection::vec(prop_oneof![1_usize..300, 15_000_usize..40_000], 1..12),
        takes in prop::collection::vec(prop_oneof![Just(0_usize), 1_usize..20_000], 0..30),
    ) {
        let frames: Vec<Vec<u8>> = sizes
            .iter()
            .enumerate()
            .map(|(number, size)| (0..*size).map(|index| u8::try_from((index * 7 + number * 31) % 251).unwrap()).collect())
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let calls = runtime.block_on(calls_for(&frames, &takes));
        prop_assert!(calls.concat() == frames.concat());
    }
}

/// A socket that breaks while nothing but a flush is left must end the connection; nobody else would notice.
#[tokio::test]
async fn a_flush_that_fails_is_met_by_the_next_read() {
    let (mut gathered, turns) = gather(Recorder { broken: true, ..Recorder::default() });
    let mut written = false;
    let result = turns
        .drive(|context| {
            if !written {
                written = true;
                assert!(Pin::new(&mut gathered).poll_write(context, b"frame").is_ready());
                return Poll::Pending;
            }
            let mut bytes = [0; 8];
            Pin::new(&mut gathered).poll_read(context, &mut ReadBuf::new(&mut bytes))
        })
        .await;
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// What is shut down is sent first.
#[tokio::test]
async fn shutdown_sends_what_is_held() {
    let (mut gathered, _turns) = gather(Recorder::default());
    poll_fn(|context| Pin::new(&mut gathered).poll_write(context, b"goaway")).await.unwrap();
    poll_fn(|context| Pin::new(&mut gathered).poll_shutdown(context)).await.unwrap();
    assert_eq!(lock(&gathered.shared).io.calls, [b"goaway"]);
}

/// Counts the calls that reach the socket of a real connection.
struct Counted<T>(T, Arc<std::sync::atomic::AtomicUsize>);

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// A hundred requests that are ready together reach the server in far fewer than a hundred writes.
#[tokio::test]
async fn requests_that_are_ready_together_go_together() {
    let (near, far) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        let (io, turns) = gather(far);
        let mut handshake = server::handshake(io);
        let mut connection: server::Connection<_, Bytes> =
            turns.drive(|context| Pin::new(&mut handshake).poll(context)).await.unwrap();
        while let Some(Ok((_, mut respond))) = turns.drive(|context| connection.poll_accept(context)).await {
            respond.send_response(Response::new(()), true).unwrap();
        }
    });
    let writes = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (io, turns) = gather(Counted(near, Arc::clone(&writes)));
    let (sender, mut connection) = client::handshake(io).await.unwrap();
    tokio::spawn(async move { turns.drive(|context| Pin::new(&mut connection).poll(context)).await });
    let mut requests = tokio::task::JoinSet::new();
    for number in 0..100 {
        let sender = sender.clone();
        requests.spawn(async move {
            let request = Request::builder().method(Method::GET).uri(format!("http://a/{number}")).body(()).unwrap();
            sender.ready().await.unwrap().send_request(request, true).unwrap().0.await.unwrap()
        });
    }
    assert_eq!(requests.join_all().await.len(), 100);
    let writes = writes.load(std::sync::atomic::Ordering::Relaxed);
    assert!(writes < 20, "{writes} writes");
}

/// Answers that many streams have ready at once share writes, although the runtime runs the connection after each of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_streams_write_together_goes_together() {
    const STREAMS: usize = 50;
    const ROUNDS: usize = 40;
    let (near, far) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(async move {
        let mut connection = server::handshake(far).await.unwrap();
        let mut received = tokio::task::JoinSet::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            respond.send_response(Response::new(()), true).unwrap();
            received.spawn(async move {
                let (mut body, mut bytes) = (request.into_body(), 0);
                while let Some(Ok(piece)) = body.data().await {
                    bytes += piece.len();
                }
                bytes
            });
        }
        received.join_all().await
    });
    let writes = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (io, turns) = gather(Counted(near, Arc::clone(&writes)));
    let (sender, mut connection) = client::handshake(io).await.unwrap();
    tokio::spawn(async move { turns.drive(|context| Pin::new(&mut connection).poll(context)).await });
    // All streams are ready at the same time, in each round.
    let barrier = Arc::new(tokio::sync::Barrier::new(STREAMS));
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let request = Request::builder().method(Method::POST).uri("http://a/").body(()).unwrap();
        let (_answer, mut body) = sender.clone().ready().await.unwrap().send_request(request, false).unwrap();
        let barrier = Arc::clone(&barrier);
        streams.spawn(async move {
            for _ in 0..ROUNDS {
                barrier.wait().await;
                body.send_data(Bytes::from_static(b"a line"), false).unwrap();
            }
            body.send_data(Bytes::new(), true).unwrap();
        });
    }
    drop(sender);
    streams.join_all().await;
    let received = server.await.unwrap();
    assert_eq!(received, [ROUNDS * "a line".len()].repeat(STREAMS));
    let writes = writes.load(std::sync::atomic::Ordering::Relaxed);
    assert!(writes < STREAMS * ROUNDS / 4, "{writes} writes");
}
