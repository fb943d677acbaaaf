//! What is held, in the form of Envoy's `/config_dump` (`envoy.admin.v3.ConfigDump`), with the names that fields have in their
//! messages, as Envoy writes them; resources by the JSON mapping of protobuf.

use std::io::{self, Write};
use std::time::SystemTime;

use fairway_core::io::admin::{BadParameter, Request};
use fairway_core::io::logging::in_milliseconds;
use fairway_proto::DESCRIPTORS;
use fairway_proto::envoy_core::Node;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

use super::held::{Bad, Held, Shown};
use super::session::Kind;

mod secrets;

pub use secrets::Certificate;

/// Resources that are copied at a time: some 100 KiB of JSON.
const AT_A_TIME: usize = 64;
/// Bytes that a regular expression for names may take when it is compiled.
const REGEX_BYTES: usize = 64 * 1024;
/// What stands in the place of a secret.
const REDACTED: &str = "[redacted]";
/// Parts of the names of headers whose values are credentials. Any resource may add them to a request, or compare them.
const CREDENTIALS: [&str; 6] = ["authorization", "cookie", "token", "secret", "password", "api-key"];

/// How Envoy shows resources of one type.
struct Shape {
    kind: Kind,
    /// Type of the part, in `envoy.admin.v3`.
    part: &'static str,
    /// Type of each, within that.
    one: &'static str,
    /// Field of all of them.
    list: &'static str,
    /// Field of each.
    each: &'static str,
    /// Field of its name.
    name: &'static str,
}

const CLUSTERS: Shape = Shape {
    kind: Kind::Cluster,
    part: "ClustersConfigDump",
    one: "DynamicCluster",
    list: "dynamic_active_clusters",
    each: "cluster",
    name: "name",
};
const ENDPOINTS: Shape = Shape {
    kind: Kind::Endpoints,
    part: "EndpointsConfigDump",
    one: "DynamicEndpointConfig",
    list: "dynamic_endpoint_configs",
    each: "endpoint_config",
    name: "cluster_name",
};
const LISTENERS: Shape = Shape {
    kind: Kind::Listener,
    part: "ListenersConfigDump",
    one: "DynamicListener",
    list: "dynamic_listeners",
    each: "listener",
    name: "name",
};
const ROUTES: Shape = Shape {
    kind: Kind::Routes,
    part: "RoutesConfigDump",
    one: "DynamicRouteConfig",
    list: "dynamic_route_configs",
    each: "route_config",
    name: "name",
};
/// In Envoy's order.
const SHAPES: [Shape; 4] = [CLUSTERS, ENDPOINTS, LISTENERS, ROUTES];

/// What of it is asked for.
#[derive(Debug, Default)]
pub struct Asked {
    /// Only what this field of a part has.
    resource: Option<&'static str>,
    /// Only what has such a name, as a whole.
    name: Option<Regex>,
    /// Endpoints, too; they are many.
    has_endpoints: bool,
}

/// All that there is to be shown.
pub struct Dump {
    /// Resources.
    pub held: Held,
    /// Who we are to the control plane.
    pub node: Node,
    /// Our certificates.
    pub certificates: Vec<Certificate>,
    /// What Envoy has no place for.
    pub besides: Map<String, Value>,
}

/// No such field of the dump.
#[derive(Debug, thiserror::Error)]
#[error("resource is {0:?}; there are: {all}", all = known().collect::<Vec<_>>().join(" "))]
pub struct NoSuchResource(String);

/// What is wrong with what is asked for.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// A parameter means nothing.
    #[error(transparent)]
    Parameter(#[from] BadParameter),
    /// There is no such thing.
    #[error(transparent)]
    Resource(#[from] NoSuchResource),
}

fn known() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.list).chain([secrets::LIST])
}

impl Asked {
    /// Reads the query: `resource`, `name_regex` and `include_eds`, as Envoy has them.
    ///
    /// # Errors
    /// When it asks for what there is not.
    pub fn read(page: &Request) -> Result<Self, Wrong> {
        let wrong = |name: &'static str, value: String, problem: String| BadParameter::Value { name, value, problem };
        if let Some(mask) = page.parameter("mask") {
            let problem = "fields are not picked here; use resource and name_regex, or jq".to_owned();
            return Err(wrong("mask", mask, problem).into());
        }
        let resource = match page.parameter("resource") {
            None => None,
            Some(text) => Some(known().find(|field| *field == text).ok_or(NoSuchResource(text))?),
        };
        let name = match page.parameter("name_regex").filter(|pattern| !pattern.is_empty()) {
            None => None,
            Some(pattern) => {
                let compiled = RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(REGEX_BYTES).build();
                Some(compiled.map_err(|error| wrong("name_regex", pattern, error.to_string()))?)
            }
        };
        Ok(Self { resource, name, has_endpoints: page.parameter("include_eds").is_some() })
    }

    fn wants(&self, name: &str) -> bool {
        self.name.as_ref().is_none_or(|wanted| wanted.is_match(name))
    }
}

