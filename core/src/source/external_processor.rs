//! Fairway's own ExternalProcessor as users write it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::istio::TargetReference;

/// `fairway.dev` ExternalProcessor.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalProcessor {
    /// `fairway.dev/v1alpha1`.
    pub api_version: String,
    /// `ExternalProcessor`.
    pub kind: String,
    /// Name, namespace, age.
    pub metadata: ObjectMeta,
    /// Who sees what, and where.
    #[serde(default)]
    pub spec: ExternalProcessorSpec,
    /// Written by controllers; not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// Body of an [`ExternalProcessor`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExternalProcessorSpec {
    /// Services, gateways, classes or routes that it is attached to.
    pub target_refs: Vec<TargetReference>,
    /// Who: a provider of the mesh configuration.
    pub provider: String,
    /// Which parts it sees.
    pub processing_mode: ProcessingMode,
}

/// Which parts of a request and its answer somebody sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProcessingMode {
    /// Headers of requests.
    pub request_headers: Part,
    /// Headers of answers.
    pub response_headers: Part,
    /// Bodies of requests.
    pub request_body: BodyPart,
    /// Bodies of answers.
    pub response_body: BodyPart,
    /// Trailers of requests.
    pub request_trailers: Part,
    /// Trailers of answers.
    pub response_trailers: Part,
}

impl Default for ProcessingMode {
    fn default() -> Self {
        Self {
            request_headers: Part::Send,
            response_headers: Part::Send,
            request_body: BodyPart::None,
            response_body: BodyPart::None,
            request_trailers: Part::Skip,
            response_trailers: Part::Skip,
        }
    }
}

/// Whether headers or trailers are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Part {
    /// They are.
    Send,
    /// They are not.
    Skip,
}

/// How a body is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BodyPart {
    /// Not at all.
    None,
    /// All at once, and kept meanwhile.
    Buffered,
    /// Piece by piece.
    Streamed,
    /// As Envoy knows it; nobody does that here.
    BufferedPartial,
    /// As Envoy knows it; nobody does that here.
    FullDuplexStreamed,
}
