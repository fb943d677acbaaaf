//! What an API server answers: lists, events, objects, and what can go wrong.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use k8s_openapi::api::core::v1::{Namespace, Node, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::decode::fault_of;
use super::super::external_processor::ExternalProcessor;
use super::super::gateway::Gateway;
use super::super::istio::{AuthorizationPolicy, PeerAuthentication};
use super::super::istio_destination::DestinationRule;
use super::super::istio_network::{ServiceEntry, WorkloadEntry};
use super::super::istio_tokens::RequestAuthentication;
use super::super::istio_traffic::VirtualService;
use super::super::mesh_pod::WrittenPod;
use super::super::mesh_slice::WrittenSlice;
use super::super::objects::Typed;
use super::super::rate_limit::RateLimit;
use super::super::reference_grant::ReferenceGrant;
use super::super::route::{
    GrpcRoute as GRPCRoute, HttpRoute as HTTPRoute, StreamRoute as TCPRoute, StreamRoute as TLSRoute,
};
use super::super::unserved::{Unserved as BackendTLSPolicy, Unserved as Telemetry};
use super::super::{Kind, ObjectKey};
use super::{request, strip};
use crate::yaml::FieldPath;

/// Longest line of a watch, in bytes: an object of the largest size the API takes, as JSON, twice over.
const MAXIMUM_LINE_BYTES: usize = 8 * 1024 * 1024;
/// Annotation of the bookmark after the last object of an initial list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Why something cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// Changes since then are forgotten.
    #[error("the API server does not remember that version any more")]
    Gone,
    /// No such kind.
    #[error("the API server does not know the kind")]
    Absent,
    /// Not one of those the other variants are for.
    #[error("the API server refused: {message} (HTTP {status}){}", remedy(*.status))]
    Refused {
        /// HTTP status code.
        status: u16,
        /// What it said.
        message: String,
    },
    /// No connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// Nothing came.
    #[error("the API server sent nothing for {0:?}")]
    Silent(Duration),
    /// Not what the API says.
    #[error("the API server's answer is not understood: {0}")]
    Garbage(String),
}

fn remedy(status: u16) -> &'static str {
    match status {
        401 => "; check the credentials of the controller or agent",
        403 => "; give its service account the role in manifests/",
        _ => "",
    }
}

impl Failure {
    /// A connection that failed, with what lies beneath.
    pub(super) fn broken(error: &(dyn Error + 'static)) -> Self {
        // The library's own word for it says nothing.
        let mut text = error.to_string().trim_start_matches("ServiceError: ").to_owned();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                // Writing to a string does not fail.
                let _ = write!(text, ": {cause_text}");
            }
            source = cause.source();
        }
        Self::Connection(text)
    }

    /// What an answer of this status means.
    pub(super) fn of_status(status: u16, body: &[u8]) -> Self {
        let said = serde_json::from_slice::<Status>(body).map(|status| status.message).unwrap_or_default();
        let message = if said.is_empty() { "no reason given".to_owned() } else { said };
        match status {
            410 => Self::Gone,
            404 => Self::Absent,
            status => Self::Refused { status, message },
        }
    }
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
    #[serde(default)]
    code: u16,
}

/// One object of an answer.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) key: ObjectKey,
    pub(super) object: Result<Typed, Broken>,
}

/// An object that is not understood.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    /// The field to blame; empty when it is not known.
    pub(super) field: String,
    pub(super) message: String,
    /// As it was written.
    pub(super) written: Arc<Value>,
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    pub(super) version: String,
    /// To go on with; empty on the last page.
    pub(super) token: String,
}

