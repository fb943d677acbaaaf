//! A resolver for tests: real sockets on loopback, one behaviour for each transport, and a count of what it was asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::net::{TcpListener, UdpSocket};

use super::upstream::{read_message, write_message};
use super::wire;

/// What a resolver does with a query: the replies it sends.
pub type Behaviour = fn(&[u8]) -> Vec<Vec<u8>>;

/// A resolver on loopback, for as long as the test's runtime.
pub struct FakeResolver {
    /// Where it is asked, over both transports.
    pub address: SocketAddr,
    asked: Arc<(AtomicUsize, AtomicUsize)>,
}

impl FakeResolver {
    /// Answers datagrams like `udp`, and streams like `tcp`; without it, connections are refused.
    pub async fn start(udp: Behaviour, tcp: Option<Behaviour>) -> Self {
        let asked = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        // Both on one port, which may be taken by another test for one of them.
        let (socket, listener) = loop {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
                break (socket, listener);
            }
        };
        let address = socket.local_addr().unwrap();
        let counts = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut buffer = vec![0; wire::MAX_MESSAGE];
            loop {
                let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
                counts.0.fetch_add(1, Ordering::SeqCst);
                for reply in udp(&buffer[..length]) {
                    socket.send_to(&reply, peer).await.unwrap();
                }
            }
        });
        let counts = Arc::clone(&asked);
        if let Some(tcp) = tcp {
            tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    counts.1.fetch_add(1, Ordering::SeqCst);
                    while let Ok(query) = read_message(&mut stream).await {
                        for reply in tcp(&query) {
                            write_message(&mut stream, &reply).await.unwrap();
                        }
                    }
                }
            });
        }
        Self { address, asked }
    }

    /// Datagrams and connections that came.
    pub fn asked(&self) -> (usize, usize) {
        (self.asked.0.load(Ordering::SeqCst), self.asked.1.load(Ordering::SeqCst))
    }
}

/// Says nothing.
pub fn silent(_: &[u8]) -> Vec<Vec<u8>> {
    Vec::new()
}

/// A loopback address nobody listens on.
pub async fn nobody() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

/// A reply no library would write: the query's header and question, and the text after them.
pub fn odd_reply(query: &[u8], text: &[u8]) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80;
    reply.extend(text);
    reply
}

/// The query's answer with this code and no records.
pub fn with_code(query: &[u8], code: ResponseCode) -> Vec<u8> {
    wire::failure(query, code).unwrap()
}

/// One address of each family, for a minute and a half.
pub fn both_families(query: &[u8]) -> Vec<Vec<u8>> {
    let mut reply = Message::from_vec(query).unwrap().into_response();
    let name = reply.queries[0].name.clone();
    let data = match reply.queries[0].query_type {
        RecordType::A => RData::A(A::new(192, 0, 2, 1)),
        _ => RData::AAAA(AAAA("2001:db8::1".parse().unwrap())),
    };
    reply.add_answer(Record::from_rdata(name, 90, data));
    vec![reply.to_vec().unwrap()]
}
