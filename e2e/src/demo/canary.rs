//! The demo's canary: a waypoint comes to stand before the running server.

use super::steps::{ANSWERS, PAYLOAD, client_log, fields};
use super::tour::Tour;
use crate::error::{Error, Result};
use crate::lab::Lab;

pub(super) const MANIFESTS: &str = include_str!("canary.yaml");

/// Only who asks for it hears from the second version.
pub(super) fn canary(lab: &Lab, tour: &mut Tour) -> Result<()> {
    tour.step("A canary: a waypoint for the service, and a route that sends only requests with x-canary: yes to v2");
    lab.apply(MANIFESTS)?;
    let first = format!("{PAYLOAD} v1");
    lab.wait_until("the running client to hear from v1 only", || {
        let log = client_log(lab);
        let last: Vec<&str> = log.lines().rev().take(2 * ANSWERS).collect();
        if last.iter().all(|line| line.starts_with("200 ") && line.contains(&first)) {
            Ok(())
        } else {
            Err(last.join("; "))
        }
    })?;
    tour.holds("the waypoint runs, and the client that has been asking all along hears from v1 only");
    let output = lab.exec("shop/client", &["curl", "-sS", "-m", "10", "-H", "x-canary: yes", "http://server/"])?;
    let answer = String::from_utf8_lossy(&output.stdout);
    if !answer.contains(&format!("{PAYLOAD} v2")) {
        return Err(Error::new(format!("a request with x-canary: yes heard {answer:?}")));
    }
    tour.holds("a request with the header hears from v2:");
    tour.shows(answer.trim());
    let path = lab.layout().container_log("shop", "waypoint-0", "waypoint");
    let line = lab.wait_until("the request in the waypoint's access log", || {
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        let found = log.lines().rev().find(|line| line.contains("request complete") && line.contains("server-v2"));
        found.map(str::to_owned).ok_or_else(|| log.lines().last().unwrap_or("the log is empty").to_owned())
    })?;
    tour.holds("and the waypoint's log names all three:");
    tour.shows(&fields(&line, &["src.identity", "method", "path", "route", "dst.workload", "dst.identity", "status"]));
    Ok(())
}
