//! Pages of the admin port that change something.

use fairway_core::io::admin::serve;
use fairway_core::io::drain;
use fairway_core::io::logging::{Shape, subscriber};
use fairway_core::io::xds::ClientStatus;
use fairway_core::limits::Limits;
use fairway_proto::envoy_core::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::testing::Served;

#[tokio::test]
async fn a_level_that_cannot_be_read_changes_nothing_and_one_of_a_target_leaves_the_others() {
    let (_subscriber, log_filter) = subscriber(Shape::Plain, "info", std::io::sink).unwrap();
    let admin = Admin {
        waypoint: Served::start().await.waypoint,
        stream: ClientStatus::default(),
        node: Node::default(),
        log_filter,
        shutdown: CancellationToken::new(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_trigger, handle) = drain::new();
    tokio::spawn(serve(listener, admin.router(), Limits::default(), handle));
    for (query, status, body) in [
        ("?level=lound", "400", "\"lound\" is no level"),
        ("?level=access=error", "200", "current log level is info,access=error\n"),
        ("?level=access=loud", "400", "\"access=loud\" is no level"),
        ("", "200", "current log level is info,access=error\n"),
        ("?reset", "200", "current log level is info\n"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("POST /logging{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        let (head, said) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.split(' ').nth(1) == Some(status) && said.starts_with(body), "{query}: {reply}");
    }
}
