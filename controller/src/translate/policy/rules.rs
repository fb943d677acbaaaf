//! Rules of a policy, down to what a connection shows at layer 4.
//!
//! What needs a request to be looked at never widens access: an ALLOW rule that has such a part is left out, a DENY rule is
//! enforced without that part, which refuses more.

use fairway_core::source::istio::{Condition, Operation, Rule as Written, Source};
use fairway_proto::security::{Action, Clause, Match, Rule};

use super::values;
use crate::translate::Fault;

/// Entries of `from`, of `to` and of `when`, as the CRD says (api-surface A2.1).
const MAXIMUM_ENTRIES: usize = 512;
/// Service accounts of one source, as the CRD says (api-surface A2.1).
const MAXIMUM_SERVICE_ACCOUNTS: usize = 16;

/// Translates all rules, adding to `faults` what is wrong and to `warnings` what is enforced differently.
pub(super) fn rules(
    written: &[Written],
    namespace: &str,
    action: Action,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<Fault>,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (index, rule) in written.iter().enumerate() {
        let field = format!("spec.rules[{index}]");
        let mut reader = Reader { namespace, faults, unseen: Vec::new() };
        let clauses = reader.rule(rule, &field);
        let unseen = reader.unseen;
        if unseen.is_empty() {
            rules.push(complete(clauses));
            continue;
        }
        let remainder = match action {
            Action::Allow => "allows nothing",
            Action::Deny if clauses.is_empty() => "refuses all traffic",
            Action::Deny => "refuses whatever the rest of it matches",
        };
        warnings.extend(unseen.into_iter().map(|unseen| Fault {
            field: unseen,
            message: format!("node proxies do not look into requests, so {field} {remainder}"),
        }));
        if action == Action::Allow {
            continue;
        }
        rules.push(complete(clauses));
    }
    rules
}

/// A rule without clauses matches all traffic; that is said explicitly.
fn complete(clauses: Vec<Clause>) -> Rule {
    if clauses.is_empty() { super::match_everything() } else { Rule { clauses } }
}

struct Reader<'a> {
    namespace: &'a str,
    faults: &'a mut Vec<Fault>,
    /// Fields that cannot be checked at layer 4.
    unseen: Vec<String>,
}

