//! What a waypoint would do with a request, in sentences.

use std::time::Duration;

use fairway_core::why::passage::{
    Action, Asked, Fault, Forwarding, Handling, Passage, Question, RateLimit, RuleSet, Token, Whom,
};
use fairway_core::why::{Party, Way};

/// The whole that shares are parts of.
const MILLION: u32 = 1_000_000;

/// A sentence for each thing that is decided, in the order in which the waypoint does.
pub(super) fn told(passage: &Passage) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(listener) = &passage.listener {
        lines.push(format!("at the waypoint, listener {listener} {}", handling(passage.handling)));
    }
    if let Some(Asked { method, authority, path }) = &passage.request {
        lines.push(format!("it sees {method} {path} for {authority}"));
    }
    let questions = |whom: Whom| passage.questions.iter().filter(move |it| it.asked == whom).map(question);
    lines.extend(questions(Whom::Authorizer));
    lines.extend(passage.token.as_ref().map(token));
    lines.extend(passage.rules.iter().map(rules));
    if passage.rules.is_empty() && passage.listener.is_some() && passage.refused.is_none() {
        lines.push("no AuthorizationPolicy applies at the waypoint".to_owned());
    }
    lines.extend(passage.route.as_ref().map(|route| format!("route {} matches", named(route))));
    lines.extend(passage.rate_limits.iter().map(rate_limit));
    lines.extend(questions(Whom::RateLimiter));
    lines.extend(passage.fault.as_ref().map(fault));
    lines.extend(questions(Whom::Processor));
    lines.extend(passage.action.iter().flat_map(action));
    if let Some(onward) = &passage.onward {
        let who = onward.workload.as_ref().map(|it| format!(" to {}", at(it)));
        lines.push(format!("the waypoint goes on{}: {}", who.unwrap_or_default(), way(&onward.way)));
    }
    lines
}

/// Who it is, and where; what is outside of the cluster is on no node.
pub(super) fn at(party: &Party) -> String {
    let Party { namespace, name, node, .. } = party;
    if node.is_empty() { format!("{namespace}/{name}") } else { format!("{namespace}/{name} on {node}") }
}

fn handling(handling: Option<Handling>) -> &'static str {
    match handling {
        Some(Handling::Requests) => "takes requests",
        Some(Handling::RequestsIfSpoken) => {
            "takes requests if the client begins with one, as appProtocol of the port does not say; what follows holds for these"
        }
        Some(Handling::ServerNames) => "tells connections apart by the name that a TLS client asks for",
        Some(Handling::Bytes) => "passes connections on as they are",
        None => "decides",
    }
}

/// A name, which some have not.
fn named(name: &str) -> &str {
    if name.is_empty() { "without a name" } else { name }
}

fn question(Question { asked, cluster, timeout_ms, status_on_error }: &Question) -> String {
    let time = time(*timeout_ms);
    let otherwise = match status_on_error {
        Some(status) => format!("without an answer within {time} it is refused with {status}"),
        None => format!("without an answer within {time} it passes"),
    };
    let what = match asked {
        Whom::Authorizer => "is asked, and may refuse it or change it",
        Whom::RateLimiter => "counts it, and may refuse it",
        Whom::Processor => "sees it, and may refuse or change it",
    };
    format!("{cluster} {what}, which only sending tells; {otherwise}")
}

fn token(Token { issuers, is_believed, is_asked_for }: &Token) -> String {
    let issuers = issuers.join(", ");
    match (is_believed, is_asked_for) {
        (true, _) => format!("its token is believed (issuers: {issuers})"),
        (false, true) => {
            format!("it has no token that is believed, and rules ask what tokens claim (issuers: {issuers})")
        }
        (false, false) => format!("it has no token that is believed, and needs none (issuers: {issuers})"),
    }
}

fn rules(RuleSet { action, rules, matching }: &RuleSet) -> String {
    let all = rules.join(", ");
    match (action.as_str(), matching) {
        ("ALLOW", Some(rule)) => format!("rule {rule} allows it"),
        ("ALLOW", None) if rules.is_empty() => "a policy without rules allows nothing".to_owned(),
        ("ALLOW", None) => format!("none of these rules allows it: {all}"),
        (_, Some(rule)) => format!("rule {rule} denies it"),
        (_, None) => format!("none of these rules denies it: {all}"),
    }
}