impl Dump {
    /// Writes it, a few resources at a time.
    ///
    /// # Errors
    /// When nobody takes it any more.
    pub fn write(&self, asked: &Asked, out: &mut dyn Write) -> io::Result<()> {
        // Were the descriptors broken, no resource could be read, and each would say so.
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap_or_default();
        out.write_all(b"{\"configs\":[\n")?;
        let mut list = List::default();
        match asked.resource {
            Some(field) => {
                if let Some(shape) = SHAPES.iter().find(|shape| shape.list == field) {
                    let url = format!("type.googleapis.com/envoy.admin.v3.{}.{}", shape.part, shape.one);
                    self.resources(&pool, shape, asked, Some(&url), &mut list, out)?;
                } else {
                    for (name, mut secret) in secrets::active(&self.certificates) {
                        secret.insert("@type".to_owned(), secrets::ONE.into());
                        if asked.wants(name) {
                            list.item(&secret.into(), out)?;
                        }
                    }
                }
            }
            None => {
                list.item(&self.bootstrap(&pool), out)?;
                for shape in SHAPES.iter().filter(|shape| asked.has_endpoints || shape.kind != Kind::Endpoints) {
                    list.next(out)?;
                    writeln!(
                        out,
                        "{{\"@type\":\"type.googleapis.com/envoy.admin.v3.{}\",\"{}\":[",
                        shape.part, shape.list
                    )?;
                    self.resources(&pool, shape, asked, None, &mut List::default(), out)?;
                    out.write_all(b"\n]}")?;
                }
                list.item(&secrets::part(&self.certificates, |name| asked.wants(name)), out)?;
            }
        }
        out.write_all(b"\n]")?;
        for (name, value) in self.besides.iter().filter(|_| asked.resource.is_none()) {
            write!(out, ",\n{}:{value}", Value::from(name.as_str()))?;
        }
        out.write_all(b"}\n")
    }

    fn resources(
        &self,
        pool: &DescriptorPool,
        shape: &Shape,
        asked: &Asked,
        url: Option<&str>,
        list: &mut List,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut last = None;
        loop {
            let some = self.held.behind(shape.kind, last.as_deref(), AT_A_TIME);
            let Some(end) = some.last() else { return Ok(()) };
            last = Some(end.name.clone());
            for resource in some.iter().filter(|resource| asked.wants(&resource.name)) {
                let mut object = entry(pool, shape, resource);
                object.extend(url.map(|url| ("@type".to_owned(), url.into())));
                list.item(&object.into(), out)?;
            }
        }
    }

    fn bootstrap(&self, pool: &DescriptorPool) -> Value {
        let mut node = message(pool, "envoy.config.core.v3.Node", &self.node.encode_to_vec());
        redact(&mut node);
        json!({"@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": {"node": node}})
    }
}

/// Elements of a list that is being written, a line each.
#[derive(Default)]
struct List {
    has_begun: bool,
}

impl List {
    fn next(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if std::mem::replace(&mut self.has_begun, true) { out.write_all(b",\n") } else { Ok(()) }
    }

    fn item(&mut self, value: &Value, out: &mut dyn Write) -> io::Result<()> {
        self.next(out)?;
        serde_json::to_writer(out, value).map_err(io::Error::from)
    }
}

fn entry(pool: &DescriptorPool, shape: &Shape, Shown { name, good, bad }: &Shown) -> Map<String, Value> {
    let url = shape.kind.url();
    let unknown = || json!({"@type": url, shape.name: name});
    let mut state = Map::new();
    match good {
        Some((version, since, bytes)) => {
            let mut resource = message(pool, url.rsplit('/').next().unwrap_or(url), bytes);
            redact(&mut resource);
            if let Some(object) = resource.as_object_mut() {
                object.insert("@type".to_owned(), url.into());
            }
            state.insert("version_info".to_owned(), version.as_str().into());
            state.insert(shape.each.to_owned(), resource);
            state.insert("last_updated".to_owned(), time(*since));
        }
        // Readers look for a name there, and take it for granted that there is one.
        None if shape.kind != Kind::Listener => drop(state.insert(shape.each.to_owned(), unknown())),
        None => {}
    }
    let mut object = match shape.kind {
        Kind::Listener => {
            let active = (!state.is_empty()).then(|| ("active_state".to_owned(), state.into()));
            [("name".to_owned(), name.as_str().into())].into_iter().chain(active).collect()
        }
        _ => state,
    };
    object.insert("client_status".to_owned(), if bad.is_some() { "NACKED" } else { "ACKED" }.into());
    if let Some(Bad { version, details, at }) = bad {
        let error = json!({
            "failed_configuration": unknown(), "last_update_attempt": time(*at), "details": details, "version_info": version,
        });
        object.insert("error_state".to_owned(), error);
    }
    object
}

fn message(pool: &DescriptorPool, kind: &str, bytes: &[u8]) -> Value {
    let options = SerializeOptions::new().use_proto_field_name(true);
    let written = pool.get_message_by_name(kind).and_then(|descriptor| {
        let message = DynamicMessage::decode(descriptor, bytes).ok()?;
        message.serialize_with_options(serde_json::value::Serializer, &options).ok()
    });
    written.unwrap_or_else(|| json!({"error": "cannot be shown"}))
}

/// Takes out values of headers that are credentials, where they are written (`HeaderValue` of Envoy) and where they are compared
/// (`HeaderMatcher`).
fn redact(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(redact),
        Value::Object(fields) => {
            let is_secret = |field: &str| fields.get(field).and_then(Value::as_str).is_some_and(is_credential);
            let (is_written, is_compared) = (is_secret("key"), is_secret("name"));
            for (name, value) in fields.iter_mut() {
                match name.as_str() {
                    "value" | "raw_value" if is_written => *value = REDACTED.into(),
                    name if is_compared && name.ends_with("_match") && !value.is_boolean() => *value = REDACTED.into(),
                    _ => redact(value),
                }
            }
        }
        _ => {}
    }
}

fn is_credential(header: &str) -> bool {
    let header = header.to_ascii_lowercase();
    CREDENTIALS.iter().any(|part| header.contains(part))
}

fn time(time: SystemTime) -> Value {
    in_milliseconds(time).into()
}

#[cfg(test)]
mod tests;
