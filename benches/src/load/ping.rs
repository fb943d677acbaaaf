//! Small messages to and fro on one connection: what a hop adds to a round trip.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::window::{Tally, Window};
use super::{Common, Outcome};

/// Size of a message.
const MESSAGE_BYTES: usize = 64;
/// How long one message may take before the connection counts as broken.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(common: &Common) -> Result<Outcome> {
    let window = Window::default();
    let mut stream = TcpStream::connect_timeout(&common.target, PATIENCE).context("connecting")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (warm_up, measured) = (common.warm_up()?, common.measured()?);
    let mut outcome = thread::scope(|scope| {
        scope.spawn(|| {
            let mut tally = Tally::default();
            while !window.is_over() {
                let started = Instant::now();
                match exchange(&mut stream) {
                    Ok(()) => tally.done(&window, started),
                    Err(error) => {
                        tally.failed(format!("{error:#}"));
                        break;
                    }
                }
            }
            window.add(&tally);
        });
        let outcome = (|| {
            thread::sleep(warm_up);
            let span = window.open(&common.watched)?;
            thread::sleep(measured);
            window.close(span, &common.watched)
        })();
        window.abandon();
        outcome
    })?;
    window.report(&mut outcome);
    Ok(outcome)
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    let message = [b'p'; MESSAGE_BYTES];
    stream.write_all(&message).context("sending a message")?;
    let mut back = [0; MESSAGE_BYTES];
    stream.read_exact(&mut back).context("waiting for its echo")?;
    ensure!(back == message, "another message came back");
    Ok(())
}
