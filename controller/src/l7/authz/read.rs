//! AuthorizationPolicies with targets, read (api-surface A2). What they say of connections is checked where node proxies'
//! policies are; here only what is said of requests can be wrong.

use fairway_core::source::istio::{Action, AuthorizationPolicy, Condition, Operation, Source, TargetReference};
use fairway_core::source::{Kind, ObjectKey};

use super::{Check, Pattern, Place, Policy, Rule, Shown, Verdict, What, Who};
use crate::l7::rules::text;
use crate::translate::Fault;
use crate::translate::policy::{is_dry_run, values};

/// Targets of one policy, as the CRD says (api-surface A1).
const MAXIMUM_TARGETS: usize = 16;
/// The claims that make a request principal.
const ISSUER: &str = "iss";
const SUBJECT: &str = "sub";

/// Reads a policy. What is wrong with it is added to `faults`, what is enforced in another way than it says to `warnings`.
pub(crate) fn read(
    policy: &AuthorizationPolicy,
    root: &str,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<Fault>,
) -> Policy {
    let spec = &policy.spec;
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let verdict = match spec.action {
        Action::Allow => Verdict::Allow,
        Action::Custom => Verdict::Custom(spec.provider.clone().unwrap_or_default().name),
        Action::Deny => Verdict::Deny,
        Action::Audit => Verdict::Audit,
    };
    let places = places(spec.target_ref.as_ref(), &spec.target_refs, namespace, root, faults);
    let rules = spec.rules.iter().enumerate().map(|(index, rule)| {
        let field = format!("spec.rules[{index}]");
        let mut reader = Reader { namespace, faults, unknown: Vec::new() };
        let sources = rule.from.iter().enumerate().map(|(place, from)| {
            let source = from.source.clone().unwrap_or_default();
            reader.source(&source, &format!("{field}.from[{place}].source"))
        });
        let mut who = any_of(sources.collect());
        let operations = rule.to.iter().enumerate().map(|(place, to)| {
            let operation = to.operation.clone().unwrap_or_default();
            reader.operation(&operation, &format!("{field}.to[{place}].operation"))
        });
        let mut what = any_of(operations.collect());
        for (place, condition) in rule.when.iter().enumerate() {
            let field = format!("{field}.when[{place}]");
            match condition.key.as_str() {
                "destination.ip" => what.extend(reader.both(condition, &field, destination)),
                "destination.port" => what.extend(reader.both(condition, &field, port)),
                "connection.sni" => what.extend(reader.both(condition, &field, server_name)),
                _ => who.extend(reader.condition(condition, &field)),
            }
        }
        let then = match &verdict {
            Verdict::Allow => "allows nothing",
            Verdict::Custom(_) => "asks about whatever the rest of it matches",
            Verdict::Deny => "refuses whatever the rest of it matches",
            Verdict::Audit => "tells of whatever the rest of it matches",
        };
        warnings.extend(
            reader
                .unknown
                .into_iter()
                .map(|unknown| Fault { field: unknown, message: format!("waypoints cannot tell, so {field} {then}") }),
        );
        Rule { index, who: Check::All(who), what: Check::All(what) }
    });
    let rules = rules.collect();
    Policy {
        name: format!("{namespace}/{}", policy.metadata.name.as_deref().unwrap_or_default()),
        places,
        verdict,
        is_tried: is_dry_run(policy),
        rules,
    }
}

/// What the targets of a policy in `namespace` stand for.
pub(crate) fn places(
    single: Option<&TargetReference>,
    several: &[TargetReference],
    namespace: &str,
    root: &str,
    faults: &mut Vec<Fault>,
) -> Vec<Place> {
    if several.len() > MAXIMUM_TARGETS {
        let message = format!("has {} entries; at most {MAXIMUM_TARGETS} are allowed", several.len());
        faults.push(Fault { field: "spec.targetRefs".to_owned(), message });
    }
    let single = single.map(|target| ("spec.targetRef".to_owned(), target));
    let several = several.iter().enumerate().map(|(index, it)| (format!("spec.targetRefs[{index}]"), it));
    let places = single.into_iter().chain(several).filter_map(|(field, target)| match place(target, namespace, root) {
        Ok(place) => Some(place),
        Err(message) => {
            faults.push(Fault { field, message });
            None
        }
    });
    places.collect()
}

