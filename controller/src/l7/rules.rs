//! Rules of routes, read: what is understood becomes the model, what is not becomes a finding and is answered with 500.

use fairway_core::source::ObjectKey;
use fairway_core::source::route::{BackendReference, ParentReference, Unread, ValueMatch};

use super::catalog::{Catalog, Unit};
use super::grants::Referrer;
use super::model::{Action, Backend, Compare, Forward, Match, Rule, Text};
use super::verdict::{Class, Finding};

mod cors;
mod fault;
pub(super) mod filters;
pub(super) mod grpc;
mod hedge;
pub(super) mod http;
mod session;
mod stream;
pub(super) mod text;
mod traffic;

use filters::{Effects, Place};
use hedge::Hedging;

/// What happens to requests for a rule that cannot be done as written.
const REFUSED: &str = "requests that match the rule are answered with 500";
/// All of a million.
const ALL: u32 = 1_000_000;
/// What happens to a match that cannot be made.
const LEFT_OUT: &str = "the match is left out";

/// One rule: its matches, and what is done.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) matches: Vec<(usize, Match)>,
    pub(super) rule: Rule,
    /// Whether it is done as it says.
    pub(super) is_supported: bool,
}

/// Reads the rules of one route and takes down what is wrong with them.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) catalog: Catalog<'a>,
    /// The route.
    key: &'a ObjectKey,
    /// Its namespace.
    pub(super) namespace: &'a str,
    /// As whom it refers to backends.
    pub(super) referrer: Referrer<'a>,
    hedging: Hedging,
    pub(super) findings: Vec<Finding>,
}

impl<'a> Reader<'a> {
    /// A reader of the route with this key and these parents.
    pub(super) fn new(catalog: Catalog<'a>, key: &'a ObjectKey, parents: &'a [ParentReference]) -> Self {
        let referrer = Referrer::of(key, parents);
        let hedging = Hedging::default();
        Self { catalog, key, namespace: &key.namespace, referrer, hedging, findings: Vec::new() }
    }
}

impl Reader<'_> {
    pub(super) fn find(&mut self, class: Class, field: String, message: impl Into<String>) {
        self.findings.push(Finding { field, message: message.into(), class });
    }

    fn unsupported(&mut self, field: String, message: &str) {
        self.find(Class::Unsupported, field, format!("{message}; {REFUSED}"));
    }

    /// Whether there is nothing here that nobody reads.
    pub(super) fn reads_all(&mut self, at: &str, unread: &Unread, consequence: &str) -> bool {
        for name in unread.keys() {
            self.find(Class::Unsupported, format!("{at}.{name}"), format!("is not supported; {consequence}"));
        }
        unread.is_empty()
    }

    /// Headers or query parameters to compare with; of several with one name the first counts.
    fn compared(&mut self, at: &str, wanted: &[ValueMatch], is_header: bool) -> Option<Vec<Compare>> {
        let mut compared: Vec<Compare> = Vec::new();
        for (index, wanted) in wanted.iter().enumerate() {
            let at = format!("{at}[{index}]");
            let name = if is_header { wanted.name.to_ascii_lowercase() } else { wanted.name.clone() };
            let is_name =
                if is_header { text::is_header_name(&name) } else { text::is_clean(&name) && !name.is_empty() };
            if !is_name {
                self.find(Class::Unsupported, format!("{at}.name"), format!("{name:?} is no name; {LEFT_OUT}"));
                return None;
            }
            if !self.reads_all(&at, &wanted.unread, LEFT_OUT) {
                return None;
            }
            let Some(value) = &wanted.value else {
                self.find(Class::Unsupported, format!("{at}.value"), format!("is missing; {LEFT_OUT}"));
                return None;
            };
            let value = self.text(&at, wanted.kind.as_deref(), value)?;
            if !compared.iter().any(|known| known.name == name) {
                compared.push(Compare { name, value });
            }
        }
        Some(compared)
    }

    fn text(&mut self, at: &str, kind: Option<&str>, value: &str) -> Option<Text> {
        let result = match kind.unwrap_or("Exact") {
            "Exact" if text::is_clean(value) => Ok(Text::Exact(value.to_owned())),
            "Exact" => Err(("value", "has characters that no request has".to_owned())),
            "RegularExpression" => {
                text::check_pattern(value).map(|()| Text::Regex(value.to_owned())).map_err(|why| ("value", why))
            }
            other => Err(("type", format!("{other:?} is not supported"))),
        };
        let (field, why) = match result {
            Ok(text) => return Some(text),
            Err(wrong) => wrong,
        };
        self.find(Class::Unsupported, format!("{at}.{field}"), format!("{why}; {LEFT_OUT}"));
        None
    }

    /// The backends that get anything.
    fn backends(&mut self, at: &str, references: &[BackendReference]) -> Vec<Backend> {
        let mut backends = Vec::new();
        for (index, reference) in references.iter().enumerate() {
            let at = format!("{at}.backendRefs[{index}]");
            let mut target = match self.catalog.backend(self.namespace, reference, Unit::Request, &self.referrer) {
                Ok(target) => Some(target),
                Err((reason, message)) => {
                    let message = format!("{message}; its share of requests is answered with 500");
                    self.find(Class::Reference(reason), at.clone(), message);
                    None
                }
            };
            let is_read = self.reads_all(&at, &reference.unread, "its share of requests is answered with 500");
            let effects = self.filters(&at, &reference.filters, Place::Backend, &[]);
            if !is_read || effects.is_none() {
                target = None;
            }
            let Effects { request, response, .. } = effects.unwrap_or_default();
            let weight = reference.weight.unwrap_or(1);
            if weight > 0 {
                backends.push(Backend { weight, target, request, response });
            }
        }
        backends
    }

    /// What is done, once everything is known.
    fn rule(effects: Option<Effects>, forward: Forward) -> Rule {
        let Some(effects) = effects else {
            return Rule::only(Action::Refuse);
        };
        let Effects { request, response, redirect, host, path, mirrors, cors } = effects;
        let action = match redirect {
            Some(redirect) => Action::Redirect(redirect),
            None if forward.backends.iter().all(|backend| backend.target.is_none()) => Action::Refuse,
            None => Action::Forward(Forward { host, path, mirrors, ..forward }),
        };
        Rule { request, response, cors, fault: None, action }
    }
}

/// Of how many in a million.
fn per_million(percent: f64) -> u32 {
    let share = (percent.clamp(0.0, 100.0) / 100.0 * f64::from(ALL)).round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
    let share = share as u32;
    share
}
