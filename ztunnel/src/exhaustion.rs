//! What happens when the machine has no more to give, held by tests: new work is shed or waits, open connections live.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fairway_core::io::drain;
use fairway_core::io::logging::{Shape, subscriber};
use fairway_core::io::socket::SocketFactory;
use fairway_core::reason::Reason;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::testing::{PATIENCE, alone, raise_open_files, until};
use crate::{listen, outcome};

/// The log's lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn about(&self, text: &str) -> Vec<String> {
        let all = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        all.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn answered(mut client: &TcpStream) {
    client.write_all(b"x").unwrap();
}

async fn echo(accepted: listen::Arrival) {
    let listen::Arrival { mut stream, permit: _permit, .. } = accepted;
    let mut bytes = [0; 64];
    while let Ok(read @ 1..) = stream.read(&mut bytes).await {
        stream.write_all(&bytes[..read]).await.unwrap();
    }
}

/// Whether an echo came back.
async fn is_alive(client: &TcpStream) {
    answered(client);
    client.set_nonblocking(true).unwrap();
    until("an echo", || matches!(std::io::Read::read(&mut &*client, &mut [0; 1]), Ok(1))).await;
    client.set_nonblocking(false).unwrap();
}

/// No descriptors left: connections that are open go on, new ones wait in the kernel's queue, accepting is tried ever
/// more rarely, and it goes on by itself when descriptors are back.
#[test]
fn without_descriptors_open_connections_live_and_accepting_backs_off() {
    alone("exhaustion::without_descriptors_open_connections_live_and_accepting_backs_off", || {
        let hard = raise_open_files();
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, _filter) = subscriber(Shape::Plain, "info", move || writer.clone()).unwrap();
        let _logged = tracing::subscriber::set_default(subscriber);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let (_trigger, drain) = drain::new();
            let permits = Arc::new(Semaphore::new(1_000));
            let serve = |accepted| drop(tokio::spawn(echo(accepted)));
            tokio::spawn(listen::accept("test", listener, permits, drain, serve));
            let open = TcpStream::connect(address).unwrap();
            is_alive(&open).await;

            // The queue takes both before the limit; afterwards there is no descriptor for either.
            let waiting = [(); 2].map(|()| TcpStream::connect(address).unwrap());
            setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
            let complaints = || lines.about("cannot accept");
            until("accepting to have failed a few times", || complaints().len() >= 5).await;
            is_alive(&open).await;
            for (line, pause) in complaints().iter().zip(["5ms", "10ms", "20ms", "40ms", "80ms"]) {
                assert!(line.contains(pause), "not the pause {pause}: {line}");
            }

            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
            for client in &waiting {
                is_alive(client).await;
            }
        });
    });
}

/// No descriptors left: a connection that must be dialled is refused with the reason that names it.
#[test]
fn without_descriptors_dialling_says_so() {
    alone("exhaustion::without_descriptors_dialling_says_so", || {
        let hard = raise_open_files();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let sockets = SocketFactory::host(None);
            sockets.connect(address).await.unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
            let error = sockets.connect(address).await.unwrap_err();
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
            for outcome in [outcome::upstream_unreachable(&error), outcome::application_unreachable(&error)] {
                assert_eq!(outcome.reason, Reason::ResourceLimit, "{outcome:?}");
            }
            sockets.connect(address).await.unwrap();
        });
    });
}

/// No local ports left towards a destination: new connections are refused with the reason, open ones live, and ports
/// that come back are used.
#[test]
fn without_ports_dialling_says_so_and_open_connections_live() {
    alone("exhaustion::without_ports_dialling_says_so_and_open_connections_live", || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return println!("SKIPPED: a network namespace of our own (needs root)");
        }
        // A child of this thread is in its namespace.
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40007").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 7000)).await.unwrap();
            let address: SocketAddr = listener.local_addr().unwrap();
            let sockets = SocketFactory::host(None);
            let mut open = Vec::new();
            let error = loop {
                let dialled = tokio::time::timeout(PATIENCE, sockets.connect(address)).await.unwrap();
                match dialled {
                    Ok(client) => open.push((client, listener.accept().await.unwrap().0)),
                    Err(error) => break error,
                }
                assert!(open.len() <= 8, "the range has eight ports");
            };
            assert_eq!(outcome::upstream_unreachable(&error).reason, Reason::ResourceLimit, "{error}");
            for (client, server) in &mut open {
                client.write_all(b"x").await.unwrap();
                assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 1);
            }
            // Reset instead of closed, so that the port does not linger.
            let (client, _server) = open.pop().unwrap();
            fairway_core::io::socket::reset_on_close(&client);
            drop((client, _server));
            let again = tokio::time::timeout(Duration::from_secs(10), sockets.connect(address)).await.unwrap();
            assert!(again.is_ok(), "{again:?}");
        });
    });
}
