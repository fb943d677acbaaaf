//! Decides who may do what. A fact that is missing never widens access: it makes no ALLOW match, and every DENY that asks for it.

use fairway_core::reason::Reason;

use crate::config::{HeaderMatch, Listener, Permission, Policy, Principal, Rules, Text, Verdict};
use crate::facts::{Facts, Head, RequestedServerName};

/// A refusal, and what refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial<'a> {
    /// Why.
    pub reason: Reason,
    /// The rule that refuses; none where it is the lack of one.
    pub policy: Option<&'a str>,
}

/// Whether something holds; none where a fact is missing that would tell.
type Holds = Option<bool>;

/// Asks all sets of rules.
///
/// # Errors
/// The first that refuses.
pub fn judge<'a>(rules: &'a [Rules], facts: &Facts<'_>) -> Result<(), Denial<'a>> {
    rules.iter().try_for_each(|set| ask(set, facts).map(drop))
}

/// Asks one set of rules: which of them lets it pass, where it takes one.
///
/// # Errors
/// When it refuses.
pub fn ask<'a>(set: &'a Rules, facts: &Facts<'_>) -> Result<Option<&'a Policy>, Denial<'a>> {
    let matching = |wanted: fn(Holds) -> bool| set.policies.iter().find(|policy| wanted(applies(policy, facts)));
    match set.verdict {
        Verdict::Deny => match matching(|holds| holds != Some(false)) {
            Some(policy) => Err(Denial { reason: Reason::PolicyDenied, policy: Some(&policy.name) }),
            None => Ok(None),
        },
        Verdict::Allow => match matching(|holds| holds == Some(true)) {
            Some(policy) => Ok(Some(policy)),
            None => Err(Denial { reason: Reason::PolicyNotAllowed, policy: None }),
        },
    }
}

/// Whether a connection may be, of which nothing but the name that a TLS client asks for is known; none where nobody may. What
/// somebody would have to be asked about is refused: there is no request to ask about.
#[must_use]
pub fn judge_connection<'a>(listener: &'a Listener, facts: &Facts<'_>) -> Option<Result<(), Denial<'a>>> {
    match listener {
        Listener::Http(http) => {
            if let Some(chain) = &http.otherwise {
                return Some(judge(&chain.policies, facts));
            }
            let mut custom = http.custom.iter().map(|custom| judge(std::slice::from_ref(&custom.rules), facts));
            Some(custom.find(Result::is_err).unwrap_or_else(|| judge(&http.policies, facts)))
        }
        Listener::Opaque(opaque) => opaque.chain(facts.server_name.known()).map(|chain| judge(&chain.policies, facts)),
    }
}

/// Names of all rules that apply as their verdict asks for it: for sure where they allow, perhaps where they refuse.
pub fn all_matching<'a>(rules: &'a Rules, facts: &Facts<'_>) -> impl Iterator<Item = &'a str> {
    let applies = move |policy: &&Policy| match (rules.verdict, applies(policy, facts)) {
        (Verdict::Allow, holds) => holds == Some(true),
        (Verdict::Deny, holds) => holds != Some(false),
    };
    rules.policies.iter().filter(applies).map(|policy| policy.name.as_str())
}

/// Whether a rule lets this pass, as opposed to no rule refusing it.
#[must_use]
pub fn is_allowed(sets: &[Rules], facts: &Facts<'_>) -> bool {
    sets.iter().any(|set| set.verdict == Verdict::Allow && all_matching(set, facts).next().is_some())
}

/// Whether any rule is about this, or may be: a fact that is missing does not hide anything from who is to be asked.
#[must_use]
pub fn is_about(rules: &Rules, facts: &Facts<'_>) -> bool {
    rules.policies.iter().any(|policy| applies(policy, facts) != Some(false))
}

fn applies(policy: &Policy, facts: &Facts<'_>) -> Holds {
    let permitted = any(policy.permissions.iter().map(|permission| permission_holds(permission, facts)));
    and(permitted, || any(policy.principals.iter().map(|principal| principal_holds(principal, facts))))
}

