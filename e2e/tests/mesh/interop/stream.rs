//! Streams between ours and theirs: much at once, very little at a time, and each side closing first.

use fairway_lab::Lab;
use serde_json::Value;

use super::{NODES, PAIRS, node_of};
use crate::mesh::labs::say;
use crate::mesh::observe;

/// Connections, bytes of each, bytes of one write, port and what is answered there.
const ROWS: [(&str, usize, usize, usize, u16, &str); 7] = [
    ("bulk", 1, 64 << 20, 64 << 10, 7000, "each"),
    ("eight of bulk", 8, 8 << 20, 64 << 10, 7000, "each"),
    ("a hundred of single bytes", 100, 2_000, 1, 7000, "each"),
    ("more than one connection's streams", 250, 1_000, 100, 7000, "each"),
    ("the client closes first", 20, 100_000, 4096, 7001, "count"),
    ("the server closes first", 20, 100_000, 4096, 7002, "silence"),
    ("nothing is sent", 20, 0, 1, 7001, "count"),
];

#[test]
fn every_byte_arrives_between_ours_and_theirs() {
    let Some(lab) = super::mixed("streams") else { return };
    for (client, server) in PAIRS {
        for (what, connections, bytes, piece, port, answer) in ROWS {
            let before = received(&lab, client, server);
            let report = exchange(&lab, client, server, connections, bytes, piece, port, answer);
            say(&format!("{client} to {server}, {what}: {} ms", report["milliseconds"]));
            assert_eq!(report["failed"], 0, "{client} to {server}, {what}: {report}");
            // Bytes are counted on both ends, under the labels of both ends.
            let sent = connections * bytes;
            lab.wait_until(&format!("both to count the {sent} bytes of {what} from {client} to {server}"), || {
                let after = received(&lab, client, server);
                let moved = [after[0] - before[0], after[1] - before[1]];
                if moved.iter().all(|moved| *moved == as_number(sent)) { Ok(()) } else { Err(format!("{moved:?}")) }
            })
            .unwrap();
        }
    }
    for node in NODES {
        let failed = observe::sum(&observe::metrics(&lab, node), "istio_tcp_connections_failed_total", &[]);
        assert_eq!(failed, 0.0, "{node}: nothing may have failed");
    }
}

fn as_number(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes).unwrap())
}

/// Bytes clients sent, as the client's and the server's proxy count them.
fn received(lab: &Lab, client: &str, server: &str) -> [f64; 2] {
    let (source, destination) = (format!("{client}-client"), format!("{server}-server"));
    let count = |node: &str, reporter: &str| {
        let labels = [
            ("reporter", reporter),
            ("source_workload", &source),
            ("destination_workload", &destination),
            ("connection_security_policy", "mutual_tls"),
        ];
        observe::sum(&observe::metrics(lab, node), "istio_tcp_received_bytes_total", &labels)
    };
    [count(node_of(client), "source"), count(node_of(server), "destination")]
}

#[expect(clippy::too_many_arguments, reason = "a row of the table")]
fn exchange(
    lab: &Lab,
    client: &str,
    server: &str,
    connections: usize,
    bytes: usize,
    piece: usize,
    port: u16,
    answer: &str,
) -> Value {
    let [connections, bytes, piece] = [connections, bytes, piece].map(|number| number.to_string());
    let address = format!("{server}-server.mixed:{port}");
    let command = ["fairway", "lab", "tool", "exchange", &address, "--connections", &connections, "--bytes", &bytes];
    let more = ["--piece", &piece, "--answer", answer];
    let output = lab.exec(&format!("mixed/{client}-client"), &[&command[..], &more[..]].concat()).unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}