impl Reader<'_> {
    fn rule(&mut self, rule: &Written, field: &str) -> Vec<Clause> {
        let mut clauses = Vec::new();
        self.check_count(rule.from.len(), &format!("{field}.from"));
        self.check_count(rule.to.len(), &format!("{field}.to"));
        self.check_count(rule.when.len(), &format!("{field}.when"));
        let sources = rule
            .from
            .iter()
            .enumerate()
            .map(|(index, from)| self.source(from.source.as_ref(), &format!("{field}.from[{index}].source")));
        clauses.extend(any_of(sources.collect()));
        let operations = rule
            .to
            .iter()
            .enumerate()
            .map(|(index, to)| self.operation(to.operation.as_ref(), &format!("{field}.to[{index}].operation")));
        clauses.extend(any_of(operations.collect()));
        for (index, condition) in rule.when.iter().enumerate() {
            clauses.extend(any_of(vec![self.condition(condition, &format!("{field}.when[{index}]"))]));
        }
        clauses
    }

    fn source(&mut self, source: Option<&Source>, field: &str) -> Match {
        let Some(source) = source.filter(|source| **source != Source::default()) else {
            // Proxies disagree on what an empty source matches, so it is not accepted.
            self.fault(field, "is empty; to match any source leave out from".to_owned());
            return Match::default();
        };
        let own = self.namespace.to_owned();
        for (name, list) in [
            ("requestPrincipals", &source.request_principals),
            ("notRequestPrincipals", &source.not_request_principals),
            ("remoteIpBlocks", &source.remote_ip_blocks),
            ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
        ] {
            self.unseen(name, list, field);
        }
        self.check_source(source, field);
        let mut found = Match {
            namespaces: self.each(&source.namespaces, field, "namespaces", values::string),
            not_namespaces: self.each(&source.not_namespaces, field, "notNamespaces", values::string),
            principals: self.each(&source.principals, field, "principals", values::principal),
            not_principals: self.each(&source.not_principals, field, "notPrincipals", values::principal),
            source_ips: self.each(&source.ip_blocks, field, "ipBlocks", values::block),
            not_source_ips: self.each(&source.not_ip_blocks, field, "notIpBlocks", values::block),
            service_accounts: self
                .each(&source.service_accounts, field, "serviceAccounts", |text| values::service_account(text, &own)),
            not_service_accounts: self.each(&source.not_service_accounts, field, "notServiceAccounts", |text| {
                values::service_account(text, &own)
            }),
            ..Match::default()
        };
        // A trust domain is the start of a principal. Positives of both kinds would be alternatives instead of both
        // required, which `check_source` refuses; negatives exclude each for itself.
        found.principals.extend(self.each(&source.trust_domains, field, "trustDomains", values::trust_domain));
        found.not_principals.extend(self.each(
            &source.not_trust_domains,
            field,
            "notTrustDomains",
            values::trust_domain,
        ));
        found
    }

    fn check_source(&mut self, source: &Source, field: &str) {
        if !source.principals.is_empty() && !source.trust_domains.is_empty() {
            self.fault(
                &format!("{field}.trustDomains"),
                "cannot be combined with principals, which name the trust domain already".to_owned(),
            );
        }
        let accounts =
            [("serviceAccounts", &source.service_accounts), ("notServiceAccounts", &source.not_service_accounts)];
        let others = [&source.principals, &source.not_principals, &source.namespaces, &source.not_namespaces];
        for (name, list) in accounts {
            if list.len() > MAXIMUM_SERVICE_ACCOUNTS {
                let message = format!("has {} entries; at most {MAXIMUM_SERVICE_ACCOUNTS} are allowed", list.len());
                self.fault(&format!("{field}.{name}"), message);
            }
            if !list.is_empty() && others.iter().any(|other| !other.is_empty()) {
                self.fault(
                    &format!("{field}.{name}"),
                    "cannot be combined with principals or namespaces; put them into a source of their own".to_owned(),
                );
            }
        }
    }

    fn operation(&mut self, operation: Option<&Operation>, field: &str) -> Match {
        let Some(operation) = operation.filter(|operation| **operation != Operation::default()) else {
            self.fault(field, "is empty; to match any operation leave out to".to_owned());
            return Match::default();
        };
        for (name, list) in [
            ("hosts", &operation.hosts),
            ("notHosts", &operation.not_hosts),
            ("methods", &operation.methods),
            ("notMethods", &operation.not_methods),
            ("paths", &operation.paths),
            ("notPaths", &operation.not_paths),
        ] {
            self.unseen(name, list, field);
        }
        Match {
            destination_ports: self.each(&operation.ports, field, "ports", values::port),
            not_destination_ports: self.each(&operation.not_ports, field, "notPorts", values::port),
            ..Match::default()
        }
    }

    fn condition(&mut self, condition: &Condition, field: &str) -> Match {
        let (yes, no) = (&condition.values, &condition.not_values);
        if yes.is_empty() && no.is_empty() {
            self.fault(field, "has neither values nor notValues".to_owned());
        }
        let own = self.namespace.to_owned();
        let account = |text: &str| values::service_account(text, &own);
        let mut found = Match::default();
        match condition.key.as_str() {
            "source.ip" => {
                (found.source_ips, found.not_source_ips) = self.both(condition, field, values::block);
            }
            "source.namespace" => {
                (found.namespaces, found.not_namespaces) = self.both(condition, field, values::string);
            }
            "source.principal" => {
                (found.principals, found.not_principals) = self.both(condition, field, values::principal);
            }
            "source.trustDomain" => {
                (found.principals, found.not_principals) = self.both(condition, field, values::trust_domain);
            }
            "source.serviceAccount" => {
                (found.service_accounts, found.not_service_accounts) = self.both(condition, field, account);
            }
            "destination.ip" => {
                (found.destination_ips, found.not_destination_ips) = self.both(condition, field, values::block);
            }
            "destination.port" => {
                (found.destination_ports, found.not_destination_ports) = self.both(condition, field, values::port);
            }
            key if needs_request(key) => self.unseen.push(format!("{field}.key")),
            key => {
                let message = format!("{key:?} is not a known condition; see the list of condition keys");
                self.fault(&format!("{field}.key"), message);
            }
        }
        found
    }

    fn both<T>(
        &mut self,
        condition: &Condition,
        field: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> (Vec<T>, Vec<T>) {
        (
            self.each(&condition.values, field, "values", &parse),
            self.each(&condition.not_values, field, "notValues", &parse),
        )
    }

    fn each<T>(
        &mut self,
        list: &[String],
        field: &str,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut parsed = Vec::with_capacity(list.len());
        for (index, text) in list.iter().enumerate() {
            match parse(text) {
                Ok(value) => parsed.push(value),
                Err(message) => self.fault(&format!("{field}.{name}[{index}]"), message),
            }
        }
        parsed
    }

    fn check_count(&mut self, count: usize, field: &str) {
        if count > MAXIMUM_ENTRIES {
            self.fault(field, format!("has {count} entries; at most {MAXIMUM_ENTRIES} are allowed"));
        }
    }

    fn unseen(&mut self, name: &str, list: &[String], field: &str) {
        for (index, text) in list.iter().enumerate() {
            if text.is_empty() {
                self.fault(&format!("{field}.{name}[{index}]"), "is empty".to_owned());
            }
        }
        if !list.is_empty() {
            self.unseen.push(format!("{field}.{name}"));
        }
    }

    fn fault(&mut self, field: &str, message: String) {
        self.faults.push(Fault { field: field.to_owned(), message });
    }
}

/// Any of the matches; nothing when one of them, or the absence of all, leaves no restriction.
fn any_of(matches: Vec<Match>) -> Option<Clause> {
    let restricts = !matches.is_empty() && matches.iter().all(|found| *found != Match::default());
    restricts.then_some(Clause { matches })
}

/// Condition keys of api-surface A2.2 that a connection at layer 4 does not answer.
fn needs_request(key: &str) -> bool {
    let indexed = |prefix: &str| {
        key.strip_prefix(prefix).is_some_and(|rest| rest.len() > 2 && rest.starts_with('[') && rest.ends_with(']'))
    };
    matches!(
        key,
        "remote.ip" | "connection.sni" | "request.auth.principal" | "request.auth.audiences" | "request.auth.presenter"
    ) || indexed("request.headers")
        || indexed("request.auth.claims")
        || key.starts_with("experimental.envoy.filters.")
}