fn rate_limit(RateLimit { counted_by, most, fill, interval_ms, left }: &RateLimit) -> String {
    let by: Vec<String> = counted_by.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let pace = format!("{most} at once and {fill} more in {}", time(*interval_ms));
    format!("it counts against a rate limit ({}): {pace}; {left} left in this replica", by.join(", "))
}

fn fault(Fault { delay_ms, abort }: &Fault) -> String {
    let delay = delay_ms.map(|(wait, share)| format!("{} wait {}", of_hundred(share), time(wait)));
    let abort = abort.as_ref().map(|(status, share)| format!("{} fail with {status}", of_hundred(*share)));
    let both: Vec<String> = delay.into_iter().chain(abort).collect();
    format!("on purpose, {}", both.join(" and "))
}

fn action(action: &Action) -> Vec<String> {
    match action {
        Action::Forward(forward) => forwarding(forward),
        Action::Redirect { status, location } => vec![format!("the client is sent to {location} ({status})")],
        Action::Reply { status } => vec![format!("the route itself answers with {status}")],
        Action::Preflight => vec!["a browser is told what pages of other origins may do".to_owned()],
    }
}

fn forwarding(forward: &Forwarding) -> Vec<String> {
    let total: u64 = forward.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let backend = |backend: &fairway_core::why::passage::Backend| {
        let share = match forward.backends.len() {
            1 => String::new(),
            _ => format!("{} to ", percent(u64::from(backend.weight), total)),
        };
        let endpoints = match backend.endpoints {
            None => "which it does not know".to_owned(),
            Some(1) => "1 endpoint".to_owned(),
            Some(count) => format!("{count} endpoints"),
        };
        format!("{share}{} ({endpoints})", backend.cluster)
    };
    let mut lines = vec![format!("it goes to {}", forward.backends.iter().map(backend).collect::<Vec<_>>().join(", "))];
    let rewritten = [("path", &forward.path), ("host", &forward.host)];
    lines.extend(rewritten.iter().filter_map(|(what, value)| Some(format!("its {what} becomes {}", value.as_ref()?))));
    let timeout = forward.timeout_ms.map(|timeout| format!("the whole of it may take {}", time(timeout)));
    let retry = forward.retry.as_ref().map(|retry| {
        let each = retry.attempt_timeout_ms.map(|each| format!(", each within {}", time(each)));
        format!(
            "it is tried again up to {} times{} after: {}",
            retry.attempts,
            each.unwrap_or_default(),
            retry.on.join(", ")
        )
    });
    lines.extend(timeout.into_iter().chain(retry));
    lines.extend(
        forward.mirrors.iter().map(|(cluster, share)| format!("{} are copied to {cluster}", of_hundred(*share))),
    );
    lines
}

fn way(way: &Way) -> String {
    match way {
        Way::Tunnel(tunnel) | Way::Neighbour(tunnel) => {
            format!("mutual TLS to {}, where {} must answer", tunnel.address, tunnel.identities.join(" or "))
        }
        Way::Direct { address } => format!("clear text to {address}, which is not in the mesh"),
        Way::Passthrough { address } => format!("clear text to {address}"),
        Way::Waypoint { waypoint, .. } => format!("waypoint {}/{}", waypoint.namespace, waypoint.name),
        Way::Gateway { tunnel, .. } => format!("the gateway at {}", tunnel.address),
        Way::Resolve { hostname, port } => format!("the address of {hostname}, port {port}"),
        Way::Refused(refused) => refused.message.clone(),
    }
}

fn of_hundred(share: u32) -> String {
    if share == MILLION {
        "all requests".to_owned()
    } else {
        format!("{} of requests", percent(share.into(), MILLION.into()))
    }
}

/// A share in percent, as short as it is exact to two places.
fn percent(share: u64, total: u64) -> String {
    let hundredths = (share * 10_000).checked_div(total).unwrap_or_default();
    let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

fn time(milliseconds: u64) -> String {
    format!("{:?}", Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_no_node_is_not_said_to_be_on_one() {
        let party = |node: &str| Party {
            namespace: "shop".into(),
            name: "stat".into(),
            node: node.into(),
            identity: String::new(),
        };
        assert_eq!(at(&party("")), "shop/stat");
        assert_eq!(at(&party("node-1")), "shop/stat on node-1");
    }
}
