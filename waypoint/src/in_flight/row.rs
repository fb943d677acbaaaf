//! One request or stream as the page shows it.

use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use fairway_core::io::logging::in_milliseconds;
use serde::Serialize;

use super::{Phase, Slot, Stream};

/// One request, or all that a stream carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Which one: of the client's stream, and of the request in it.
    pub id: String,
    /// When it began.
    pub begun: String,
    /// How long ago that was.
    pub age_milliseconds: u64,
    /// Where it is.
    pub phase: &'static str,
    /// What it speaks.
    pub protocol: &'static str,
    /// Whom the client has proved to be.
    pub source_identity: String,
    /// Where the client is.
    pub source_address: SocketAddr,
    /// What the client dialled.
    pub dialled: SocketAddr,
    /// The service that this is.
    pub service: Option<String>,
    /// Method.
    pub method: Option<String>,
    /// Host.
    pub authority: Option<String>,
    /// The beginning of the path, without the query, which may hold secrets.
    pub path: Option<String>,
    /// The name that a TLS client asks for.
    pub server_name: Option<String>,
    /// Name of the route.
    pub route: Option<String>,
    /// The cluster that it is sent to.
    pub cluster: Option<String>,
    /// The endpoint that was chosen last, or the one that has answered.
    pub endpoint: Option<SocketAddr>,
    /// So many were chosen.
    pub attempts: u32,
    /// Status of the answer.
    pub status: Option<u16>,
    /// The trace that it belongs to.
    pub trace_id: Option<String>,
    /// Bytes of the client.
    pub received_bytes: u64,
    /// Bytes for the client.
    pub sent_bytes: u64,
}

impl Phase {
    /// Its name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Authorizing => "authorizing",
            Self::RateLimiting => "rateLimiting",
            Self::Delayed => "delayed",
            Self::Processing => "processing",
            Self::WaitingForEndpoint => "waitingForEndpoint",
            Self::WaitingForAnswer => "waitingForAnswer",
            Self::BackingOff => "backingOff",
            Self::Answering => "answering",
            Self::Upgraded => "upgraded",
            Self::Carrying => "carrying",
        }
    }
}

impl Slot {
    /// As it is now, without its bytes.
    pub(super) fn row(&self, stream: &Stream, (now, time): (Instant, SystemTime)) -> Row {
        let age = now.saturating_duration_since(self.begun);
        let text = |text: &str| Some(text).filter(|text| !text.is_empty()).map(str::to_owned);
        Row {
            id: format!("{}/{}", stream.number, self.number),
            begun: in_milliseconds(time.checked_sub(age).unwrap_or(time)),
            age_milliseconds: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            phase: self.phase.label(),
            protocol: self.protocol,
            source_identity: stream.source.to_string(),
            source_address: stream.address,
            dialled: stream.dialled,
            service: stream.service.as_ref().map(|service| service.hostname().to_owned()),
            method: self.method.as_ref().map(|method| method.as_str().to_owned()),
            authority: text(&self.authority),
            path: text(&self.path),
            server_name: self.server_name.clone(),
            route: text(&self.route),
            cluster: self.cluster.as_deref().map(str::to_owned),
            endpoint: self.endpoint,
            attempts: self.attempts,
            status: Some(self.status).filter(|status| *status != 0),
            trace_id: self.trace.map(|trace| format!("{trace:032x}")),
            received_bytes: 0,
            sent_bytes: 0,
        }
    }
}
