//! Finds what of a message is not in the contract: generated code would silently leave it out.

use std::collections::HashMap;
use std::sync::OnceLock;

use fairway_proto::DESCRIPTORS;
use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_types::field_descriptor_proto::Type;
use prost_types::{Any, DescriptorProto, FileDescriptorSet};

use super::wrong::{Within, Wrong};

/// Before the name of a type in an `Any`.
const TYPE_PREFIX: &str = "type.googleapis.com/";
/// Messages inside messages; as deep as prost itself goes.
const DEPTH: usize = 100;

/// What Envoy calls fields that are likely to come and are not in the contract; others are named by their numbers.
const NAMES: [(&str, u32, &str); 13] = [
    ("envoy.config.route.v3.RouteConfiguration", 4, "response_headers_to_add"),
    ("envoy.config.route.v3.VirtualHost", 8, "cors"),
    ("envoy.config.route.v3.VirtualHost", 15, "typed_per_filter_config"),
    ("envoy.config.route.v3.RouteMatch", 9, "runtime_fraction"),
    ("envoy.config.route.v3.RouteMatch", 14, "path_separated_prefix"),
    ("envoy.config.route.v3.RouteAction", 2, "cluster_header"),
    ("envoy.config.route.v3.RouteAction", 17, "cors"),
    ("envoy.config.route.v3.RouteAction", 25, "upgrade_configs"),
    ("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig", 2, "filters"),
    ("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig", 3, "enabled"),
    ("envoy.config.route.v3.HedgePolicy", 1, "initial_requests"),
    ("envoy.config.route.v3.HedgePolicy", 2, "additional_request_chance"),
    ("envoy.config.cluster.v3.Cluster", 8, "health_checks"),
];

/// A field: its name, and the type of the message that it holds.
#[derive(Debug)]
struct Field {
    name: String,
    message: Option<String>,
}

type Schema = HashMap<String, HashMap<u32, Field>>;

fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let mut schema = Schema::new();
        // The descriptors are compiled in; were they broken, no field would be known and every resource refused.
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default().file;
        for file in &files {
            file.message_type.iter().for_each(|message| add(&mut schema, file.package(), message));
        }
        schema
    })
}

fn add(schema: &mut Schema, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    message.nested_type.iter().for_each(|nested| add(schema, &name, nested));
    let fields = message.field.iter().filter_map(|field| {
        let held = (field.r#type() == Type::Message).then(|| field.type_name().trim_start_matches('.').to_owned());
        Some((u32::try_from(field.number()).ok()?, Field { name: field.name().to_owned(), message: held }))
    });
    schema.insert(name, fields.collect());
}

/// Whether everything in the message of type `name` is in the contract.
///
/// # Errors
/// The first field that is not, or a type in an `Any`.
pub(super) fn check(name: &str, bytes: &[u8]) -> Result<(), Wrong> {
    walk(name, bytes, DEPTH)
}

fn walk(name: &str, mut bytes: &[u8], depth: usize) -> Result<(), Wrong> {
    let broken = |error: prost::DecodeError| Wrong::here(error.to_string());
    if depth == 0 {
        return Err(Wrong::here("is nested too deeply"));
    }
    if name == "google.protobuf.Any" {
        let any = Any::decode(bytes).map_err(broken)?;
        let held = any.type_url.strip_prefix(TYPE_PREFIX).unwrap_or(&any.type_url);
        return if schema().contains_key(held) {
            walk(held, &any.value, depth - 1)
        } else {
            Err(Wrong::here(format!("{held} is not supported")))
        };
    }
    let Some(fields) = schema().get(name) else {
        // Google's own: durations, numbers, and texts.
        return if name.starts_with("google.protobuf.") {
            Ok(())
        } else {
            Err(Wrong::here(format!("{name} is unknown")))
        };
    };
    let mut seen: HashMap<u32, usize> = HashMap::new();
    while bytes.has_remaining() {
        let (number, wire_type) = decode_key(&mut bytes).map_err(broken)?;
        let Some(field) = fields.get(&number) else {
            let known = NAMES.iter().find(|(message, known, _)| *message == name && *known == number);
            let called = known.map_or_else(|| format!("field {number}"), |(_, _, called)| (*called).to_owned());
            return Err(Wrong::new(called, format!("is not supported in {name}")));
        };
        match &field.message {
            Some(held) if wire_type == WireType::LengthDelimited => {
                let length = decode_varint(&mut bytes).map_err(broken)?;
                let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len());
                let length = length.ok_or_else(|| Wrong::new(&field.name, "is cut off"))?;
                let (inner, rest) = bytes.split_at(length);
                bytes = rest;
                let index = seen.entry(number).or_default();
                walk(held, inner, depth - 1).within(format_args!("{}[{index}]", field.name))?;
                *index += 1;
            }
            _ => skip_field(wire_type, number, &mut bytes, DecodeContext::default()).map_err(broken)?,
        }
    }
    Ok(())
}
