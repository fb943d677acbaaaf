//! A policy as the file writes it: rules of clauses of matches, each a list in the other.

use fairway_proto::security as proto;
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::service::bytes;

/// The fields of `/config_dump`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Entry {
    name: String,
    namespace: String,
    scope: Scope,
    action: Action,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    rules: Vec<Vec<Vec<Match>>>,
}

#[derive(Debug, Deserialize)]
enum Scope {
    Global,
    Namespace,
    WorkloadSelector,
}

#[derive(Debug, Deserialize)]
enum Action {
    Allow,
    Deny,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
struct Match {
    namespaces: Vec<Text>,
    not_namespaces: Vec<Text>,
    principals: Vec<Text>,
    not_principals: Vec<Text>,
    source_ips: Vec<IpNet>,
    not_source_ips: Vec<IpNet>,
    destination_ips: Vec<IpNet>,
    not_destination_ips: Vec<IpNet>,
    destination_ports: Vec<u16>,
    not_destination_ports: Vec<u16>,
    service_accounts: Vec<ServiceAccount>,
    not_service_accounts: Vec<ServiceAccount>,
}

#[derive(Debug, Deserialize)]
enum Text {
    Exact(String),
    Prefix(String),
    Suffix(String),
    /// Written as `Presence: []`.
    Presence(IgnoredAny),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceAccount {
    namespace: String,
    service_account: String,
}

impl Entry {
    pub(super) fn into_message(self) -> proto::Authorization {
        let clause = |matches: Vec<Match>| proto::Clause { matches: matches.into_iter().map(Into::into).collect() };
        let rule = |clauses: Vec<Vec<Match>>| proto::Rule { clauses: clauses.into_iter().map(clause).collect() };
        proto::Authorization {
            name: self.name,
            namespace: self.namespace,
            scope: match self.scope {
                Scope::Global => proto::Scope::Global,
                Scope::Namespace => proto::Scope::Namespace,
                Scope::WorkloadSelector => proto::Scope::WorkloadSelector,
            }
            .into(),
            action: match self.action {
                Action::Allow => proto::Action::Allow,
                Action::Deny => proto::Action::Deny,
            }
            .into(),
            rules: self.rules.into_iter().map(rule).collect(),
            dry_run: self.dry_run,
            extensions: Vec::new(),
        }
    }
}

impl From<Match> for proto::Match {
    fn from(entry: Match) -> Self {
        let texts = |texts: Vec<Text>| texts.into_iter().map(Into::into).collect();
        let blocks = |blocks: Vec<IpNet>| blocks.into_iter().map(block).collect();
        let ports = |ports: Vec<u16>| ports.into_iter().map(u32::from).collect();
        let accounts = |accounts: Vec<ServiceAccount>| accounts.into_iter().map(Into::into).collect();
        Self {
            namespaces: texts(entry.namespaces),
            not_namespaces: texts(entry.not_namespaces),
            principals: texts(entry.principals),
            not_principals: texts(entry.not_principals),
            source_ips: blocks(entry.source_ips),
            not_source_ips: blocks(entry.not_source_ips),
            destination_ips: blocks(entry.destination_ips),
            not_destination_ips: blocks(entry.not_destination_ips),
            destination_ports: ports(entry.destination_ports),
            not_destination_ports: ports(entry.not_destination_ports),
            service_accounts: accounts(entry.service_accounts),
            not_service_accounts: accounts(entry.not_service_accounts),
            extensions: Vec::new(),
        }
    }
}

impl From<Text> for proto::StringMatch {
    fn from(text: Text) -> Self {
        use proto::string_match::MatchType;

        Self {
            match_type: Some(match text {
                Text::Exact(text) => MatchType::Exact(text),
                Text::Prefix(text) => MatchType::Prefix(text),
                Text::Suffix(text) => MatchType::Suffix(text),
                Text::Presence(_) => MatchType::Presence(()),
            }),
        }
    }
}

impl From<ServiceAccount> for proto::ServiceAccountMatch {
    fn from(account: ServiceAccount) -> Self {
        Self { namespace: account.namespace, service_account: account.service_account }
    }
}

fn block(block: IpNet) -> proto::Address {
    proto::Address { address: bytes(block.addr()), length: block.prefix_len().into() }
}
