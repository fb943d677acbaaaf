//! Every kind of load against a sink in the same process.

use std::io::{BufRead, Read, Write};
use std::sync::OnceLock;
use std::thread;

use super::*;
use crate::sink;

/// One sink for all tests: its ports are fixed.
fn sink() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        thread::spawn(|| sink::run().unwrap());
        for port in
            [sink::BULK_PORT, sink::HTTP_PORT, sink::ECHO_PORT, sink::HTTP2_PORT, sink::BODIES_PORT, sink::BODIES2_PORT]
        {
            while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
                thread::yield_now();
            }
        }
    });
}

fn common(port: u16) -> Common {
    sink();
    let own = i32::try_from(std::process::id()).unwrap();
    Common { target: ([127, 0, 0, 1], port).into(), seconds: 0.2, warm_up: 0.05, watched: vec![own], cpu: None }
}

fn assert_clean(outcome: &Outcome) {
    assert_eq!((outcome.failures, &outcome.first_failure), (0, &None));
    assert!(outcome.seconds >= 0.2 && outcome.cpu_seconds.len() == 1, "{outcome:?}");
}

#[test]
fn bulk_arrives_whole() {
    let outcome = bulk::run(&common(sink::BULK_PORT), 2).unwrap();
    assert_clean(&outcome);
    assert!(outcome.bytes > 0 && outcome.latency.is_none());
}

#[test]
fn requests_are_answered() {
    let outcome = requests::run(&common(sink::HTTP_PORT), 4).unwrap();
    assert_clean(&outcome);
    let latency = outcome.latency.unwrap();
    assert!(outcome.operations > 4 && latency.p50 <= latency.p99 && latency.p99 <= latency.p999);
}

#[test]
fn every_request_gets_its_connection() {
    let outcome = connect::run(&common(sink::HTTP_PORT), 2).unwrap();
    assert_clean(&outcome);
    assert!(outcome.operations > 2);
}

#[test]
fn messages_come_back() {
    let outcome = ping::run(&common(sink::ECHO_PORT)).unwrap();
    assert_clean(&outcome);
    assert!(outcome.operations > 0 && outcome.latency.is_some());
}

#[test]
fn idle_connections_are_held() {
    let outcome = idle::run(&common(sink::ECHO_PORT), 50, Duration::ZERO).unwrap();
    assert_eq!((outcome.held, outcome.answered, outcome.first_failure), (50, 50, None));
    assert!([outcome.before, outcome.with, outcome.after].iter().all(|stage| stage.len() == 1));
}

/// A server that has room for three connections, and answers two of them only once.
#[test]
fn connections_that_fail_are_counted_and_the_first_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let common = Common { target: listener.local_addr().unwrap(), ..common(sink::ECHO_PORT) };
    let server = thread::spawn(move || {
        let mut held = Vec::new();
        for number in 0..5 {
            let (mut stream, _) = listener.accept().unwrap();
            if number < 3 {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                stream.write_all(&byte).unwrap();
                held.push(stream);
            }
        }
        let mut last = held.pop().unwrap();
        drop(held);
        std::io::copy(&mut last.try_clone().unwrap(), &mut last).unwrap();
    });
    let outcome = idle::run(&common, 5, Duration::ZERO).unwrap();
    server.join().unwrap();
    assert_eq!((outcome.held, outcome.answered), (3, 1));
    assert!(outcome.first_failure.unwrap().contains("of 5"));
}

#[test]
fn a_server_that_is_not_what_it_should_be_is_noticed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let common = Common { target: listener.local_addr().unwrap(), ..common(sink::HTTP_PORT) };
    let server = thread::spawn(move || listener.accept().unwrap().0.write_all(&[b'?'; 4096]).unwrap());
    let outcome = requests::run(&common, 1).unwrap();
    server.join().unwrap();
    assert_eq!((outcome.operations, outcome.failures), (0, 1));
    let failure = outcome.first_failure.unwrap();
    assert!(failure.contains("response"), "{failure}");
}

#[test]
fn a_port_nobody_listens_on_is_an_error() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = bulk::run(&common(free), 1).unwrap_err();
    assert!(format!("{error:#}").contains("connecting"), "{error:#}");
}

#[test]
fn a_watched_process_that_is_gone_is_an_error() {
    let common = Common { watched: vec![i32::MAX], ..common(sink::HTTP_PORT) };
    assert!(requests::run(&common, 1).is_err());
}

/// A shape, as it is told on the command line.
fn shape<T: clap::Args>(arguments: &[&str]) -> T {
    let command = T::augment_args(clap::Command::new("load"));
    T::from_arg_matches(&command.get_matches_from([&["load"], arguments].concat())).unwrap()
}

#[test]
fn long_bodies_arrive_whole_both_ways() {
    for (port, more) in [(sink::BODIES_PORT, None), (sink::BODIES2_PORT, Some("--http2"))] {
        for way in [None, Some("--chunked"), Some("--down")] {
            let size = ["--bytes", "1000000", "--slow-bytes", "100000"];
            let arguments: Vec<&str> = size.into_iter().chain(more).chain(way).collect();
            let outcome = body::run(&common(port), &shape(&arguments)).unwrap();
            assert!(outcome.seconds > 0.0 && outcome.peak[0] > 0 && outcome.cpu_seconds.len() == 1, "{arguments:?}");
        }
    }
}

#[test]
fn a_body_that_did_not_arrive_whole_is_an_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let common = Common { target: listener.local_addr().unwrap(), ..common(sink::BODIES_PORT) };
    let server = thread::spawn(move || {
        let mut stream = std::io::BufReader::new(listener.accept().unwrap().0);
        // An answer that comes before the request has been asked for nothing, and is refused as such.
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert_ne!(stream.read_line(&mut line).unwrap(), 0, "the request ended in its head");
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n9";
        stream.get_mut().write_all(answer).unwrap();
        // What is left unread would break the connection before the answer is read.
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    });
    let error = body::run(&common, &shape(&["--bytes", "10"])).unwrap_err();
    server.join().unwrap();
    assert!(format!("{error:#}").contains("9 of 10 bytes"), "{error:#}");
}

#[test]
fn a_real_client_is_answered_in_every_way() {
    for (port, arguments) in [
        (sink::HTTP_PORT, &["--parallel", "2"][..]),
        (sink::HTTP2_PORT, &["--http2", "--parallel", "9"]),
        (sink::HTTP2_PORT, &["--http2", "--grpc", "--parallel", "9"]),
    ] {
        let outcome = web::run(&common(port), &shape(arguments)).unwrap();
        assert_clean(&outcome);
        assert!(outcome.operations > 0 && outcome.latency.is_some(), "{arguments:?}");
    }
}
