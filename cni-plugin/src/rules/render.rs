//! Rules as the text `nft -f` reads: one file is one transaction.

use std::fmt::Write;
use std::net::IpAddr;

use super::{
    Action, Chain, ChainType, DNS_ZONE, Family, Hook, MARK_MASK, Match, RETURN_MARK, Rule, SPARED_MARK, Table,
    TableName,
};

/// The script that makes our tables exactly `tables`, whatever they held before.
///
/// Each table is declared, so that deleting it cannot fail, deleted and filled again. Flushing alone would keep
/// chains that somebody else added. All of it takes effect at once: no packet sees a half-written table.
#[must_use]
pub fn filling(tables: &[Table]) -> String {
    let mut script = removal();
    for table in tables {
        let _ = writeln!(script, "table inet {} {{", table.name.as_str());
        for chain in &table.chains {
            write_chain(&mut script, chain);
        }
        script.push_str("}\n");
    }
    script
}

/// The script that removes our tables, present or not.
#[must_use]
pub fn removal() -> String {
    let mut script = String::new();
    for name in TableName::ALL.map(TableName::as_str) {
        let _ = writeln!(script, "table inet {name}\ndelete table inet {name}");
    }
    script
}

fn write_chain(script: &mut String, chain: &Chain) {
    let hook = match chain.hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Output => "output",
    };
    let chain_type = match chain.chain_type {
        ChainType::Nat => "nat",
        ChainType::Filter => "filter",
        ChainType::Route => "route",
    };
    let _ = writeln!(script, "\tchain {hook} {{");
    let _ = writeln!(script, "\t\ttype {chain_type} hook {hook} priority {}; policy accept;", chain.priority);
    for rule in &chain.rules {
        let _ = writeln!(script, "\t\t{}", rule_text(rule));
    }
    script.push_str("\t}\n");
}

fn rule_text(rule: &Rule) -> String {
    let mut words: Vec<String> = rule.matches.iter().map(match_text).collect();
    words.push("counter".to_owned());
    words.push(action_text(rule.action));
    words.join(" ")
}

fn match_text(condition: &Match) -> String {
    match condition {
        Match::Family(Family::V4) => "meta nfproto ipv4".to_owned(),
        Match::Family(Family::V6) => "meta nfproto ipv6".to_owned(),
        Match::Tcp => "meta l4proto tcp".to_owned(),
        Match::From(address @ IpAddr::V4(_)) => format!("ip saddr {address}"),
        Match::From(address @ IpAddr::V6(_)) => format!("ip6 saddr {address}"),
        Match::Unseen => "ct state new".to_owned(),
        Match::NotFromLoopback => "iifname != \"lo\"".to_owned(),
        Match::NotToLoopback(Family::V4) => "ip daddr != 127.0.0.1".to_owned(),
        Match::NotToLoopback(Family::V6) => "ip6 daddr != ::1".to_owned(),
        Match::FromInterface(name) => format!("iifname \"{}\"", name.as_str()),
        Match::ViaLoopback => "oifname \"lo\"".to_owned(),
        Match::NotViaLoopback => "oifname != \"lo\"".to_owned(),
        Match::TcpAlreadyOpen => "tcp flags & (fin | syn | rst | ack) != syn".to_owned(),
        Match::TcpNotReset => "tcp flags & rst != rst".to_owned(),
        Match::TcpTo(port) => format!("tcp dport {port}"),
        Match::TcpNotTo(port) => format!("tcp dport != {port}"),
        Match::UdpTo(port) => format!("udp dport {port}"),
        Match::UdpFrom(port) => format!("udp sport {port}"),
        Match::Mark(mark) => format!("meta mark & {MARK_MASK:#x} == {mark:#x}"),
        Match::NotMark(mark) => format!("meta mark & {MARK_MASK:#x} != {mark:#x}"),
        Match::ConnectionMark(mark) => format!("ct mark & {MARK_MASK:#x} == {mark:#x}"),
    }
}

fn action_text(action: Action) -> String {
    match action {
        Action::Accept => "accept".to_owned(),
        Action::Return => "return".to_owned(),
        Action::Redirect(port) => format!("redirect to :{port}"),
        Action::MarkConnection => format!("ct mark set ct mark & {:#x} | {RETURN_MARK:#x}", !MARK_MASK),
        Action::MarkSpared => format!("ct mark set ct mark & {:#x} | {SPARED_MARK:#x}", !MARK_MASK),
        Action::Reset => "reject with tcp reset".to_owned(),
        Action::RestoreMark => "meta mark set ct mark".to_owned(),
        Action::DnsZone => format!("ct zone set {DNS_ZONE}"),
    }
}
