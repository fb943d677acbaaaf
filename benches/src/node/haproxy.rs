//! A pair of HAProxy processes that relay plain TCP, one in each node's network namespace: what the mesh is compared to.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow};

use super::stage::{Port, Stage};
use crate::limits;

/// What is added to the server's port to make the relay's.
const RELAY_OFFSET: u16 = 10_000;
/// Connections a relay takes at most: more than any load opens.
const MAX_CONNECTIONS: u64 = 30_000;
/// Open files a relay needs besides the two of each connection.
const OTHER_FILES: u64 = 200;
/// Connections kept free for those that are still being closed.
const SPARE_CONNECTIONS: u64 = 100;
const NODES: [(&str, Ipv4Addr); 2] =
    [("node-1", Ipv4Addr::new(10, 99, 0, 11)), ("node-2", Ipv4Addr::new(10, 99, 0, 12))];

/// The running pair.
pub(super) struct Pair {
    /// Process ids within the lab.
    pub(super) pids: Vec<i32>,
    processes: Vec<Child>,
    connections: u64,
}

impl Pair {
    /// Starts both, the one next to the server first.
    pub(super) fn start(stage: &Stage, threads: u32) -> Result<Self> {
        let server = stage.address("plain", "server")?;
        let [first, second] = NODES;
        // The relays inherit this process's limit, and refuse to start when theirs does not fit into it.
        let connections = fitting(limits::raise_open_files());
        let mut pair = Self { pids: Vec::new(), processes: Vec::new(), connections };
        let far = |port: Port| SocketAddr::from((server, port.number()));
        let near = |port: Port| SocketAddr::from((second.1, port.number() + RELAY_OFFSET));
        pair.run(stage, second, &configuration(second.1, threads, connections, far))?;
        pair.run(stage, first, &configuration(first.1, threads, connections, near))?;
        Ok(pair)
    }

    fn run(&mut self, stage: &Stage, (node, _): (&str, Ipv4Addr), configuration: &str) -> Result<()> {
        let name = format!("haproxy-{node}.cfg");
        let layout = stage.lab.layout();
        std::fs::write(layout.root().join(&name), configuration).with_context(|| format!("writing {name}"))?;
        let inside = fairway_lab::layout::Layout::inside().root().join(&name);
        let inside = inside.to_str().context("the lab's directory is not text")?;
        let command = [stage.bench(), "announced", "haproxy", "-db", "-f", inside];
        let mut child = stage
            .lab
            .node_command(node, &command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting haproxy on {node}"))?;
        let mut line = String::new();
        let output = child.stdout.take().context("haproxy without output")?;
        self.processes.push(child);
        BufReader::new(output).read_line(&mut line).with_context(|| format!("haproxy on {node}"))?;
        self.pids.push(line.trim().parse().with_context(|| format!("haproxy did not start on {node}"))?);
        Ok(())
    }

    /// How many idle connections each relay can hold.
    pub(super) fn capacity(&self) -> u64 {
        self.connections.saturating_sub(SPARE_CONNECTIONS)
    }

    /// Where the client connects.
    pub(super) fn entrance(&self, port: Port) -> SocketAddr {
        let [(_, address), _] = NODES;
        (IpAddr::from(address), port.number() + RELAY_OFFSET).into()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // What runs inside the lab ends with its caller; this fails only when it has ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Connections a relay can take with so many open files.
fn fitting(open_files: u64) -> u64 {
    (open_files.saturating_sub(OTHER_FILES) / 2).min(MAX_CONNECTIONS)
}

/// Plain TCP from `address` to what `backend` says, with HAProxy's defaults but for limits that a load would run into.
fn configuration(address: Ipv4Addr, threads: u32, connections: u64, backend: impl Fn(Port) -> SocketAddr) -> String {
    let mut text = format!(
        "global\n  nbthread {threads}\n  maxconn {connections}\n\
         defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n  maxconn {connections}\n"
    );
    for port in Port::ALL {
        let number = port.number();
        text.push_str(&format!(
            "listen port-{number}\n  bind {address}:{}\n  server next {}\n",
            number + RELAY_OFFSET,
            backend(port)
        ));
    }
    text
}

/// Prints its process id, then becomes `command`. Only returns when that fails.
pub(crate) fn become_announced(command: &[String]) -> Result<()> {
    let (program, arguments) = command.split_first().context("no command given")?;
    limits::raise_open_files();
    println!("{}", std::process::id());
    Err(anyhow!(Command::new(program).args(arguments).exec()).context(format!("running {program}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_not_promised_more_files_than_there_are() {
        assert_eq!(fitting(20_000), 9_900);
        assert_eq!(fitting(1 << 20), MAX_CONNECTIONS);
        assert_eq!(fitting(100), 0);
    }

    #[test]
    fn every_port_is_relayed() {
        let far = |port: Port| SocketAddr::from(([10, 102, 0, 2], port.number()));
        let text = configuration(Ipv4Addr::new(10, 99, 0, 12), 2, 500, far);
        assert!(text.contains("nbthread 2") && text.contains("mode tcp"));
        for port in Port::ALL {
            let number = port.number();
            assert!(
                text.contains(&format!("bind 10.99.0.12:{}\n  server next 10.102.0.2:{number}\n", number + 10_000)),
                "{text}"
            );
        }
    }
}
