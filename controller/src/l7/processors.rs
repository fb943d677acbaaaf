//! Who sees requests and their answers at waypoints, and changes them: what ExternalProcessors and providers come to, in no proxy's
//! language.

use std::collections::BTreeMap;
use std::time::Duration;

use fairway_core::source::external_processor::{BodyPart, ExternalProcessor, ProcessingMode};
use fairway_core::source::{Kind, ObjectKey};
use serde::Deserialize;

use super::authz::Place;
use super::model::Target;
use super::provider::{self, Wrong};
use super::rates::{MAXIMUM, attachable};
use super::rules::text;
use crate::translate::Fault;

/// For each message, where nothing is said; Envoy's default.
const TIMEOUT: Duration = Duration::from_millis(200);
/// The longest that Envoy takes.
const LONGEST: Duration = Duration::from_secs(3600);
/// The status where a processor does not answer and requests do not pass; Envoy's default.
const STATUS: u16 = 500;

/// Who may see requests, by name.
pub type Processors = BTreeMap<String, Processor>;

/// Who sees requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Where.
    pub target: Target,
    /// Each answer has to be there by then.
    pub timeout: Duration,
    /// The longest that it may ask for in place of that.
    pub longest: Option<Duration>,
    /// Requests and answers pass as they are where there is no answer.
    pub fails_open: bool,
    /// The status where there is none, and they do not.
    pub status: u16,
    /// Whether it may say which further parts it sees.
    pub may_override: bool,
}

/// An ExternalProcessor that is attached to something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The object.
    pub object: ObjectKey,
    /// What it is attached to.
    pub places: Vec<Place>,
    /// Who: a provider of the mesh configuration.
    pub provider: String,
    /// What it sees.
    pub mode: ProcessingMode,
}

/// A provider as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Written {
    service: String,
    port: u16,
    message_timeout: Option<String>,
    max_message_timeout: Option<String>,
    #[serde(default)]
    fail_open: bool,
    status_on_error: Option<String>,
    #[serde(default)]
    allow_mode_override: bool,
}

impl Written {
    /// What it comes to.
    ///
    /// # Errors
    /// The field that cannot be used, and why.
    pub(super) fn read(&self) -> Result<Processor, Wrong> {
        let target = provider::target(&self.service, self.port, "processor")?;
        let time = |field: &'static str, written: &Option<String>| {
            let read = |time| text::seconds(time).filter(|time| !time.is_zero() && *time <= LONGEST);
            let wrong = || (field, "is no time of an hour at most; write for example 0.2s".to_owned());
            written.as_deref().map(|time| read(time).ok_or_else(wrong)).transpose()
        };
        let timeout = time("messageTimeout", &self.message_timeout)?.unwrap_or(TIMEOUT);
        let longest = time("maxMessageTimeout", &self.max_message_timeout)?;
        let status = provider::status(self.status_on_error.as_deref(), STATUS)?;
        let (fails_open, may_override) = (self.fail_open, self.allow_mode_override);
        Ok(Processor { target, timeout, longest, fails_open, status, may_override })
    }
}

/// What an object comes to.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn read(object: &ExternalProcessor, root: &str, known: &Processors) -> Result<Policy, Vec<Fault>> {
    let (spec, metadata) = (&object.spec, &object.metadata);
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    let mut faults = Vec::new();
    if !(1..=MAXIMUM).contains(&spec.target_refs.len()) {
        let message = format!("has {} entries; 1 to {MAXIMUM} are allowed", spec.target_refs.len());
        faults.push(Fault { field: "spec.targetRefs".to_owned(), message });
    }
    let places = attachable(&spec.target_refs, namespace, root, &mut faults);
    if !known.contains_key(&spec.provider) {
        let message =
            format!("the mesh configuration has no processor {:?} (fairwayExternalProcessorGrpc)", spec.provider);
        faults.push(Fault { field: "spec.provider".to_owned(), message });
    }
    let mode = spec.processing_mode;
    for (field, part, called) in [
        ("requestBody", mode.request_body, called(mode.request_body)),
        ("responseBody", mode.response_body, called(mode.response_body)),
    ] {
        if matches!(part, BodyPart::BufferedPartial | BodyPart::FullDuplexStreamed) {
            let message = format!("{called} is not supported; write BUFFERED or STREAMED");
            faults.push(Fault { field: format!("spec.processingMode.{field}"), message });
        }
    }
    let object = ObjectKey::new(Kind::ExternalProcessor, namespace, name);
    let policy = Policy { object, places, provider: spec.provider.clone(), mode };
    if faults.is_empty() { Ok(policy) } else { Err(faults) }
}

fn called(part: BodyPart) -> &'static str {
    match part {
        BodyPart::None => "NONE",
        BodyPart::Buffered => "BUFFERED",
        BodyPart::Streamed => "STREAMED",
        BodyPart::BufferedPartial => "BUFFERED_PARTIAL",
        BodyPart::FullDuplexStreamed => "FULL_DUPLEX_STREAMED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_read_as_a_whole_or_refused() {
        let read = |fields: &str| {
            let written: Written = serde_saphyr::from_str(fields).map_err(|error| error.to_string())?;
            written.read().map_err(|(field, problem)| format!("{field} {problem}"))
        };
        let usual = "{service: shop/processor.shop.svc.cluster.local, port: 9000";
        let plain = read(&format!("{usual}}}")).unwrap();
        assert_eq!(plain.target.to_string(), "processor.shop.svc.cluster.local:9000");
        assert_eq!(
            (plain.timeout, plain.longest, plain.fails_open, plain.status, plain.may_override),
            (TIMEOUT, None, false, 500, false)
        );
        let all = ", messageTimeout: 0.5s, maxMessageTimeout: 3s, failOpen: true, statusOnError: \"503\", allowModeOverride: true}";
        let all = read(&format!("{usual}{all}")).unwrap();
        assert_eq!(
            (all.timeout.as_millis(), all.longest, all.fails_open, all.status, all.may_override),
            (500, Some(Duration::from_secs(3)), true, 503, true)
        );
        for (fields, part) in [
            (format!("{usual}, messageTimeout: 0s}}"), "messageTimeout"),
            (format!("{usual}, maxMessageTimeout: 3601s}}"), "maxMessageTimeout"),
            (format!("{usual}, statusOnError: \"200\"}}"), "statusOnError"),
            (format!("{usual}, timeout: 1s}}"), "timeout"),
            ("{service: a b, port: 1}".to_owned(), "service"),
            ("{service: a.b, port: 0}".to_owned(), "port"),
        ] {
            let error = read(&fields).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