/// What a target of a policy in `namespace` stands for.
pub(crate) fn place(target: &TargetReference, namespace: &str, root: &str) -> Result<Place, String> {
    if target.namespace.as_deref().is_some_and(|other| !other.is_empty() && other != namespace) {
        return Err("must be in the namespace of the policy".to_owned());
    }
    if target.name.is_empty() {
        return Err("has no name".to_owned());
    }
    let object = |kind| Ok(Place::Object(ObjectKey::new(kind, namespace, &target.name)));
    match (target.group.as_str(), target.kind.as_str()) {
        ("" | "core", "Service") => object(Kind::Service),
        ("networking.istio.io", "ServiceEntry") => object(Kind::ServiceEntry),
        ("gateway.networking.k8s.io", "Gateway") => object(Kind::Gateway),
        ("gateway.networking.k8s.io", "GatewayClass") if namespace == root => Ok(Place::Class(target.name.clone())),
        ("gateway.networking.k8s.io", "GatewayClass") => {
            Err(format!("a GatewayClass can be a target of policies in {root} only"))
        }
        (group, kind) => Err(format!(
            "{kind} of group {group:?} cannot be a target; name a Service, ServiceEntry, Gateway or GatewayClass"
        )),
    }
}

/// Any of several; nothing where there are none, which is no restriction.
fn any_of<T>(checks: Vec<Check<T>>) -> Vec<Check<T>> {
    if checks.is_empty() { Vec::new() } else { vec![Check::Any(checks)] }
}

struct Reader<'a> {
    namespace: &'a str,
    faults: &'a mut Vec<Fault>,
    /// Fields that no waypoint can check.
    unknown: Vec<String>,
}

/// What a text comes to, if it can be read.
type Parsed<T> = Result<Check<T>, String>;

