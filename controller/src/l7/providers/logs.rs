//! Whom waypoints tell of requests that have ended: lines on standard output, or a collector.

use std::collections::BTreeMap;

use fairway_core::access_log::Template;
use serde::Deserialize;
use serde_json::Value;

use super::super::model::Target;
use super::super::provider;

/// The one file that waypoints write.
const OUTPUT: &str = "/dev/stdout";
/// What a collector is told that this log is called, where nothing is said; Istio's name for it.
const NAME: &str = "otel_envoy_accesslog";

/// What a line says where nothing is said: Istio's format, which programs that read such lines know.
const TEXT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% ",
    "%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% ",
    "%BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% ",
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n",
);
/// The same in pieces, by Istio's names.
const LABELS: [(&str, &str); 24] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Standard output.
    Output {
        /// What a line says.
        format: Format,
        /// What there is nothing to say about is left out, instead of a dash.
        omits_empty: bool,
    },
    /// A collector.
    Collector {
        /// Where.
        target: Target,
        /// What it is told that the log is called.
        name: String,
        /// What it is told in one text.
        text: String,
        /// And piece by piece.
        labels: BTreeMap<String, String>,
    },
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// This, with the end of the line.
    Text(String),
    /// An object of JSON with these.
    Json(BTreeMap<String, String>),
}

impl Sink {
    /// What Istio calls `envoy`, and has without being told.
    #[must_use]
    pub fn usual_of_istio() -> Self {
        Self::Output { format: Format::Text(TEXT.to_owned()), omits_empty: false }
    }

    /// Where it is, unless it is we ourselves.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        match self {
            Self::Output { .. } => None,
            Self::Collector { target, .. } => Some(target),
        }
    }
}

/// Istio's fields of `envoyFileAccessLog`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    path: String,
    log_format: Option<WrittenFormat>,
    omit_empty_values: bool,
}

/// Istio's fields of `envoyOtelAls`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Collector {
    service: String,
    port: u16,
    log_name: String,
    log_format: Option<WrittenFormat>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WrittenFormat {
    text: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

/// `envoyFileAccessLog`, or why it cannot be used.
pub(in crate::l7) fn file(written: Value) -> Result<Sink, String> {
    let File { path, log_format, omit_empty_values } =
        serde_json::from_value(written).map_err(|error| error.to_string())?;
    if !path.is_empty() && path != OUTPUT {
        return Err(format!("path must be {OUTPUT}"));
    }
    let format = match log_format.unwrap_or_default() {
        WrittenFormat { text: Some(_), labels: Some(_) } => return Err("logFormat has text and labels".to_owned()),
        WrittenFormat { labels: Some(labels), .. } if labels.is_empty() => {
            Format::Json(LABELS.map(|(name, text)| (name.to_owned(), text.to_owned())).into())
        }
        WrittenFormat { labels: Some(labels), .. } => Format::Json(known(labels)?),
        WrittenFormat { text, labels: None } => {
            let mut text = text.filter(|text| !text.is_empty()).unwrap_or_else(|| TEXT.to_owned());
            check("logFormat.text", &text)?;
            if !text.ends_with('\n') {
                text.push('\n');
            }
            Format::Text(text)
        }
    };
    Ok(Sink::Output { format, omits_empty: omit_empty_values })
}

/// `envoyOtelAls`, or why it cannot be used.
pub(in crate::l7) fn collector(written: Value) -> Result<Sink, String> {
    let Collector { service, port, log_name, log_format } =
        serde_json::from_value(written).map_err(|error| error.to_string())?;
    let target = provider::target(&service, port, "collector");
    let target = target.map_err(|(field, problem)| format!("{field} {problem}"))?;
    let WrittenFormat { text, labels } = log_format.unwrap_or_default();
    let text = text.filter(|text| !text.is_empty()).unwrap_or_else(|| TEXT.to_owned());
    check("logFormat.text", &text)?;
    let name = if log_name.is_empty() { NAME.to_owned() } else { log_name };
    Ok(Sink::Collector { target, name, text, labels: known(labels.unwrap_or_default())? })
}

fn known(labels: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    for (name, text) in &labels {
        check(&format!("logFormat.labels[{name}]"), text)?;
    }
    Ok(labels)
}

fn check(field: &str, text: &str) -> Result<(), String> {
    Template::parse(text).map(drop).map_err(|error| format!("{field}: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_are_read_or_named_with_what_is_wrong() {
        let text = |text: &str| Ok(Sink::Output { format: Format::Text(text.to_owned()), omits_empty: false });
        let rows = [
            (json!({"path": "/dev/stdout"}), Ok(Sink::usual_of_istio())),
            (json!({"logFormat": {"text": "%PROTOCOL%"}}), text("%PROTOCOL%\n")),
            (json!({"logFormat": {"text": "%PROTOCOL%\n"}}), text("%PROTOCOL%\n")),
            (json!({"path": "/var/log/a"}), Err("path must be /dev/stdout")),
            (json!({"logFormat": {"text": "%CEL(a)%"}}), Err("logFormat.text: %CEL(a)% is not supported")),
            (json!({"logFormat": {"labels": {"a": "%ODD%"}}}), Err("logFormat.labels[a]: %ODD% is not supported")),
            (json!({"logFormat": {"labels": {"a": {"b": "c"}}}}), Err("expected a string")),
            (json!({"logFormat": {"labels": {}, "text": ""}}), Err("text and labels")),
            (json!({"odd": 1}), Err("odd")),
        ];
        for (written, expected) in rows {
            match (file(written.clone()), expected) {
                (Err(problem), Err(part)) => assert!(problem.contains(part), "{problem}"),
                (read, expected) => assert_eq!(read, expected.map_err(str::to_owned), "{written}"),
            }
        }
        let Ok(Sink::Output { format: Format::Json(labels), omits_empty: true }) =
            file(json!({"logFormat": {"labels": {}}, "omitEmptyValues": true}))
        else {
            panic!("labels")
        };
        assert_eq!((labels.len(), labels["method"].as_str()), (24, "%REQ(:METHOD)%"));
        assert_eq!(known(labels.clone()), Ok(labels));
    }

    #[test]
    fn collectors_of_logs_are_read_or_named_with_what_is_wrong() {
        let labels = BTreeMap::from([("code".to_owned(), "%RESPONSE_CODE%".to_owned())]);
        let target = Target { hostname: "logs.shop".into(), port: 4317, subset: None };
        let (name, text) = (NAME.to_owned(), TEXT.to_owned());
        let usual = Sink::Collector { target, name, text, labels };
        let written =
            json!({"service": "shop/logs.shop", "port": 4317, "logFormat": {"labels": {"code": "%RESPONSE_CODE%"}}});
        assert_eq!(collector(written), Ok(usual));
        for (written, part) in [
            (json!({"service": "logs.shop"}), "port is missing"),
            (json!({"service": "a b", "port": 1}), "service is no name"),
            (json!({"service": "logs.shop", "port": 1, "logFormat": {"text": "%"}}), "logFormat.text"),
            (json!({"service": "logs.shop", "port": 1, "http": {}}), "http"),
        ] {
            let problem = collector(written).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        }
    }
}
