//! Pages of a part, fetched when they are asked for. Only what shows something is passed on: nothing changes by looking.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_core::io::admin::{self, Method, Reply, Request, Router, StatusCode, html, json, text};
use fairway_core::io::drain;
use fairway_core::limits::Limits;
use fairway_lab::Result;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

use super::Chosen;
use crate::mesh::Mesh;

/// Where metrics are shown, which the parts have at a port of their own.
const METRICS: &str = "/metrics";

/// Serves the pages of a part to whoever asks for them at `address`.
pub(super) async fn serve(listener: TcpListener, address: IpAddr, mesh: Mesh, chosen: Chosen) {
    let asked = Arc::new((mesh, chosen));
    let router = Router::new().otherwise(move |request| {
        let asked = Arc::clone(&asked);
        async move {
            if !is_for(&request, address) {
                return text(StatusCode::FORBIDDEN, "ask for this page by address or as localhost\n");
            }
            if !matches!(request.method, Method::GET | Method::HEAD) {
                return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is passed on\n");
            }
            // Asking may take an API server, a node and a while.
            let fetched = spawn_blocking(move || fetch(&asked.0, &asked.1, &request)).await;
            match fetched {
                Ok(Ok(reply)) => reply,
                Ok(Err(error)) => text(StatusCode::BAD_GATEWAY, format!("{error}\n")),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            }
        }
    });
    let (_trigger, drain) = drain::new();
    admin::serve(listener, router, Limits::default(), drain).await;
}

fn fetch(mesh: &Mesh, chosen: &Chosen, request: &Request) -> Result<Reply> {
    let part = chosen.part();
    if request.path == METRICS {
        return Ok(text(StatusCode::OK, mesh.metrics(part)?));
    }
    let path = match &request.query {
        Some(query) => format!("{}?{query}", request.path),
        None => request.path.clone(),
    };
    let body = mesh.text(part, &path)?;
    if request.path == "/" {
        return Ok(html(format!("{body}<p>{}: <a href=\"metrics\">{METRICS}</a>\n", escaped(&part.name()))));
    }
    Ok(shown(body))
}

/// As a browser shows it best.
fn shown(body: String) -> Reply {
    match serde_json::from_str::<Value>(&body) {
        Ok(value) => json(&value),
        Err(_) => text(StatusCode::OK, body),
    }
}

/// A name in a page.
fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;")
}

/// Whether a browser asks for this machine by its own name. A page of somebody else that has its name resolved to loopback
/// (DNS rebinding) would read along otherwise.
fn is_for(request: &Request, address: IpAddr) -> bool {
    let host = request.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    let bare = bare.unwrap_or_default();
    bare == "localhost"
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip == address || ip.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_for_who_knows_where_they_are() {
        let asked = |host: Option<&str>| Request {
            method: Method::GET,
            path: "/".to_owned(),
            query: None,
            headers: host.map(|host| ("host".parse().unwrap(), host.parse().unwrap())).into_iter().collect(),
            peer: ([127, 0, 0, 1], 1).into(),
        };
        let loopback = IpAddr::from([127, 0, 0, 1]);
        for (host, address, expected) in [
            (Some("127.0.0.1:8080"), loopback, true),
            (Some("localhost:8080"), loopback, true),
            (Some("[::1]:8080"), loopback, true),
            (Some("10.0.0.1:8080"), IpAddr::from([10, 0, 0, 1]), true),
            (Some("10.0.0.1"), IpAddr::from([0, 0, 0, 0]), true),
            (Some("10.0.0.1:8080"), loopback, false),
            (Some("evil.example:8080"), loopback, false),
            (Some("localhost.evil.example"), loopback, false),
            (Some("evil.example"), IpAddr::from([0, 0, 0, 0]), false),
            (None, loopback, false),
        ] {
            assert_eq!(is_for(&asked(host), address), expected, "{host:?} at {address}");
        }
    }
}