#[derive(Deserialize)]
struct RawPage {
    metadata: ListHead,
    #[serde(default)]
    items: Option<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListHead {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    token: Option<String>,
}

/// Reads a page.
pub(super) fn page(kind: Kind, body: &[u8]) -> Result<Page, Failure> {
    let raw: RawPage = serde_json::from_slice(body).map_err(|error| Failure::Garbage(error.to_string()))?;
    let items = raw.items.unwrap_or_default();
    let items = items.iter().filter_map(|raw| item(kind, raw.get()).map(|(item, _)| item)).collect();
    Ok(Page { items, version: raw.metadata.resource_version, token: raw.metadata.token.unwrap_or_default() })
}

/// A line of a watch.
#[derive(Debug)]
pub(super) enum Event {
    Applied(Item, String),
    Deleted(ObjectKey, String),
    Bookmark { version: String, ends_initial: bool },
    Failed(Failure),
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Headed {
    metadata: Head,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Head {
    name: String,
    namespace: String,
    resource_version: String,
    annotations: Option<BTreeMap<String, String>>,
}

/// An event of an object that is, with the object in its type.
#[derive(Deserialize)]
struct Present<'a, T> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    object: T,
}

/// Reads a line; nothing of an object that says not even who it is.
pub(super) fn event(kind: Kind, line: &[u8]) -> Result<Option<Event>, Failure> {
    // Nearly all lines are objects that are understood, and those are read in one go.
    if let Ok((object, head)) = typed(kind, Text::Event(line)) {
        let item = Item { key: ObjectKey::new(kind, head.namespace, head.name), object: Ok(object) };
        return Ok(Some(Event::Applied(item, head.resource_version)));
    }
    let garbage = |error: serde_json::Error| Failure::Garbage(error.to_string());
    let RawEvent { kind: happened, object } = serde_json::from_slice(line).map_err(garbage)?;
    match &*happened {
        "ADDED" | "MODIFIED" => Ok(item(kind, object.get()).map(|(item, version)| Event::Applied(item, version))),
        "DELETED" => {
            let Headed { metadata: head } = serde_json::from_str(object.get()).map_err(garbage)?;
            Ok(Some(Event::Deleted(ObjectKey::new(kind, head.namespace, head.name), head.resource_version)))
        }
        "BOOKMARK" => {
            let Headed { metadata: head } = serde_json::from_str(object.get()).map_err(garbage)?;
            let ends_initial =
                head.annotations.is_some_and(|all| all.get(INITIAL_EVENTS_END).is_some_and(|it| it == "true"));
            Ok(Some(Event::Bookmark { version: head.resource_version, ends_initial }))
        }
        "ERROR" => {
            let status: Status = serde_json::from_str(object.get()).map_err(garbage)?;
            Ok(Some(Event::Failed(Failure::of_status(status.code, object.get().as_bytes()))))
        }
        other => Err(Failure::Garbage(format!("an event is called {other:?}"))),
    }
}

/// One object and its version.
fn item(kind: Kind, text: &str) -> Option<(Item, String)> {
    match typed(kind, Text::Object(text)) {
        Ok((object, head)) => {
            let key = ObjectKey::new(kind, head.namespace, head.name);
            Some((Item { key, object: Ok(object) }, head.resource_version))
        }
        Err((path, message)) => {
            let Ok(Headed { metadata: head }) = serde_json::from_str(text) else {
                tracing::error!(%kind, message, "the API server gave an object without identity; it is left out");
                return None;
            };
            let mut written: Value = serde_json::from_str(text).unwrap_or_default();
            strip::written(&mut written);
            let written = Arc::new(written);
            let broken = Broken { field: path.to_string(), message, written };
            let key = ObjectKey::new(kind, head.namespace, head.name);
            Some((Item { key, object: Err(broken) }, head.resource_version))
        }
    }
}

/// What metadata-only answers hold, and what is read of others.
#[derive(Deserialize)]
struct MetadataOnly {
    #[serde(default)]
    metadata: ObjectMeta,
}

type Read<T> = Result<T, (FieldPath, String)>;

/// Strips metadata, but for who it is of; that, and the version.
fn head_of(metadata: &mut ObjectMeta) -> Head {
    let resource_version = strip::metadata(metadata);
    let (name, namespace) = (metadata.name.clone(), metadata.namespace.clone());
    let (name, namespace) = (name.unwrap_or_default(), namespace.unwrap_or_default());
    Head { name, namespace, resource_version, annotations: None }
}

/// Where an object is written.
#[derive(Clone, Copy)]
enum Text<'a> {
    /// In the line of an event.
    Event(&'a [u8]),
    /// By itself.
    Object(&'a str),
}

fn typed(kind: Kind, text: Text<'_>) -> Read<(Typed, Head)> {
    macro_rules! whole {
        ($kind:ident, $strip:path) => {{
            let mut object: $kind = text.read()?;
            let head = head_of(&mut object.metadata);
            $strip(&mut object);
            (Typed::$kind(Arc::new(object)), head)
        }};
    }
    macro_rules! head {
        ($kind:ident) => {{
            let MetadataOnly { mut metadata } = text.read()?;
            let head = head_of(&mut metadata);
            (Typed::$kind(Arc::new($kind { metadata, ..Default::default() })), head)
        }};
    }
    macro_rules! slim {
        ($kind:ident, $written:ident) => {{
            let mut object: $written = text.read()?;
            let metadata = &mut object.metadata;
            let head = Head {
                name: metadata.name.take().unwrap_or_default(),
                namespace: metadata.namespace.take().unwrap_or_default(),
                resource_version: metadata.resource_version.take().unwrap_or_default(),
                annotations: None,
            };
            (Typed::$kind(Arc::new(object.into())), head)
        }};
    }
    Ok(match kind {
        Kind::Namespace => head!(Namespace),
        Kind::Node => head!(Node),
        Kind::ServiceAccount => head!(ServiceAccount),
        Kind::Pod => slim!(Pod, WrittenPod),
        Kind::Service => whole!(Service, strip::service),
        Kind::EndpointSlice => slim!(EndpointSlice, WrittenSlice),
        Kind::Gateway => whole!(Gateway, strip::nothing),
        Kind::HTTPRoute => whole!(HTTPRoute, strip::nothing),
        Kind::GRPCRoute => whole!(GRPCRoute, strip::nothing),
        Kind::AuthorizationPolicy => whole!(AuthorizationPolicy, strip::nothing),
        Kind::PeerAuthentication => whole!(PeerAuthentication, strip::nothing),
        Kind::ServiceEntry => whole!(ServiceEntry, strip::nothing),
        Kind::WorkloadEntry => whole!(WorkloadEntry, strip::nothing),
        Kind::VirtualService => whole!(VirtualService, strip::nothing),
        Kind::TCPRoute => whole!(TCPRoute, strip::nothing),
        Kind::TLSRoute => whole!(TLSRoute, strip::nothing),
        Kind::BackendTLSPolicy => whole!(BackendTLSPolicy, strip::nothing),
        Kind::RequestAuthentication => whole!(RequestAuthentication, strip::nothing),
        Kind::DestinationRule => whole!(DestinationRule, strip::nothing),
        Kind::Telemetry => whole!(Telemetry, strip::nothing),
        Kind::ReferenceGrant => whole!(ReferenceGrant, strip::nothing),
        Kind::NetworkPolicy => whole!(NetworkPolicy, strip::nothing),
        Kind::RateLimit => whole!(RateLimit, strip::nothing),
        Kind::ExternalProcessor => whole!(ExternalProcessor, strip::nothing),
    })
}

impl Text<'_> {
    /// The object. What is wrong with one is told of those by themselves only: to know the field while reading costs as much
    /// again, so a text with a fault is read once more.
    fn read<T: DeserializeOwned>(self) -> Read<T> {
        match self {
            Self::Event(line) => match serde_json::from_slice(line) {
                Ok(Present { kind, object }) if matches!(&*kind, "ADDED" | "MODIFIED") => Ok(object),
                _ => Err((FieldPath::default(), String::new())),
            },
            Self::Object(text) => serde_json::from_str(text).or_else(|_| with_path(text)),
        }
    }
}

fn with_path<T: DeserializeOwned>(text: &str) -> Read<T> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let (path, mut message) = fault_of(&error);
        // Where it is in the answer says nothing to anybody, and changes with every writer.
        message.truncate(message.rfind(" at line ").unwrap_or(message.len()));
        (path, message)
    })
}

/// The lines of a body.
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// Bytes of `buffer` that hold no end of line.
    searched: usize,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line, without its end; none at the end of the body, and what is cut off there is dropped.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<Option<BytesMut>, Failure> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched.saturating_add(end));
                self.buffer.advance(1);
                self.searched = 0;
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAXIMUM_LINE_BYTES {
                return Err(Failure::Garbage(format!("a line is longer than {MAXIMUM_LINE_BYTES} bytes")));
            }
            match request::part(&mut self.body, patience).await? {
                Some(part) => self.buffer.extend_from_slice(&part),
                None => return Ok(None),
            }
        }
    }
}
