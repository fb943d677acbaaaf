//! Garbage on the control plane's listeners, the node socket, and the ports for operators.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use fairway_lab::Lab;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
use tokio::net::TcpStream;

use super::{Base, dial};
use crate::mesh::{enter, labs, observe, shop};

/// A request head larger than any that is served.
const HUGE: usize = 1 << 20;

fn noisy(lab: &Lab, node: &str, to: &str) {
    let to: SocketAddr = to.parse().unwrap();
    enter::node(lab, node, async || {
        dial::send(to, &dial::noise(4096)).await;
        let mut head = b"GET /".to_vec();
        head.resize(HUGE, b'x');
        let answer = dial::send(to, &head).await;
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{to}: {}", String::from_utf8_lossy(&answer));
    });
}

/// A request head that never ends is not waited for.
fn slow(lab: &Lab, node: &str, to: &[&str]) {
    let to: Vec<SocketAddr> = to.iter().map(|to| to.parse().unwrap()).collect();
    enter::node(lab, node, async || {
        let mut open = Vec::new();
        for to in &to {
            let stream = TcpStream::connect(to).await.unwrap();
            stream.try_write(b"GET / HTTP/1.1\r\nhost: ").unwrap();
            open.push(stream);
        }
        for mut stream in open {
            dial::read_to_end(&mut stream).await;
        }
    });
}

#[test]
fn the_control_plane_minds_no_garbage() {
    let Some(lab) = shop::enrolled("control") else { return };
    if !labs::can_enter("garbage on the control plane") {
        return;
    }
    let base = Base::of(&lab);
    let generation = observe::controller(&lab, "/debug/syncz")["generation"].clone();
    for to in ["10.99.0.1:15012", "10.99.0.1:15014"] {
        noisy(&lab, "underlay", to);
    }
    // Through the handshake, and then no HTTP/2.
    enter::node(&lab, "underlay", async || {
        let mut stream = dial::tls("10.99.0.1:15012".parse().unwrap(), None).await;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &dial::noise(4096)).await;
        dial::read_to_end(&mut stream).await;
    });
    slow(&lab, "underlay", &["10.99.0.1:15012", "10.99.0.1:15014"]);
    assert_eq!(observe::controller(&lab, "/debug/syncz")["generation"], generation);
    base.holds(&lab);
}

#[test]
fn the_ports_for_operators_mind_no_garbage() {
    let Some(lab) = shop::enrolled("operators") else { return };
    if !labs::can_enter("garbage on the ports for operators") {
        return;
    }
    let base = Base::of(&lab);
    let ports = ["127.0.0.1:15000", "127.0.0.1:15020", "127.0.0.1:15021", "127.0.0.1:15114"];
    for to in ports {
        noisy(&lab, "node-2", to);
    }
    slow(&lab, "node-2", &ports);
    base.holds(&lab);
}

#[test]
fn the_node_socket_minds_no_garbage() {
    let Some(lab) = shop::enrolled("socket") else { return };
    if !labs::can_enter("garbage on the node socket") {
        return;
    }
    let base = Base::of(&lab);
    let path = lab.layout().node_socket("node-2");
    let messages = [dial::noise(100), dial::noise(4096), vec![0]];
    for message in messages {
        let stranger = stranger(&path);
        send(stranger.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL).unwrap();
        let mut buffer = [0; 2048];
        // The agent may say something to a proxy it does not know yet; then it must hang up.
        while recv(stranger.as_raw_fd(), &mut buffer, MsgFlags::empty()).is_ok_and(|length| length > 0) {}
        shop::mutual_tls(&lab);
    }
    // Silent strangers: nobody waits for them, and pods still join and leave.
    let silent: Vec<OwnedFd> = (0..4).map(|_| stranger(&path)).collect();
    lab.label_namespace("shop", &["istio.io/dataplane-mode-"]).unwrap();
    lab.wait_captured(&[(shop::CLIENT, false), (shop::SERVER, false)]).unwrap();
    shop::enrol(&lab);
    drop(silent);
    base.holds(&lab);
}

/// Connects as a node proxy does.
fn stranger(path: &std::path::Path) -> OwnedFd {
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    socket
}