fn permission_holds(permission: &Permission, facts: &Facts<'_>) -> Holds {
    match permission {
        Permission::Any => Some(true),
        Permission::All(inner) => every(inner.iter().map(|inner| permission_holds(inner, facts))),
        Permission::OneOf(inner) => any(inner.iter().map(|inner| permission_holds(inner, facts))),
        Permission::Not(inner) => permission_holds(inner, facts).map(|holds| !holds),
        Permission::Header(header) => header_holds(header, facts.request),
        // What a tunnel carries is not looked into: it may be for any path.
        Permission::Path(path) => Some(path.matches(facts.request?.path?)),
        Permission::Destination(block) => Some(block.contains(&facts.destination.ip().to_canonical())),
        Permission::Port(port) => Some(facts.destination.port() == *port),
        Permission::ServerName(name) => match facts.server_name {
            RequestedServerName::Unread => None,
            RequestedServerName::Absent => Some(false),
            RequestedServerName::Is(asked) => Some(name.matches(asked)),
        },
    }
}

fn principal_holds(principal: &Principal, facts: &Facts<'_>) -> Holds {
    match principal {
        Principal::Any => Some(true),
        Principal::All(inner) => every(inner.iter().map(|inner| principal_holds(inner, facts))),
        Principal::OneOf(inner) => any(inner.iter().map(|inner| principal_holds(inner, facts))),
        Principal::Not(inner) => principal_holds(inner, facts).map(|holds| !holds),
        Principal::Authenticated(name) => {
            Some(name.as_ref().is_none_or(|name: &Text| name.matches(facts.identity.as_str())))
        }
        Principal::Source(block) => Some(block.contains(&facts.source.to_canonical())),
        Principal::Remote(block) => facts.remote.map(|remote| block.contains(&remote.to_canonical())),
        Principal::Header(header) => header_holds(header, facts.request),
        Principal::Claim(path, value) => facts.request.map(|request| {
            let claim = request.claims.and_then(|claims| claims.at(path));
            claim.is_some_and(|claim| value.matches(claim))
        }),
    }
}

fn header_holds(header: &HeaderMatch, request: Option<Head<'_>>) -> Holds {
    request?.holds(header)
}

fn and(first: Holds, second: impl FnOnce() -> Holds) -> Holds {
    match first {
        Some(false) => Some(false),
        first => match (first, second()) {
            (_, Some(false)) => Some(false),
            (Some(true), second) => second,
            _ => None,
        },
    }
}

fn every(all: impl Iterator<Item = Holds>) -> Holds {
    // Not to stop at the first that cannot be told: a later one may tell.
    let mut so_far = Some(true);
    for next in all {
        so_far = and(so_far, || next);
        if so_far == Some(false) {
            break;
        }
    }
    so_far
}

fn any(all: impl Iterator<Item = Holds>) -> Holds {
    every(all.map(|holds| holds.map(|holds| !holds))).map(|none| !none)
}

#[cfg(test)]
mod tests {
    use fairway_core::ident::Identity;
    use http::HeaderMap;

    use super::*;
    use crate::config::{ClaimMatch, Header};
    use crate::tokens::Claims;

    fn set(verdict: Verdict, permission: Permission, principal: Principal) -> Rules {
        let policy = Policy { name: "shop/p/0".into(), permissions: vec![permission], principals: vec![principal] };
        Rules { verdict, policies: vec![policy] }
    }

    fn client(name: &str) -> Principal {
        Principal::Authenticated(Some(Text::Exact(format!("spiffe://cluster.local/ns/shop/sa/{name}"))))
    }

    fn path(prefix: &str) -> Permission {
        Permission::Path(Text::Prefix(prefix.into()))
    }

    fn method(name: &str) -> Permission {
        Permission::Header(HeaderMatch { name: Header::Method, value: Text::Exact(name.into()) })
    }

