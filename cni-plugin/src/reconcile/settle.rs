//! What to say of a pod, given what the proxy answered and what was read back.

use crate::handoff::Answer;
use crate::report::Actual;

/// What is known of a pod after a pass.
pub(super) struct Facts<'a> {
    pub(super) leaving: bool,
    pub(super) answer: Answer,
    pub(super) rules_hold: bool,
    pub(super) rules_error: Option<&'a str>,
}

/// What becomes of the pod's annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusChange {
    Enabled,
    Pending,
    Keep,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) actual: Actual,
    pub(super) status: StatusChange,
    pub(super) error: Option<String>,
}

/// Says it.
///
/// A proxy that is away (restarting, being upgraded) does not change the status: peers that stopped using tunnels for
/// a moment would send clear text to a pod that is still captured.
pub(super) fn settle(facts: &Facts<'_>) -> Outcome {
    let outcome = |actual, status, error: Option<&str>| Outcome { actual, status, error: error.map(str::to_owned) };
    if facts.leaving {
        return outcome(Actual::Pending, StatusChange::Keep, facts.rules_error);
    }
    if let Some(error) = facts.rules_error {
        return outcome(Actual::Pending, StatusChange::Pending, Some(error));
    }
    match &facts.answer {
        Answer::Refused(error) => {
            let error = format!("the node proxy refused the pod: {error}");
            outcome(Actual::Pending, StatusChange::Pending, Some(&error))
        }
        Answer::Accepted if facts.rules_hold => outcome(Actual::Captured, StatusChange::Enabled, None),
        Answer::Accepted | Answer::Waiting => outcome(Actual::Pending, StatusChange::Keep, None),
        Answer::NoProxy => {
            outcome(Actual::Pending, StatusChange::Keep, Some("no node proxy is connected; check ztunnel on this node"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let refused = || Answer::Refused("busy".to_owned());
        let rows = [
            // leaving, answer, rules hold, rules error, actual, status, has an error
            (false, Answer::Accepted, true, None, Actual::Captured, StatusChange::Enabled, false),
            (false, Answer::Accepted, false, None, Actual::Pending, StatusChange::Keep, false),
            (false, Answer::Accepted, false, Some("no"), Actual::Pending, StatusChange::Pending, true),
            (false, Answer::Waiting, true, None, Actual::Pending, StatusChange::Keep, false),
            (false, Answer::NoProxy, true, None, Actual::Pending, StatusChange::Keep, true),
            (false, refused(), false, None, Actual::Pending, StatusChange::Pending, true),
            (false, refused(), true, None, Actual::Pending, StatusChange::Pending, true),
            (true, Answer::Accepted, true, None, Actual::Pending, StatusChange::Keep, false),
            (true, Answer::Accepted, true, Some("no"), Actual::Pending, StatusChange::Keep, true),
        ];
        for (leaving, answer, rules_hold, rules_error, actual, status, has_error) in rows {
            let name = format!("{leaving} {answer:?} {rules_hold} {rules_error:?}");
            let outcome = settle(&Facts { leaving, answer, rules_hold, rules_error });
            assert_eq!(
                (outcome.actual, outcome.status, outcome.error.is_some()),
                (actual, status, has_error),
                "{name}"
            );
        }
    }
}
