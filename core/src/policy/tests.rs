//! A policy with anything malformed is rejected as a whole: leaving the entry out would change whom it covers.

use fairway_proto::{
    security::{self as proto, Match},
    workload,
};

use super::{Policy, RejectedPolicy, Scope};
use crate::testing::{account, block, exact, policy, policy_message};

fn message(entry: Match) -> proto::Authorization {
    policy_message("p", proto::Scope::Namespace, proto::Action::Deny, vec![Match::default(), entry])
}

#[test]
fn a_malformed_entry_rejects_the_policy_and_names_the_field() {
    let bytes = |address: Vec<u8>, length| proto::Address { address, length };
    for (entry, field) in [
        (
            Match { source_ips: vec![block("10.0.0.0/8"), bytes(vec![10, 0], 8)], ..Match::default() },
            "source_ips[1].address",
        ),
        (Match { not_source_ips: vec![bytes(vec![10, 0, 0, 0], 33)], ..Match::default() }, "not_source_ips[0].length"),
        (Match { destination_ips: vec![bytes(vec![0; 16], 129)], ..Match::default() }, "destination_ips[0].length"),
        (Match { not_destination_ips: vec![bytes(vec![], 0)], ..Match::default() }, "not_destination_ips[0].address"),
        (Match { destination_ports: vec![80, 65_616], ..Match::default() }, "destination_ports[1]"),
        (Match { not_destination_ports: vec![0], ..Match::default() }, "not_destination_ports[0]"),
        (Match { principals: vec![exact("a"), Default::default()], ..Match::default() }, "principals[1].match_type"),
        (Match { not_namespaces: vec![Default::default()], ..Match::default() }, "not_namespaces[0].match_type"),
        (Match { service_accounts: vec![account("", "a")], ..Match::default() }, "service_accounts[0].namespace"),
        (
            Match { not_service_accounts: vec![account("a", "")], ..Match::default() },
            "not_service_accounts[0].serviceAccount",
        ),
        (
            Match { extensions: vec![workload::Extension { name: "x".into(), config: None }], ..Match::default() },
            "extensions[0]",
        ),
    ] {
        let rejected = Policy::try_from(message(entry)).unwrap_err();
        let expected = format!("policy \"shop/p\": field `rules[0].clauses[0].matches[1].{field}`");
        assert!(rejected.to_string().starts_with(&expected), "{field}: {rejected}");
        assert_eq!((rejected.key.as_str(), rejected.scope), ("shop/p", Some(Scope::Namespace)));
    }
}

#[test]
fn head_fields_are_checked() {
    fn spoil(change: impl FnOnce(&mut proto::Authorization)) -> RejectedPolicy {
        let mut message = message(Match::default());
        change(&mut message);
        *Policy::try_from(message).unwrap_err()
    }
    for (rejected, field, scope) in [
        (spoil(|message| message.name.clear()), "name", Some(Scope::Namespace)),
        (spoil(|message| message.name = "a/b".into()), "name", Some(Scope::Namespace)),
        (spoil(|message| message.namespace.clear()), "namespace", Some(Scope::Namespace)),
        (spoil(|message| message.scope = 3), "scope", None),
        (spoil(|message| message.action = 2), "action", Some(Scope::Namespace)),
    ] {
        assert!(rejected.to_string().contains(&format!("field `{field}`")), "{field}: {rejected}");
        assert_eq!(rejected.scope, scope, "{field}");
    }
    assert!(spoil(|message| (message.action, message.dry_run) = (2, true)).dry_run);
}

#[test]
fn what_cannot_be_decoded_is_known_by_its_name() {
    let error = std::io::Error::other("bad varint");
    let rejected = RejectedPolicy::undecodable("shop/p".parse().unwrap(), &error);
    assert_eq!(rejected.to_string(), "policy \"shop/p\": field `(message)` cannot be decoded: bad varint");
    assert_eq!(rejected.scope, None);
}

#[test]
fn extensions_of_the_policy_itself_do_not_matter() {
    let mut message = message(Match::default());
    message.extensions.push(workload::Extension { name: "x".into(), config: None });
    assert_eq!(policy(message).key.as_str(), "shop/p");
}
