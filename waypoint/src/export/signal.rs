//! Kinds of what collectors are told: where each is told, and what it is called.

use fairway_core::limits::{self, Limit};
use fairway_proto::otlp::logs::{LogRecord, ResourceLogs, ScopeLogs};
use fairway_proto::otlp::logs_service::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use fairway_proto::otlp::trace::{ResourceSpans, ScopeSpans, Span};
use fairway_proto::otlp::trace_service::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message;

use super::attribute::{resource, scope};

/// One kind.
pub(super) trait Signal: Message + Sized + 'static {
    /// What a collector is asked.
    type Request: Message;
    /// What it answers.
    type Answer: Message + Default;
    /// The service's method.
    const METHOD: &'static str;
    /// What counts them.
    const COUNTED: &'static str;
    /// What is said of that.
    const HELP: &'static str;
    /// What they are called.
    const NAME: &'static str;
    /// How many wait at most.
    const QUEUE: &'static Limit;

    /// From who says `attributes` of itself.
    fn request(attributes: &[(String, String)], signals: Vec<Self>) -> Self::Request;

    /// How many were not taken, as the collector says.
    fn refused(answer: &Self::Answer) -> i64;
}

impl Signal for Span {
    type Request = ExportTraceServiceRequest;
    type Answer = ExportTraceServiceResponse;
    const METHOD: &'static str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    const COUNTED: &'static str = "fairway_waypoint_spans_total";
    const HELP: &'static str =
        "Spans: sent, or lost as the queue was full, the collector did not take them, or nobody answered.";
    const NAME: &'static str = "spans";
    const QUEUE: &'static Limit = &limits::SPAN_QUEUE;

    fn request(attributes: &[(String, String)], spans: Vec<Self>) -> Self::Request {
        let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans }];
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { resource: Some(resource(attributes)), scope_spans }],
        }
    }

    fn refused(answer: &Self::Answer) -> i64 {
        answer.partial_success.as_ref().map_or(0, |partial| partial.rejected_spans)
    }
}

impl Signal for LogRecord {
    type Request = ExportLogsServiceRequest;
    type Answer = ExportLogsServiceResponse;
    const METHOD: &'static str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    const COUNTED: &'static str = "fairway_waypoint_access_log_records_total";
    const HELP: &'static str = "Records of access logs for collectors: sent, or lost as the queue was full, the collector did not take them, or nobody answered.";
    const NAME: &'static str = "records of access logs";
    const QUEUE: &'static Limit = &limits::ACCESS_LOG_QUEUE;

    fn request(attributes: &[(String, String)], log_records: Vec<Self>) -> Self::Request {
        let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records }];
        ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs { resource: Some(resource(attributes)), scope_logs }],
        }
    }

    fn refused(answer: &Self::Answer) -> i64 {
        answer.partial_success.as_ref().map_or(0, |partial| partial.rejected_log_records)
    }
}