    fn group(name: &str) -> Principal {
        Principal::Claim(vec!["realm".into(), "group".into()], ClaimMatch::Text(Text::Exact(name.into())))
    }

    fn element(name: &str) -> Principal {
        let text = || ClaimMatch::Text(Text::Exact(name.into()));
        Principal::Claim(vec!["scope".into()], ClaimMatch::OneOf(vec![text(), ClaimMatch::Element(Box::new(text()))]))
    }

    /// Each row as a request `GET /admin/x` by `web` of group `admin` to port 80, and as a connection that nobody looks into.
    #[test]
    fn rules_hold_or_not_and_what_is_unknown_never_widens_access() {
        use Principal as P;
        use Verdict::{Allow, Deny};
        let not = |permission| Permission::Not(Box::new(permission));
        let rows = [
            ("deny path", set(Deny, path("/admin"), P::Any), false, false),
            ("deny other path", set(Deny, path("/public"), P::Any), true, false),
            ("deny all but path", set(Deny, not(path("/admin")), P::Any), true, false),
            ("deny path of another client", set(Deny, path("/admin"), client("other")), true, true),
            ("allow path", set(Allow, path("/admin"), P::Any), true, false),
            ("allow other path", set(Allow, path("/public"), P::Any), false, false),
            ("allow all but path", set(Allow, not(path("/public")), P::Any), true, false),
            ("allow client", set(Allow, Permission::Any, client("web")), true, true),
            ("allow another client", set(Allow, Permission::Any, client("other")), false, false),
            ("allow all but client", set(Allow, Permission::Any, P::Not(Box::new(client("web")))), false, false),
            ("allow method", set(Allow, method("GET"), P::Any), true, false),
            ("deny method", set(Deny, method("POST"), P::Any), true, false),
            ("allow port", set(Allow, Permission::Port(80), P::Any), true, true),
            ("deny other port", set(Deny, Permission::Port(81), P::Any), true, true),
            ("allow block", set(Allow, Permission::Any, P::Source("10.0.0.0/8".parse().unwrap())), true, true),
            ("deny block", set(Deny, Permission::Any, P::Source("10.0.0.0/8".parse().unwrap())), false, false),
            ("allow either", set(Allow, Permission::OneOf(vec![path("/x"), Permission::Port(80)]), P::Any), true, true),
            ("allow both", set(Allow, Permission::All(vec![path("/admin"), method("GET")]), P::Any), true, false),
            ("allow claim", set(Allow, Permission::Any, group("admin")), true, false),
            ("allow claim of another value", set(Allow, Permission::Any, group("guest")), false, false),
            ("allow element of a claim", set(Allow, Permission::Any, element("write")), true, false),
            ("deny element of a claim", set(Deny, Permission::Any, element("write")), false, false),
            ("deny without claim", set(Deny, Permission::Any, P::Not(Box::new(element("delete")))), false, false),
            ("allow nothing", Rules { verdict: Allow, policies: vec![] }, false, false),
            ("deny nothing", Rules { verdict: Deny, policies: vec![] }, true, true),
        ];
        let (identity, headers) = (Identity::new("cluster.local", "shop", "web").unwrap(), HeaderMap::new());
        let claims = serde_json::json!({"realm": {"group": "admin"}, "scope": ["read", "write"]});
        let claims = Claims::new(claims.as_object().unwrap().clone());
        let claims = Some(&claims);
        let head =
            Head { method: "GET", authority: "a", path: Some("/admin/x"), query: None, headers: &headers, claims };
        let connection = Facts::of(&identity, "::ffff:10.0.0.1".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
        let facts = |request| Facts { request, ..connection };
        for (name, rules, request, opaque) in rows {
            let rules = [rules];
            assert_eq!(judge(&rules, &facts(Some(head))).is_ok(), request, "{name}, request");
            assert_eq!(judge(&rules, &facts(None)).is_ok(), opaque, "{name}, opaque");
        }
    }

    /// What CONNECT opens carries what nobody looks into: a rule about paths holds for it where it refuses, and never where it allows.
    #[test]
    fn no_path_widens_nothing() {
        let path = || Permission::Path(Text::Prefix("/admin".into()));
        let not_path = || Permission::Not(Box::new(path()));
        let as_header = || Permission::Header(HeaderMatch { name: Header::Path, value: Text::Prefix("/admin".into()) });
        let authority =
            |host: &str| Permission::Header(HeaderMatch { name: Header::Authority, value: Text::Exact(host.into()) });
        let method = || Permission::Header(HeaderMatch { name: Header::Method, value: Text::Exact("CONNECT".into()) });
        let rows = [
            ("allow a path", Verdict::Allow, path(), false),
            ("allow all but a path", Verdict::Allow, not_path(), false),
            ("allow a path or the method", Verdict::Allow, Permission::OneOf(vec![path(), method()]), true),
            ("allow a path by its header", Verdict::Allow, as_header(), false),
            ("allow all but a path by its header", Verdict::Allow, Permission::Not(Box::new(as_header())), false),
            ("allow the method", Verdict::Allow, method(), true),
            ("allow the host", Verdict::Allow, authority("db.example:5432"), true),
            ("allow another host", Verdict::Allow, authority("db.example:22"), false),
            ("allow all", Verdict::Allow, Permission::Any, true),
            ("deny a path", Verdict::Deny, path(), false),
            ("deny all but a path", Verdict::Deny, not_path(), false),
            ("deny a path by its header", Verdict::Deny, as_header(), false),
            ("deny a path of another host", Verdict::Deny, Permission::All(vec![path(), authority("a")]), true),
            ("deny the host", Verdict::Deny, authority("db.example:5432"), false),
            ("deny another host", Verdict::Deny, authority("db.example:22"), true),
            ("deny the method", Verdict::Deny, method(), false),
        ];
        let (identity, headers) = (Identity::new("cluster.local", "shop", "web").unwrap(), HeaderMap::new());
        let authority = "db.example:5432";
        let head = Head { method: "CONNECT", authority, path: None, query: None, headers: &headers, claims: None };
        let facts = Facts::of(&identity, "10.0.0.1".parse().unwrap(), "10.96.0.1:3128".parse().unwrap());
        let facts = Facts { request: Some(head), ..facts };
        for (name, verdict, permission, expected) in rows {
            assert_eq!(judge(&[set(verdict, permission, Principal::Any)], &facts).is_ok(), expected, "{name}");
        }
    }

    /// Each row from 192.0.2.1, from an address that is known to nobody, with the name `a.example`, without any, and where nobody has
    /// looked for one.
    #[test]
    fn addresses_and_names_that_are_not_known_never_widen_access() {
        use Verdict::{Allow, Deny};
        let from = |verdict, block: &str, is_not: bool| {
            let remote = Principal::Remote(block.parse().unwrap());
            set(verdict, Permission::Any, if is_not { Principal::Not(Box::new(remote)) } else { remote })
        };
        let to = |verdict, name: Text, is_not: bool| {
            let name = Permission::ServerName(name);
            set(verdict, if is_not { Permission::Not(Box::new(name)) } else { name }, Principal::Any)
        };
        let (own, other) = ("192.0.2.0/24", "198.51.100.0/24");
        let exact = |name: &str| Text::Exact(name.into());
        let addresses = [
            ("allow", from(Allow, own, false), [true, false]),
            ("allow another", from(Allow, other, false), [false, false]),
            ("allow all but it", from(Allow, own, true), [false, false]),
            ("allow all but another", from(Allow, other, true), [true, false]),
            ("deny", from(Deny, own, false), [false, false]),
            ("deny another", from(Deny, other, false), [true, false]),
            ("deny all but it", from(Deny, own, true), [true, false]),
            ("deny all but another", from(Deny, other, true), [false, false]),
        ];
        let names = [
            ("allow", to(Allow, exact("a.example"), false), [true, false, false]),
            ("allow by its beginning", to(Allow, Text::Prefix("a.".into()), false), [true, false, false]),
            ("allow by its end", to(Allow, Text::Suffix(".example".into()), false), [true, false, false]),
            ("allow another", to(Allow, exact("b.example"), false), [false, false, false]),
            ("allow all but it", to(Allow, exact("a.example"), true), [false, true, false]),
            ("allow all but another", to(Allow, exact("b.example"), true), [true, true, false]),
            ("deny", to(Deny, exact("a.example"), false), [false, true, false]),
            ("deny another", to(Deny, exact("b.example"), false), [true, true, false]),
            ("deny all but it", to(Deny, exact("a.example"), true), [true, false, false]),
        ];
        let identity = Identity::new("cluster.local", "shop", "web").unwrap();
        let facts = Facts::of(&identity, "10.0.0.1".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
        for (name, rules, expected) in addresses {
            let found = [Some("::ffff:192.0.2.1".parse().unwrap()), None]
                .map(|remote| judge(std::slice::from_ref(&rules), &Facts { remote, ..facts }).is_ok());
            assert_eq!(found, expected, "{name}");
        }
        for (name, rules, expected) in names {
            let asked =
                [RequestedServerName::Is("a.example"), RequestedServerName::Absent, RequestedServerName::Unread];
            let found =
                asked.map(|server_name| judge(std::slice::from_ref(&rules), &Facts { server_name, ..facts }).is_ok());
            assert_eq!(found, expected, "{name}");
        }
    }

    /// One more line of a header hides none of the others, and makes up for none.
    #[test]
    fn every_line_of_a_header_counts_by_itself() {
        let role = |name: &str| {
            let name = HeaderMatch { name: Header::Named("x-role".parse().unwrap()), value: Text::Exact(name.into()) };
            Permission::Header(name)
        };
        let rows = [
            ("deny one of them", set(Verdict::Deny, role("guest"), Principal::Any), false),
            ("deny the other", set(Verdict::Deny, role("user"), Principal::Any), false),
            ("deny none of them", set(Verdict::Deny, role("admin"), Principal::Any), true),
            ("deny both as one", set(Verdict::Deny, role("user,guest"), Principal::Any), true),
            ("deny all but one", set(Verdict::Deny, Permission::Not(Box::new(role("user"))), Principal::Any), false),
            ("allow one of them", set(Verdict::Allow, role("guest"), Principal::Any), false),
            ("allow all but one", set(Verdict::Allow, Permission::Not(Box::new(role("guest"))), Principal::Any), false),
        ];
        let identity = Identity::new("cluster.local", "shop", "web").unwrap();
        let lines = ["user", "guest"].map(|value| ("x-role".parse().unwrap(), value.parse().unwrap()));
        let headers = HeaderMap::from_iter(lines);
        let head =
            Head { method: "GET", authority: "a", path: Some("/"), query: None, headers: &headers, claims: None };
        let facts = Facts::of(&identity, "10.0.0.1".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
        let facts = Facts { request: Some(head), ..facts };
        for (name, rules, expected) in rows {
            assert_eq!(judge(&[rules], &facts).is_ok(), expected, "{name}");
        }
    }

    #[test]
    fn all_sets_must_agree_and_the_one_that_refuses_is_named() {
        let identity = Identity::new("cluster.local", "shop", "web").unwrap();
        let facts = Facts::of(&identity, "10.0.0.1".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
        let allow = || set(Verdict::Allow, Permission::Any, Principal::Any);
        let deny = || set(Verdict::Deny, Permission::Port(80), Principal::Any);
        assert_eq!(judge(&[], &facts), Ok(()));
        assert_eq!(judge(&[allow()], &facts), Ok(()));
        let denied = Denial { reason: Reason::PolicyDenied, policy: Some("shop/p/0") };
        assert_eq!(judge(&[allow(), deny()], &facts), Err(denied));
        let nothing = Rules { verdict: Verdict::Allow, policies: vec![] };
        assert_eq!(judge(&[nothing], &facts), Err(Denial { reason: Reason::PolicyNotAllowed, policy: None }));
    }
}
