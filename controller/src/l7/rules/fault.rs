//! Failures on purpose, as VirtualServices say them.

use fairway_core::source::istio_traffic::{Percent, TrafficFault};

use super::super::model::{Abort, Fault};
use super::super::verdict::Class;
use super::{REFUSED, Reader, per_million};

/// gRPC's statuses, by their numbers from 1 on.
const STATUSES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Reader<'_> {
    /// What goes wrong on purpose; nothing in it where no share of requests is said.
    pub(super) fn fault(&mut self, at: &str, written: &TrafficFault) -> Option<Fault> {
        let mut fault = Fault::default();
        if !self.reads_all(at, &written.unread, REFUSED) {
            return None;
        }
        if let Some(delay) = &written.delay {
            let at = format!("{at}.delay");
            if !self.reads_all(&at, &delay.unread, REFUSED) || !self.reads_share(&at, delay.percentage.as_ref()) {
                return None;
            }
            let Some(duration) = self.time(&format!("{at}.fixedDelay"), delay.fixed_delay.as_deref())? else {
                self.unsupported(format!("{at}.fixedDelay"), "is missing");
                return None;
            };
            fault.delay = self.share(&at, delay.percentage.as_ref(), delay.percent).map(|share| (duration, share));
        }
        if let Some(abort) = &written.abort {
            let at = format!("{at}.abort");
            if !self.reads_all(&at, &abort.unread, REFUSED) || !self.reads_share(&at, abort.percentage.as_ref()) {
                return None;
            }
            let kind = match (abort.http_status, &abort.grpc_status) {
                (Some(status), None) if (200..600).contains(&status) => Abort::Http(status),
                (None, Some(name)) if STATUSES.contains(&name.as_str()) => {
                    let place = STATUSES.iter().position(|known| known == name).unwrap_or_default();
                    Abort::Grpc(u32::try_from(place).unwrap_or_default().saturating_add(1))
                }
                _ => {
                    self.unsupported(at, "needs httpStatus, from 200 to 599, or grpcStatus, such as UNAVAILABLE");
                    return None;
                }
            };
            fault.abort = self.share(&at, abort.percentage.as_ref(), abort.percent).map(|share| (kind, share));
        }
        Some(fault)
    }

    /// Whether all is read of how many requests are meant.
    fn reads_share(&mut self, at: &str, percentage: Option<&Percent>) -> bool {
        percentage.is_none_or(|it| self.reads_all(&format!("{at}.percentage"), &it.unread, REFUSED))
    }

    /// Of how many in a million.
    fn share(&mut self, at: &str, percentage: Option<&Percent>, whole: Option<u32>) -> Option<u32> {
        let percent = percentage.map(|it| it.value).or(whole.map(f64::from));
        if percent.is_none() {
            self.find(Class::Different, format!("{at}.percentage"), "is missing, so nothing is done");
        }
        percent.map(per_million).filter(|share| *share > 0)
    }
}
