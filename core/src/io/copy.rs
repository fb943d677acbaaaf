//! Copies bytes both ways until both sides are done: half-close and resets pass through, idle streams hold no buffer.

mod ending;

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio_util::io::poll_read_buf;

use self::ending::{Broken, both};
use crate::io::hbone::TunnelStream;
use crate::io::hbone::stream::{StreamError, TunnelReceiver, TunnelSender};
use crate::io::socket::reset_on_close;
use crate::limits::{self, Limits};
use crate::reason::Reason;

/// Told about bytes as they pass. The local side is the application's connection.
pub trait Meter {
    /// Bytes read from the application and taken by the other side.
    fn out_of_application(&self, bytes: u64);
    /// Bytes of the other side, taken by the application.
    fn towards_application(&self, bytes: u64);
}

/// How a copy broke off. A copy that ended on both sides is no error.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The application's connection failed.
    #[error("application connection: {0}")]
    Application(io::Error),
    /// The plain connection to the other side failed.
    #[error("connection to the peer: {0}")]
    Peer(io::Error),
    /// The tunnel stream failed.
    #[error(transparent)]
    Tunnel(#[from] StreamError),
}

impl CopyError {
    /// The reason to report.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Application(error) | Self::Peer(error) => match error.kind() {
                io::ErrorKind::TimedOut => Reason::TimedOut,
                _ => Reason::ResetByPeer,
            },
            Self::Tunnel(StreamError::Reset(_)) => Reason::ResetByPeer,
            Self::Tunnel(StreamError::Connection(_)) => Reason::Http2Failed,
        }
    }
}

/// Copies between the application and a tunnel stream.
///
/// Whatever side breaks, the other learns of it once it has what was sent before: a TCP reset becomes `CONNECT_ERROR` and
/// the reverse (RFC 9113 §8.5). Dropping the future mid-way cancels the stream; the caller decides what the application
/// gets to see.
///
/// # Errors
/// See [`CopyError`].
pub async fn with_tunnel(
    application: &mut TcpStream,
    tunnel: &mut TunnelStream,
    limits: &Limits,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    let TunnelStream { sender, receiver } = tunnel;
    let result = {
        let (read, write) = application.split();
        let gone = AtomicBool::new(false);
        // Pinned where they are made, a future is not kept in memory twice.
        let outward = pin!(tcp_to_tunnel(read, sender, &gone, limits, meter));
        let inward = pin!(tunnel_to_tcp(receiver, write.as_ref(), &gone, limits, meter));
        both(outward, inward, limits.duration(&limits::COPY_FLUSH)).await
    };
    match result {
        Ok(()) => Ok(()),
        // Boxed, because it is over soon.
        Err(error) => {
            Box::pin(async move {
                // What the application sent before it broke off is for the peer.
                tunnel.sender.flushed(limits.duration(&limits::COPY_FLUSH)).await;
                tunnel.abort();
                reset_on_close(application);
                Err(error)
            })
            .await
        }
    }
}

/// Copies between the application and a plain connection.
///
/// # Errors
/// See [`CopyError`].
pub async fn plain(
    application: &mut TcpStream,
    peer: &mut TcpStream,
    limits: &Limits,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    let result = {
        let (from_application, to_application) = application.split();
        let (from_peer, to_peer) = peer.split();
        let (application_failed, peer_failed): (Failed, Failed) = (CopyError::Application, CopyError::Peer);
        let (application_gone, peer_gone) = (AtomicBool::new(false), AtomicBool::new(false));
        let outward = pin!(tcp_to_tcp(
            (from_application, application_failed, &application_gone),
            (to_peer.as_ref(), peer_failed, &peer_gone),
            limits,
            |bytes| meter.out_of_application(bytes),
        ));
        let inward = pin!(tcp_to_tcp(
            (from_peer, peer_failed, &peer_gone),
            (to_application.as_ref(), application_failed, &application_gone),
            limits,
            |bytes| meter.towards_application(bytes),
        ));
        both(outward, inward, limits.duration(&limits::COPY_FLUSH)).await
    };
    if result.is_err() {
        reset_on_close(application);
        reset_on_close(peer);
    }
    result
}

/// `gone` is set by the other direction when the application took no more: what looks like an end then is none.
async fn tcp_to_tunnel(
    from: ReadHalf<'_>,
    to: &mut TunnelSender,
    gone: &AtomicBool,
    limits: &Limits,
    meter: &impl Meter,
) -> Result<(), Broken> {
    let (mut pace, mut source) = (Pace::new(limits), Source::new(from));
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = source.piece(pace.buffer_size()) => chunk.map_err(|error| Broken::Source(CopyError::Application(error)))?,
            reset = to.reset() => return stopped(reset),
        };
        let Some(chunk) = chunk else {
            if !gone.load(Ordering::Relaxed) {
                to.finish().map_err(|error| Broken::Sink(error.into()))?;
            }
            return Ok(());
        };
        let length = count(chunk.len());
        let sent = {
            let sent = pin!(to.send_all(chunk));
            unless_broken(sent, source.from.as_ref()).await
        };
        let sent = sent.map_err(|error| Broken::Source(CopyError::Application(error)))?;
        if let Err(error) = sent {
            return stopped(error);
        }
        meter.out_of_application(length);
        pace.passed(length).await;
    }
}

/// A peer that merely wants no more data says NO_ERROR or CANCEL; what it still sends us is worth waiting for.
fn stopped(error: StreamError) -> Result<(), Broken> {
    match error {
        StreamError::Reset(h2::Reason::NO_ERROR | h2::Reason::CANCEL) => Ok(()),
        broken => Err(Broken::Sink(broken.into())),
    }
}

