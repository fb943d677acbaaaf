//! Who is told what requests took, and of which requests.

use std::sync::Arc;

use fairway_proto::envoy::core::GrpcService;
use fairway_proto::envoy::core::grpc_service::TargetSpecifier;
use fairway_proto::envoy::custom_tag::CustomTag;
use fairway_proto::envoy::custom_tag::custom_tag::Type;
use fairway_proto::envoy::http_connection_manager::http_connection_manager::Tracing as Message;
use fairway_proto::envoy::trace::OpenTelemetryConfig;
use fairway_proto::envoy::trace::tracing::http::ConfigType;
use http::header::HeaderName;

use super::MILLION;
use super::listener::{decode, unsupported};
use super::route::header_name;
use super::wrong::{Within, Wrong, all};

const OPEN_TELEMETRY: &str = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig";
/// All of a hundred.
const WHOLE: f64 = 100.0;

/// What is done with traces.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// Who is told.
    pub collector: Arc<Collector>,
    /// How many in a million it is told about, of requests whose client has not decided.
    pub per_million: u32,
    /// What spans say besides.
    pub tags: Vec<Tag>,
}

/// Who is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Collector {
    /// Where.
    pub cluster: Arc<str>,
    /// Who we are to it.
    pub attributes: Vec<(String, String)>,
}

/// What a span says besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: TagValue,
}

/// Where the value of a tag is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagValue {
    /// This one.
    Fixed(String),
    /// A header of the request, or this where it has none.
    Header(HeaderName, Option<String>),
}

impl Tracing {
    pub(super) fn of(message: &Message) -> Result<Self, Wrong> {
        let provider = message.provider.as_ref().and_then(|provider| provider.config_type.as_ref());
        let Some(ConfigType::TypedConfig(config)) = provider else { return Err(Wrong::missing("provider")) };
        if config.type_url != OPEN_TELEMETRY {
            return Err(unsupported(config)).within("provider");
        }
        let provider: OpenTelemetryConfig = decode(&config.value).within("provider.typed_config")?;
        let cluster = called(provider.grpc_service.as_ref()).within("provider.typed_config.grpc_service")?;
        let share = message.random_sampling.as_ref().map_or(WHOLE, |share| share.value);
        if !(0.0..=WHOLE).contains(&share) {
            return Err(Wrong::new("random_sampling", "must be from 0 to 100"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a million")]
        let per_million = (share / WHOLE * f64::from(MILLION)).round() as u32;
        let collector =
            Arc::new(Collector { cluster, attributes: vec![("service.name".to_owned(), provider.service_name)] });
        Ok(Self { collector, per_million, tags: all("custom_tags", &message.custom_tags, tag)? })
    }
}

fn tag(message: &CustomTag) -> Result<Tag, Wrong> {
    if message.tag.is_empty() {
        return Err(Wrong::missing("tag"));
    }
    let value = match message.r#type.as_ref().ok_or_else(|| Wrong::missing("literal"))? {
        Type::Literal(text) => TagValue::Fixed(text.value.clone()),
        Type::RequestHeader(header) => {
            let otherwise = Some(header.default_value.clone()).filter(|value| !value.is_empty());
            TagValue::Header(header_name(&header.name).within("request_header.name")?, otherwise)
        }
    };
    Ok(Tag { name: message.tag.clone(), value })
}

/// The cluster of a service of gRPC.
pub(super) fn called(service: Option<&GrpcService>) -> Result<Arc<str>, Wrong> {
    let Some(TargetSpecifier::EnvoyGrpc(target)) = service.and_then(|service| service.target_specifier.as_ref()) else {
        return Err(Wrong::missing("envoy_grpc"));
    };
    if target.cluster_name.is_empty() {
        return Err(Wrong::missing("envoy_grpc.cluster_name"));
    }
    Ok(target.cluster_name.as_str().into())
}

#[cfg(test)]
mod tests {
    use fairway_proto::envoy::core::grpc_service::EnvoyGrpc;
    use fairway_proto::envoy::custom_tag::custom_tag::{Header, Literal};
    use fairway_proto::envoy::fraction::Percent;
    use fairway_proto::envoy::trace::tracing::Http;
    use prost::Message as _;
    use prost_types::Any;

    use super::*;

    fn message(change: impl FnOnce(&mut Message, &mut OpenTelemetryConfig)) -> Result<Tracing, String> {
        let target = EnvoyGrpc { cluster_name: "collector:4317".into() };
        let service = GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)), timeout: None };
        let mut config = OpenTelemetryConfig { grpc_service: Some(service), service_name: "way.shop".into() };
        let mut message = Message { provider: Some(Http::default()), ..Message::default() };
        change(&mut message, &mut config);
        let any = Any { type_url: OPEN_TELEMETRY.to_owned(), value: config.encode_to_vec() };
        if let Some(provider) = &mut message.provider {
            provider.config_type.get_or_insert(ConfigType::TypedConfig(any));
        }
        Tracing::of(&message).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn shares_are_exact_and_all_where_nothing_is_said() {
        let share = |value| message(|message, _| message.random_sampling = Some(Percent { value }));
        for (value, expected) in [(0.0, 0), (0.01, 100), (12.34, 123_400), (100.0, 1_000_000)] {
            assert_eq!(share(value).unwrap().per_million, expected, "{value}");
        }
        assert_eq!(message(|_, _| {}).unwrap().per_million, 1_000_000);
        for value in [-0.1, 100.1, f64::NAN] {
            assert_eq!(share(value).unwrap_err(), "random_sampling: must be from 0 to 100");
        }
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let tag = |r#type| CustomTag { tag: "a".into(), r#type };
        let header = |name: &str| Type::RequestHeader(Header { name: name.into(), default_value: String::new() });
        let rows = [
            (message(|message, _| message.provider = None), "provider: is missing"),
            (
                message(|message, _| {
                    let other = Any { type_url: "type.googleapis.com/other".into(), value: Vec::new() };
                    message.provider =
                        Some(Http { name: String::new(), config_type: Some(ConfigType::TypedConfig(other)) });
                }),
                "provider.typed_config: type.googleapis.com/other is not supported here",
            ),
            (
                message(|_, config| config.grpc_service = None),
                "provider.typed_config.grpc_service.envoy_grpc: is missing",
            ),
            (message(|message, _| message.custom_tags = vec![tag(None)]), "custom_tags[0].literal: is missing"),
            (message(|message, _| message.custom_tags = vec![CustomTag::default()]), "custom_tags[0].tag: is missing"),
            (
                message(|message, _| message.custom_tags = vec![tag(Some(header("a b")))]),
                "custom_tags[0].request_header.name: \"a b\" is no name of a header",
            ),
        ];
        for (read, expected) in rows {
            assert_eq!(read.unwrap_err(), expected);
        }
        let fixed = Type::Literal(Literal { value: "b".into() });
        let read =
            message(|message, _| message.custom_tags = vec![tag(Some(fixed)), tag(Some(header("x-a")))]).unwrap();
        let values: Vec<_> = read.tags.into_iter().map(|tag| tag.value).collect();
        assert_eq!(values, [TagValue::Fixed("b".into()), TagValue::Header(HeaderName::from_static("x-a"), None)]);
    }
}
