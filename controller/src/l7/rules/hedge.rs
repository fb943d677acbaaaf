//! Whether attempts that are late go on beside others (hedging): what an annotation of a route says, as neither API has a word for it.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::model::Retry;
use super::super::verdict::Class;
use super::Reader;

/// Has another attempt sent beside one that takes longer than an attempt may.
const HEDGE: &str = "fairway.dev/hedge-on-attempt-timeout";

/// What the annotation comes to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hedging {
    is_wanted: bool,
    /// There is a rule where it has an effect.
    is_done: bool,
}

impl Reader<'_> {
    /// Reads the annotation of the route.
    pub(in super::super) fn annotated(&mut self, metadata: &ObjectMeta) {
        let Some(written) = metadata.annotations.as_ref().and_then(|all| all.get(HEDGE)) else { return };
        match written.as_str() {
            "true" => self.hedging.is_wanted = true,
            "false" => {}
            _ => self.hedging_has_no_effect(&format!("{written:?} is neither true nor false")),
        }
    }

    /// Whether late attempts of a rule go on.
    pub(super) fn hedges(&mut self, retry: &Retry, attempt_timeout: Option<Duration>) -> bool {
        let hedges = self.hedging.is_wanted && attempt_timeout.is_some() && matches!(retry, Retry::Answers { .. });
        self.hedging.is_done |= hedges;
        hedges
    }

    /// Says so if the annotation has no effect, once all rules are read.
    pub(in super::super) fn note_hedging(&mut self) {
        if self.hedging.is_wanted && !self.hedging.is_done {
            self.hedging_has_no_effect("needs a rule with retries and a timeout of each attempt");
        }
    }

    fn hedging_has_no_effect(&mut self, why: &str) {
        let field = format!("metadata.annotations[{HEDGE}]");
        self.find(Class::Different, field, format!("{why}; it has no effect"));
    }
}