/// Sets `gone` when the application takes no more.
async fn tunnel_to_tcp(
    from: &mut TunnelReceiver,
    to: &TcpStream,
    gone: &AtomicBool,
    limits: &Limits,
    meter: &impl Meter,
) -> Result<(), Broken> {
    let mut pace = Pace::new(limits);
    let tunnel = |error: StreamError| Broken::Source(error.into());
    let application = |error| {
        gone.store(true, Ordering::Relaxed);
        Broken::Sink(CopyError::Application(error))
    };
    while let Some(chunk) = from.receive().await.map_err(tunnel)? {
        write_all(to, &chunk).await.map_err(application)?;
        from.consumed(chunk.len()).map_err(tunnel)?;
        let length = count(chunk.len());
        meter.towards_application(length);
        pace.passed(length).await;
    }
    half_close(to).map_err(application)
}

type Failed = fn(io::Error) -> CopyError;

/// Each side comes with what its failure is called, and whether it was seen to take no more.
async fn tcp_to_tcp(
    (from, from_failed, from_gone): (ReadHalf<'_>, Failed, &AtomicBool),
    (to, to_failed, to_gone): (&TcpStream, Failed, &AtomicBool),
    limits: &Limits,
    passed: impl Fn(u64),
) -> Result<(), Broken> {
    let (mut pace, mut source) = (Pace::new(limits), Source::new(from));
    let sink = |error| {
        to_gone.store(true, Ordering::Relaxed);
        Broken::Sink(to_failed(error))
    };
    loop {
        let read = source.fill(pace.buffer_size()).await.map_err(|error| Broken::Source(from_failed(error)))?;
        if read == 0 {
            return if from_gone.load(Ordering::Relaxed) { Ok(()) } else { half_close(to).map_err(sink) };
        }
        let written = {
            let written = pin!(write_all(to, &source.buffer));
            unless_broken(written, source.from.as_ref()).await
        };
        written.map_err(|error| Broken::Source(from_failed(error)))?.map_err(sink)?;
        source.buffer.clear();
        passed(count(read));
        pace.passed(count(read)).await;
    }
}

/// What comes of `work`, unless `source` is reset meanwhile: while the other side takes nothing, nobody reads from it.
fn unless_broken<'a, F: Future>(
    mut work: Pin<&'a mut F>,
    source: &'a TcpStream,
) -> impl Future<Output = io::Result<F::Output>> + use<'a, F> {
    let mut watch: Option<Pin<Box<dyn Future<Output = io::Error> + Send + 'a>>> = None;
    poll_fn(move |context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        // Boxed, because most connections never wait here.
        Poll::Pending => watch.get_or_insert_with(|| Box::pin(broken(source))).as_mut().poll(context).map(Err),
    })
}

/// Resolves when the connection was reset, otherwise never: an end is none.
async fn broken(connection: &TcpStream) -> io::Error {
    match connection.ready(Interest::ERROR).await {
        Ok(_) => connection.take_error().ok().flatten().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        Err(error) => error,
    }
}

/// How much one direction has copied, and when it last gave way.
///
/// Sockets that are always ready never suspend their task: without giving way, one bulk transfer would hold a worker
/// thread, and a policy change could not reach it.
struct Pace<'a> {
    total: u64,
    since: u64,
    limits: &'a Limits,
}

impl<'a> Pace<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self { total: 0, since: 0, limits }
    }

    /// Buffers grow with what has passed: most connections stay small, bulk transfers save system calls.
    fn buffer_size(&self) -> usize {
        let size = if self.total >= self.limits.value(&limits::COPY_GROW_LARGE) {
            &limits::COPY_BUFFER_LARGE
        } else if self.total >= self.limits.value(&limits::COPY_GROW_MEDIUM) {
            &limits::COPY_BUFFER_MEDIUM
        } else {
            &limits::COPY_BUFFER_SMALL
        };
        self.limits.size(size)
    }

    async fn passed(&mut self, length: u64) {
        self.total += length;
        self.since += length;
        if self.since >= self.limits.value(&limits::COPY_YIELD) {
            self.since = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// What a socket sends. The buffer exists only while there is something to read.
struct Source<'a> {
    from: ReadHalf<'a>,
    buffer: BytesMut,
}

impl<'a> Source<'a> {
    fn new(from: ReadHalf<'a>) -> Self {
        Self { from, buffer: BytesMut::new() }
    }

    /// Reads into the buffer, which must be empty, and says how much; zero at the end. At most `size` bytes at once.
    async fn fill(&mut self, size: usize) -> io::Result<usize> {
        poll_fn(|context| {
            loop {
                if self.from.as_ref().poll_read_ready(context)?.is_pending() {
                    self.buffer = BytesMut::new();
                    return Poll::Pending;
                }
                // Memory that the other side is done with is used again.
                if self.buffer.capacity() < size / 2 {
                    self.buffer.reserve(size);
                }
                // A read that leaves room tells the runtime that there is no more, which spares the read that would.
                match poll_read_buf(Pin::new(&mut self.from), context, &mut self.buffer) {
                    Poll::Pending => {}
                    ready => return ready,
                }
            }
        })
        .await
    }

    /// The next piece, `None` at the end. Large ones share the buffer.
    async fn piece(&mut self, size: usize) -> io::Result<Option<Bytes>> {
        let read = self.fill(size).await?;
        if read == 0 {
            return Ok(None);
        }
        if read < size / 8 {
            // A few bytes must not keep a large buffer alive while they wait for a slow peer.
            let piece = Bytes::copy_from_slice(&self.buffer);
            self.buffer.clear();
            return Ok(Some(piece));
        }
        Ok(Some(self.buffer.split().freeze()))
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says "no more bytes from here". A connection that is gone already has heard it.
fn half_close(stream: &TcpStream) -> io::Result<()> {
    match SockRef::from(stream).shutdown(Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
