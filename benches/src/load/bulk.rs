//! Streams of bytes from client to server, as fast as they go.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::window::{Tally, Window};
use super::{Common, Outcome};

/// Bytes per write: large enough that system calls do not show.
const CHUNK_BYTES: usize = 256 * 1024;
/// How long a stream may stand still before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(common: &Common, streams: usize) -> Result<Outcome> {
    let (window, sent) = (Window::default(), AtomicU64::new(0));
    let connections = (0..streams).map(|_| connect(common.target)).collect::<Result<Vec<_>>>()?;
    let (warm_up, measured) = (common.warm_up()?, common.measured()?);
    let mut outcome = thread::scope(|scope| {
        for connection in connections {
            let (window, sent) = (&window, &sent);
            scope.spawn(move || {
                let mut tally = Tally::default();
                if let Err(error) = send(connection, window, sent) {
                    tally.failed(format!("{error:#}"));
                }
                window.add(&tally);
            });
        }
        let outcome = (|| {
            thread::sleep(warm_up);
            let before = sent.load(Ordering::Relaxed);
            let span = window.open(&common.watched)?;
            thread::sleep(measured);
            let mut outcome = window.close(span, &common.watched)?;
            outcome.bytes = sent.load(Ordering::Relaxed) - before;
            Ok::<_, anyhow::Error>(outcome)
        })();
        window.abandon();
        outcome
    })?;
    window.report(&mut outcome);
    Ok(outcome)
}

fn connect(target: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE).context("connecting")?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn send(mut stream: TcpStream, window: &Window, sent: &AtomicU64) -> Result<()> {
    let chunk = vec![b'x'; CHUNK_BYTES];
    let mut own: u64 = 0;
    while !window.is_over() {
        let count = stream.write(&chunk).context("sending")?;
        own += u64::try_from(count)?;
        sent.fetch_add(u64::try_from(count)?, Ordering::Relaxed);
    }
    stream.shutdown(Shutdown::Write).context("ending the stream")?;
    let mut received = [0; 8];
    stream.read_exact(&mut received).context("waiting for the server's count")?;
    let received = u64::from_be_bytes(received);
    ensure!(received == own, "the server got {received} of {own} bytes");
    Ok(())
}