impl Reader<'_> {
    fn source(&mut self, source: &Source, field: &str) -> Check<Who> {
        let namespace = self.namespace.to_owned();
        let account = |text: &str| service_account(text, &namespace);
        let at = |name: &str| format!("{field}.{name}");
        let pairs = [
            self.pair(&source.principals, &source.not_principals, &at("principals"), &at("notPrincipals"), principal),
            self.pair(
                &source.namespaces,
                &source.not_namespaces,
                &at("namespaces"),
                &at("notNamespaces"),
                of_namespace,
            ),
            self.pair(
                &source.service_accounts,
                &source.not_service_accounts,
                &at("serviceAccounts"),
                &at("notServiceAccounts"),
                account,
            ),
            self.pair(
                &source.trust_domains,
                &source.not_trust_domains,
                &at("trustDomains"),
                &at("notTrustDomains"),
                trust_domain,
            ),
            self.pair(&source.ip_blocks, &source.not_ip_blocks, &at("ipBlocks"), &at("notIpBlocks"), block),
            self.pair(
                &source.remote_ip_blocks,
                &source.not_remote_ip_blocks,
                &at("remoteIpBlocks"),
                &at("notRemoteIpBlocks"),
                remote,
            ),
            self.pair(
                &source.request_principals,
                &source.not_request_principals,
                &at("requestPrincipals"),
                &at("notRequestPrincipals"),
                request_principal,
            ),
        ];
        Check::All(pairs.into_iter().flatten().collect())
    }

    fn operation(&mut self, operation: &Operation, field: &str) -> Check<What> {
        let at = |name: &str| format!("{field}.{name}");
        let method = |text: &str| string(text).map(|it| Check::Is(What::Header(":method".to_owned(), it)));
        let pairs = [
            self.pair(&operation.hosts, &operation.not_hosts, &at("hosts"), &at("notHosts"), host),
            self.pair(&operation.methods, &operation.not_methods, &at("methods"), &at("notMethods"), method),
            self.pair(&operation.paths, &operation.not_paths, &at("paths"), &at("notPaths"), |text| {
                path(text).map(|it| Check::Is(What::Path(it)))
            }),
            self.pair(&operation.ports, &operation.not_ports, &at("ports"), &at("notPorts"), port),
        ];
        Check::All(pairs.into_iter().flatten().collect())
    }

    fn condition(&mut self, condition: &Condition, field: &str) -> Vec<Check<Who>> {
        let namespace = self.namespace.to_owned();
        let account = |text: &str| service_account(text, &namespace);
        let claim =
            |path: Vec<String>| move |text: &str| string(text).map(|it| Check::Is(Who::Claim(path.clone(), it)));
        let key = condition.key.as_str();
        match key {
            "source.ip" => self.both(condition, field, block),
            "remote.ip" => self.both(condition, field, remote),
            "source.namespace" => self.both(condition, field, of_namespace),
            "source.principal" => self.both(condition, field, principal),
            "source.trustDomain" => self.both(condition, field, trust_domain),
            "source.serviceAccount" => self.both(condition, field, account),
            "request.auth.principal" => self.both(condition, field, request_principal),
            "request.auth.audiences" => self.both(condition, field, claim(vec!["aud".to_owned()])),
            "request.auth.presenter" => self.both(condition, field, claim(vec!["azp".to_owned()])),
            _ => {
                if let Some(name) = key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']')) {
                    let name = name.to_ascii_lowercase();
                    if !text::is_header_name(&name) {
                        let message = format!("{name:?} is no name of a header");
                        self.faults.push(Fault { field: format!("{field}.key"), message });
                    }
                    self.both(condition, field, |text| string(text).map(|it| Check::Is(Who::Header(name.clone(), it))))
                } else if let Some(path) = claim_path(key) {
                    self.both(condition, field, claim(path))
                } else {
                    self.unknown.push(format!("{field}.key"));
                    vec![Check::Unknown]
                }
            }
        }
    }

    fn both<T: Shown>(
        &mut self,
        condition: &Condition,
        field: &str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Vec<Check<T>> {
        let (yes, no) = (format!("{field}.values"), format!("{field}.notValues"));
        self.pair(&condition.values, &condition.not_values, &yes, &no, parse)
    }

    /// A field and its negation.
    fn pair<T: Shown>(
        &mut self,
        yes: &[String],
        no: &[String],
        field: &str,
        not_field: &str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Vec<Check<T>> {
        let mut checks = any_of(self.each(yes, field, &parse));
        let excluded = any_of(self.each(no, not_field, &parse));
        checks.extend(excluded.into_iter().map(|excluded| Check::Not(Box::new(excluded))));
        checks
    }

    fn each<T: Shown>(&mut self, list: &[String], field: &str, parse: impl Fn(&str) -> Parsed<T>) -> Vec<Check<T>> {
        let mut checks = Vec::with_capacity(list.len());
        for (index, text) in list.iter().enumerate() {
            match parse(text) {
                Ok(check) => {
                    if check == Check::Unknown && self.unknown.last().is_none_or(|last| last != field) {
                        self.unknown.push(field.to_owned());
                    }
                    checks.push(check);
                }
                Err(message) => {
                    let field = format!("{field}[{index}]");
                    // What is said of connections is read by others, too.
                    if !self.faults.iter().any(|fault| fault.field == field) {
                        self.faults.push(Fault { field, message });
                    }
                }
            }
        }
        checks
    }
}

/// Names in brackets, one after the other.
fn claim_path(key: &str) -> Option<Vec<String>> {
    let inner = key.strip_prefix("request.auth.claims[")?.strip_suffix(']')?;
    let names: Vec<String> = inner.split("][").map(str::to_owned).collect();
    names.iter().all(|name| !name.is_empty() && !name.contains(['[', ']'])).then_some(names)
}

/// `x` exact, `x*` prefix, `*x` suffix, `*` anything that is not empty.
fn string(text: &str) -> Result<Pattern, String> {
    if !text::is_clean(text) {
        return Err("has characters that no request has".to_owned());
    }
    let parts = values::string(text)?.match_type;
    Ok(match parts {
        Some(values::MatchType::Exact(text)) => Pattern::Exact(text),
        Some(values::MatchType::Prefix(text)) => Pattern::Prefix(text),
        Some(values::MatchType::Suffix(text)) => Pattern::Suffix(text),
        Some(values::MatchType::Presence(())) | None => Pattern::Regex(".+".to_owned()),
    })
}

fn port(text: &str) -> Parsed<What> {
    values::port(text).map(|port| Check::Is(What::Port(u16::try_from(port).unwrap_or_default())))
}

fn block(text: &str) -> Parsed<Who> {
    values::network(text).map(|block| Check::Is(Who::Source(block)))
}

fn remote(text: &str) -> Parsed<Who> {
    values::network(text).map(|block| Check::Is(Who::Remote(block)))
}

/// Names of DNS have no case (RFC 4343), and proxies know them in lower case, without the dot of the root (RFC 1034 §3.1).
fn server_name(text: &str) -> Parsed<What> {
    let lower = text.to_ascii_lowercase();
    // Whatever ends with the dot alone is not whatever there is.
    let name = lower.strip_suffix('.').filter(|name| *name != "*").unwrap_or(&lower);
    string(name).map(|name| Check::Is(What::ServerName(name)))
}

fn destination(text: &str) -> Parsed<What> {
    values::network(text).map(|block| Check::Is(What::Destination(block)))
}

/// Peers are known by their whole SPIFFE ID, policies leave out the scheme.
fn peer(pattern: Pattern) -> Check<Who> {
    Check::Is(Who::Peer(match pattern {
        Pattern::Exact(text) => Pattern::Exact(format!("spiffe://{text}")),
        Pattern::Prefix(text) => Pattern::Prefix(format!("spiffe://{text}")),
        // What it ends with is of the principal, not of the scheme before it.
        Pattern::Suffix(text) => Pattern::Regex(format!("spiffe://.*{}", regex_syntax::escape(&text))),
        other @ Pattern::Regex(_) => other,
    }))
}

fn principal(text: &str) -> Parsed<Who> {
    values::principal(text)?;
    string(text).map(peer)
}

fn trust_domain(text: &str) -> Parsed<Who> {
    values::trust_domain(text)?;
    Ok(peer(match string(text)? {
        Pattern::Exact(name) => Pattern::Prefix(format!("{name}/")),
        other => other,
    }))
}

fn of_namespace(text: &str) -> Parsed<Who> {
    let part = inside(&string(text)?, "[^/]");
    Ok(Check::Is(Who::Peer(Pattern::Regex(format!("spiffe://[^/]+/ns/{part}/sa/.+")))))
}

fn service_account(text: &str, namespace: &str) -> Parsed<Who> {
    let account = values::service_account(text, namespace)?;
    let part = |text: &str| regex_syntax::escape(text);
    let (namespace, name) = (part(&account.namespace), part(&account.service_account));
    Ok(Check::Is(Who::Peer(Pattern::Regex(format!("spiffe://[^/]+/ns/{namespace}/sa/{name}")))))
}

/// A pattern as part of a regular expression, with this for each character that it leaves open.
fn inside(pattern: &Pattern, any: &str) -> String {
    match pattern {
        Pattern::Exact(text) => regex_syntax::escape(text),
        Pattern::Prefix(text) => format!("{}{any}*", regex_syntax::escape(text)),
        Pattern::Suffix(text) => format!("{any}*{}", regex_syntax::escape(text)),
        Pattern::Regex(_) => format!("{any}+"),
    }
}

/// A host is the same with any port, unless one is written, and in capitals.
fn host(text: &str) -> Parsed<What> {
    let pattern = string(text)?;
    let port = match &pattern {
        Pattern::Exact(host) | Pattern::Suffix(host) if !host.contains(':') => "(:[0-9]+)?",
        _ => "",
    };
    let host = inside(&pattern, ".");
    Ok(Check::Is(What::Header(":authority".to_owned(), Pattern::Regex(format!("(?i){host}{port}")))))
}

/// A path, also one with `{*}` for one of its elements and `{**}` for what follows.
fn path(text: &str) -> Result<Pattern, String> {
    if !text.contains(['{', '}']) {
        return string(text);
    }
    let wrong = || {
        format!(
            "{text:?} is no template: it begins with /, its elements are texts or {{*}}, and its last may be {{**}}"
        )
    };
    if !text::is_path(text) {
        return Err(wrong());
    }
    let elements: Vec<&str> = text.split('/').skip(1).collect();
    let last = elements.len().saturating_sub(1);
    let mut pattern = String::new();
    for (place, element) in elements.into_iter().enumerate() {
        pattern.push('/');
        match element {
            "{*}" => pattern.push_str("[^/]+"),
            "{**}" if place == last => pattern.push_str(".*"),
            element if !element.contains(['*', '{', '}']) => pattern.push_str(&regex_syntax::escape(element)),
            _ => return Err(wrong()),
        }
    }
    Ok(Pattern::Regex(pattern))
}

/// Issuer and subject of a token, which come apart: each way is checked in which the text may be both.
fn request_principal(text: &str) -> Parsed<Who> {
    let claim = |name: &str, pattern| Check::Is(Who::Claim(vec![name.to_owned()], pattern));
    let some = || Pattern::Regex(".+".to_owned());
    let pattern = string(text)?;
    Ok(match &pattern {
        Pattern::Regex(_) => Check::All(vec![claim(ISSUER, some()), claim(SUBJECT, some())]),
        Pattern::Exact(text) => {
            let both = parted(text).filter(|(issuer, subject)| !issuer.is_empty() && !subject.is_empty());
            let ways: Vec<_> = both
                .map(|(issuer, subject)| {
                    Check::All(vec![claim(ISSUER, Pattern::Exact(issuer)), claim(SUBJECT, Pattern::Exact(subject))])
                })
                .collect();
            if ways.is_empty() {
                return Err(format!("{text:?} must be written as <issuer>/<subject>"));
            }
            Check::Any(ways)
        }
        Pattern::Prefix(text) => Check::Any(
            // All of it is the beginning of the issuer, or it ends within the subject.
            std::iter::once(Check::All(vec![claim(ISSUER, Pattern::Prefix(text.clone())), claim(SUBJECT, some())]))
                .chain(parted(text).filter(|(issuer, _)| !issuer.is_empty()).map(|(issuer, subject)| {
                    let subject = if subject.is_empty() { some() } else { Pattern::Prefix(subject) };
                    Check::All(vec![claim(ISSUER, Pattern::Exact(issuer)), claim(SUBJECT, subject)])
                }))
                .collect(),
        ),
        Pattern::Suffix(text) => Check::Any(
            std::iter::once(Check::All(vec![claim(ISSUER, some()), claim(SUBJECT, Pattern::Suffix(text.clone()))]))
                .chain(parted(text).filter(|(_, subject)| !subject.is_empty()).map(|(issuer, subject)| {
                    let issuer = if issuer.is_empty() { some() } else { Pattern::Suffix(issuer) };
                    Check::All(vec![claim(ISSUER, issuer), claim(SUBJECT, Pattern::Exact(subject))])
                }))
                .collect(),
        ),
    })
}

/// Issuers and subjects that may be written so, with a slash between them.
fn parted(text: &str) -> impl Iterator<Item = (String, String)> {
    text.match_indices('/').map(|(place, slash)| (text[..place].to_owned(), text[place + slash.len()..].to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(text: &str) -> Pattern {
        Pattern::Regex(text.to_owned())
    }

    #[test]
    fn paths() {
        for (text, expected) in [
            ("/a", Some(Pattern::Exact("/a".to_owned()))),
            ("/a*", Some(Pattern::Prefix("/a".to_owned()))),
            ("*.js", Some(Pattern::Suffix(".js".to_owned()))),
            ("/a/{*}/b.c", Some(regex("/a/[^/]+/b\\.c"))),
            ("/a/{**}", Some(regex("/a/.*"))),
            ("/{**}/a", None),
            ("/a{*}", None),
            ("/a/{id}", None),
            ("/{*}/b*", None),
            ("a/{*}", None),
            ("/a\n", None),
        ] {
            assert_eq!(path(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn hosts_are_the_same_with_and_without_a_port() {
        for (text, expected) in [
            ("A.b", "(?i)A\\.b(:[0-9]+)?"),
            ("a.b:80", "(?i)a\\.b:80"),
            ("*.b", "(?i).*\\.b(:[0-9]+)?"),
            ("a.*", "(?i)a\\..*"),
        ] {
            assert_eq!(host(text), Ok(Check::Is(What::Header(":authority".to_owned(), regex(expected)))), "{text:?}");
        }
    }

    #[test]
    fn peers() {
        let peer = |pattern| Ok(Check::Is(Who::Peer(pattern)));
        let rows = [
            (principal("td/ns/a/sa/b"), peer(Pattern::Exact("spiffe://td/ns/a/sa/b".to_owned()))),
            (principal("*/sa/b"), peer(regex("spiffe://.*/sa/b"))),
            (principal("*"), peer(regex(".+"))),
            (of_namespace("a.b"), peer(regex("spiffe://[^/]+/ns/a\\.b/sa/.+"))),
            (of_namespace("a*"), peer(regex("spiffe://[^/]+/ns/a[^/]*/sa/.+"))),
            (service_account("b", "a"), peer(regex("spiffe://[^/]+/ns/a/sa/b"))),
            (trust_domain("td"), peer(Pattern::Prefix("spiffe://td/".to_owned()))),
        ];
        for (found, expected) in rows {
            assert_eq!(found, expected);
        }
    }

    /// As the text with a slash between issuer and subject would be compared.
    #[test]
    fn request_principals_are_taken_apart() {
        fn holds(check: &Check<Who>, is: &dyn Fn(&str, &Pattern) -> bool) -> bool {
            match check {
                Check::All(parts) => parts.iter().all(|part| holds(part, is)),
                Check::Any(parts) => parts.iter().any(|part| holds(part, is)),
                Check::Is(Who::Claim(path, pattern)) => is(&path[0], pattern),
                other => panic!("{other:?}"),
            }
        }
        let matches = |pattern: &Pattern, text: &str| match pattern {
            Pattern::Exact(exact) => text == exact,
            Pattern::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Pattern::Suffix(suffix) => text.ends_with(suffix.as_str()),
            Pattern::Regex(some) => some == ".+" && !text.is_empty(),
        };
        let rows = [
            ("*", "https://a", "b", true),
            ("https://a/b", "https://a", "b", true),
            ("https://a/b", "https://a", "c", false),
            ("a/b", "a", "b", true),
            ("https://a/repo:b/c:d", "https://a", "repo:b/c:d", true),
            ("https://a/repo:b/c:d", "https://a/repo:b", "c:d", true),
            ("https://a/repo:b/c:d", "https://a", "c:d", false),
            ("https://a/repo:b/c:d", "https://a", "repo:b", false),
            ("https://a/b/c*", "https://a", "b/cd", true),
            ("*/b/c", "https://a", "b/c", true),
            ("https://a/*", "https://a", "b", true),
            ("https://a/*", "https://a/c", "b", true),
            ("https://a/*", "https://ab", "b", false),
            ("https://a*", "https://ab", "c", true),
            ("https://a*", "https://b", "a", false),
            ("https://a/b*", "https://a", "bc", true),
            ("https://a/b*", "https://a", "cb", false),
            ("https://a/b*", "https://a/bc", "d", true),
            ("*/b", "https://a", "b", true),
            ("*/b", "https://a", "c/b", true),
            ("*/b", "https://a", "cb", false),
            ("*b", "https://a", "cb", true),
            ("*b", "https://b", "c", false),
            ("*a/b", "https://a", "b", true),
            ("*a/b", "https://c", "b", false),
            ("*a/b", "https://c", "a/b", true),
            ("*a/b", "https://a", "cb", false),
        ];
        for (text, issuer, subject, expected) in rows {
            let check = request_principal(text).unwrap();
            let is = |claim: &str, pattern: &Pattern| matches(pattern, if claim == ISSUER { issuer } else { subject });
            assert_eq!(holds(&check, &is), expected, "{text} of {issuer} and {subject}");
            // Without a token there are no claims.
            assert!(!holds(&check, &|_, _| false), "{text}");
        }
        for text in ["a", "/a", "a/", "/"] {
            assert!(request_principal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_tls_have_no_case_and_no_dot_at_their_end() {
        for (text, expected) in [
            ("Web.Example", Pattern::Exact("web.example".to_owned())),
            ("*.Example", Pattern::Suffix(".example".to_owned())),
            ("Web.*", Pattern::Prefix("web.".to_owned())),
            ("*", regex(".+")),
            ("Web.Example.", Pattern::Exact("web.example".to_owned())),
            ("*.Example.", Pattern::Suffix(".example".to_owned())),
            ("*.", Pattern::Suffix(".".to_owned())),
        ] {
            assert_eq!(server_name(text), Ok(Check::Is(What::ServerName(expected))), "{text}");
        }
        assert!(server_name(".").is_err(), "the root is no server");
    }

    #[test]
    fn claims_may_nest() {
        assert_eq!(claim_path("request.auth.claims[a][b]"), Some(vec!["a".to_owned(), "b".to_owned()]));
        for key in ["request.auth.claims[]", "request.auth.claims[a", "request.auth.claims[a][]"] {
            assert_eq!(claim_path(key), None, "{key}");
        }
    }
}
