//! A small world most tests share: client and server of an enrolled namespace, a pod that opted out, a visitor from outside.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::IpAddr;
use std::process::{ChildStdin, ChildStdout};

use fairway_lab::Lab;
use fairway_lab::lab::Running;

use super::labs;
use super::observe::{Cursor, field};

pub(crate) const MANIFESTS: &str = include_str!("shop.yaml");
pub(crate) const CLIENT: &str = "shop/client";
pub(crate) const SERVER: &str = "shop/server";
pub(crate) const LONER: &str = "shop/loner";
pub(crate) const VISITOR: &str = "street/visitor";
pub(crate) const CLIENT_IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/client";
pub(crate) const SERVER_IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/server";
/// Label that enrols a namespace.
pub(crate) const AMBIENT: &str = "istio.io/dataplane-mode=ambient";
/// Answers after which a client counts as carrying on.
const ANSWERS: usize = 10;

/// A lab with the shop in it, enrolled.
pub(crate) fn enrolled(test: &str) -> Option<Lab> {
    let lab = labs::mesh_with(test, MANIFESTS)?;
    enrol(&lab);
    Some(lab)
}

/// Enrols the shop and waits until its client and server are captured.
pub(crate) fn enrol(lab: &Lab) {
    lab.label_namespace("shop", &[AMBIENT]).unwrap();
    lab.wait_captured(&[(CLIENT, true), (SERVER, true), (LONER, false), (VISITOR, false)]).unwrap();
    mutual_tls(lab);
}

/// Waits until a new connection of the client to the server is mutual TLS.
pub(crate) fn mutual_tls(lab: &Lab) {
    let log = Cursor::at_end(lab, "ztunnel-node-2");
    lab.wait_until("an answer over mutual TLS", || {
        let answer = labs::get(lab, CLIENT, "http://server/");
        if !answer.starts_with("200 ") {
            return Err(answer);
        }
        let proven = |line: &String| {
            let identities = (field(line, "src.identity"), field(line, "dst.identity"));
            identities == (Some(CLIENT_IDENTITY), Some(SERVER_IDENTITY))
        };
        let lines = log.lines(lab, &["connection complete", "direction=\"inbound\"", "reason=\"ok\""]);
        if lines.iter().any(proven) { Ok(()) } else { Err(format!("{answer}; {lines:?}")) }
    })
    .unwrap();
}

/// IPv4 address of a pod.
pub(crate) fn address(lab: &Lab, pod: &str) -> IpAddr {
    labs::pod(lab, pod).addresses[0].parse().unwrap()
}

/// How many answers the client that asks all the time has heard, and what it said instead of one.
pub(crate) fn heard(lab: &Lab) -> (usize, Vec<String>) {
    let log = std::fs::read_to_string(lab.layout().container_log("shop", "client", "asking")).unwrap();
    let (answers, failures): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| line.starts_with("200 "));
    (answers.len(), failures.into_iter().map(str::to_owned).collect())
}

/// Waits until the client that asks all the time has heard more answers.
pub(crate) fn carries_on(lab: &Lab) {
    let before = heard(lab).0;
    lab.wait_for("the running client to hear more answers", || heard(lab).0 >= before + ANSWERS).unwrap();
}

/// One connection to an `echo`, over which lines go and come back.
pub(crate) struct Conversation {
    _running: Running,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Conversation {
    /// Opens it from a pod.
    pub(crate) fn open(lab: &Lab, pod: &str, address: IpAddr, port: u16) -> Self {
        let script = format!(
            "exec 2>/dev/null 3<>/dev/tcp/{address}/{port} || exit 1; while read -r line; do echo \"$line\" >&3 && read -r line <&3 || exit 1; \
             echo \"$line\"; done"
        );
        Self::over(lab, pod, &["bash", "-c", &script])
    }

    /// With what this command in a pod speaks to: it sends each line that it reads, and prints what comes back.
    pub(crate) fn over(lab: &Lab, pod: &str, command: &[&str]) -> Self {
        let mut running = lab.spawn(pod, command).unwrap();
        let (to, from) = (running.stdin.take().unwrap(), running.stdout.take().unwrap());
        Self { _running: running, to, from: BufReader::new(from).lines() }
    }

    /// Whether `line` came back.
    pub(crate) fn says(&mut self, line: &str) -> bool {
        writeln!(self.to, "{line}").is_ok()
            && self.from.next().is_some_and(|heard| heard.is_ok_and(|heard| heard == line))
    }
}
