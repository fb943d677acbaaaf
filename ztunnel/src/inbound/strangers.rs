//! What somebody without a certificate can do at a pod's tunnel port.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use fairway_core::limits::Limits;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::testing::{PATIENCE, ServedPod, alone, raise_open_files, resident, until};

/// Connects from `source`, which must be of 127.0.0.0/8, and sends `bytes`.
fn knock(source: Ipv4Addr, at: SocketAddr, bytes: &[u8]) -> std::net::TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&at.into()).unwrap();
    let mut stream: std::net::TcpStream = socket.into();
    stream.write_all(bytes).unwrap();
    stream
}

/// As [`knock`], with turns for the server in between: its queue of connections is short.
async fn knock_often(times: usize, source: Ipv4Addr, served: &ServedPod, bytes: &[u8]) -> Vec<std::net::TcpStream> {
    let mut open = Vec::new();
    for _ in 0..times {
        open.push(knock(source, served.address, bytes));
        tokio::task::yield_now().await;
    }
    open
}

/// The n-th stranger.
fn stranger(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, number)
}

async fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 64];
                while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                    stream.write_all(&bytes[..read]).await.unwrap();
                }
            });
        }
    });
    port
}

async fn is_served(served: &ServedPod, port: u16) {
    let member = served.member();
    let work = async {
        let mut opened = served.open(&member, port).await.unwrap();
        opened.stream.sender.send_all(Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(opened.stream.receiver.receive().await.unwrap().unwrap(), "hello");
    };
    tokio::time::timeout(PATIENCE, work).await.expect("a member is kept out");
}

/// One address that opens connections and says nothing takes its own share and no more: the rest of its connections are
/// shed with a reason, and a member gets in.
#[tokio::test]
async fn a_silent_stranger_keeps_nobody_out() {
    let served = ServedPod::start().await;
    let port = echo().await;
    let share = limits::HANDSHAKES_PER_SOURCE.size();
    let silent = knock_often(share + 50, stranger(1), &served, b"").await;
    let refused = || {
        let text = served.metrics.render();
        let limited =
            |line: &&str| line.starts_with("fairway_connections_ended_total") && line.contains("\"connection_limit\"");
        text.lines().filter(limited).filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum::<usize>()
    };
    until("the excess to be refused", || refused() >= 50).await;
    assert_eq!(served.pod.handshakes.under_way(), share);
    is_served(&served, port).await;
    drop(silent);
    until("the handshakes to end with their connections", || served.pod.handshakes.under_way() == 0).await;
}

/// Strangers from everywhere fill the pod's handshakes; who is in stays in.
#[tokio::test]
async fn strangers_from_everywhere_do_not_touch_open_tunnels() {
    raise_open_files();
    let served = ServedPod::start().await;
    let (member, port) = (served.member(), echo().await);
    let mut open = served.open(&member, port).await.unwrap();
    let each = limits::HANDSHAKES_PER_SOURCE.size();
    let sources = u8::try_from(limits::HANDSHAKES_PER_POD.size() / each).unwrap();
    let mut silent = Vec::new();
    for source in 1..=sources {
        silent.extend(knock_often(each, stranger(source), &served, b"").await);
        until("the handshakes", || served.pod.handshakes.under_way() == silent.len()).await;
    }
    for text in ["still", "here"] {
        open.stream.sender.send_all(Bytes::from_static(text.as_bytes())).await.unwrap();
        assert_eq!(open.stream.receiver.receive().await.unwrap().unwrap(), text);
    }
    // The tunnel that is up takes more streams: nothing of it is a handshake.
    served.open(&member, port).await.unwrap();
}

/// What reached our interface counts, in Ethernet frames without their checksum: at least 60 bytes (IEEE 802.3 §3.2.8),
/// and 54 of them are headers when IPv4 and TCP have no options. An attacker needs two frames to be connected, SYN and
/// ACK, and one for what it sends. What our process holds for it is the growth of its resident memory; the kernel's own
/// socket is not counted, as every listener pays it. Most of it is the buffer rustls reads into.
fn bytes_sent(data: &[u8]) -> usize {
    2 * 60 + if data.is_empty() { 0 } else { (54 + data.len()).max(60) }
}

/// Thousands of strangers that send `data` and then wait. As many as may are under way, the rest is turned away.
fn measure(stage: &str, data: &[u8], answered: bool) {
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // However slow the machine is, none gives up its place before all have come.
        let patient = Limits::default().and(&limits::TLS_HANDSHAKE_TIMEOUT, 600_000);
        let served = ServedPod::within(patient).await;
        // What is made once is not held for anybody.
        is_served(&served, echo().await).await;
        let mut all = Vec::new();
        let each = limits::HANDSHAKES_PER_SOURCE.size();
        let mut before = resident();
        for source in 1..=24 {
            all.extend(knock_often(each, stranger(source), &served, data).await);
            let expected = all.len().min(limits::HANDSHAKES_PER_POD.size());
            until("the strangers to be noticed", || served.pod.handshakes.under_way() == expected).await;
            // Nothing says that a task has read what there is; after so many turns each has had several.
            for _ in 0..10_000 {
                tokio::task::yield_now().await;
            }
            if answered && source == 1 {
                let mut first = &all[0];
                first.set_read_timeout(Some(PATIENCE)).unwrap();
                assert_eq!(std::io::Read::read(&mut first, &mut [0; 1]).unwrap(), 1, "the server answers a hello");
            }
            if source == 1 {
                // The first ones warm up the allocator and the runtime.
                before = resident();
            }
        }
        let strangers = all.len() - each;
        let held = resident().saturating_sub(before);
        let most = limits::HANDSHAKES_PER_POD.size() - each;
        let sent = bytes_sent(data);
        let factor = held / (most * sent);
        println!(
            "{stage}: {strangers} strangers sent {sent} bytes each; {held} bytes are held for the {most} under way, \
             {} each, {factor} times what these sent",
            held / most
        );
        assert!(factor < 100, "{stage}: {factor} times");
    });
}

#[test]
fn silent_strangers_are_not_amplified() {
    alone("inbound::strangers::silent_strangers_are_not_amplified", || measure("silent", b"", false));
}

#[test]
fn half_a_hello_is_not_amplified() {
    let half = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    alone("inbound::strangers::half_a_hello_is_not_amplified", || measure("half a ClientHello", half, false));
}

#[test]
fn a_whole_hello_is_not_amplified() {
    alone("inbound::strangers::a_whole_hello_is_not_amplified", || {
        measure("a whole ClientHello", &smallest_hello(), true);
    });
}

/// The least that makes the server do its part of a handshake: one small key share.
fn smallest_hello() -> Vec<u8> {
    let mut provider = rustls::crypto::CryptoProvider::clone(&fairway_core::io::tls::provider());
    provider.kx_groups.retain(|group| group.name() == rustls::NamedGroup::X25519);
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let nobody = rustls::pki_types::ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = rustls::ClientConnection::new(Arc::new(config), nobody).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}
