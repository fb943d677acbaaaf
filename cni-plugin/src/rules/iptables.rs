//! Rules as the text `iptables-restore --noflush` reads, for nodes without nftables: one block a table, each a transaction.
//!
//! The same rules in the same order. They live in chains of our own, which a jump in each built-in chain leads to.

use std::fmt::Write;

use super::{
    Action, Chain, DNS_ZONE, Family, Hook, MARK_MASK, Match, RETURN_MARK, Rule, SPARED_MARK, Table, TableName,
};

/// What the names of all our chains begin with.
pub const PREFIX: &str = "FAIRWAY_";

/// The script that makes our chains exactly those of `tables`, given what `iptables-save` prints of this family.
#[must_use]
pub fn filling(tables: &[Table], family: Family, present: &str) -> String {
    let mut script = String::new();
    for name in TableName::ALL {
        let table = tables.iter().find(|table| table.name == name);
        let (jumps, chains) = ours(present, name);
        if table.is_none() && chains.is_empty() {
            continue;
        }
        let _ = writeln!(script, "*{}", kernel_table(name));
        let wanted: Vec<&Chain> = table.iter().flat_map(|table| &table.chains).collect();
        for chain in &wanted {
            // Makes it, and empties it when it is there.
            let _ = writeln!(script, ":{} - [0:0]", chain_name(chain.hook));
        }
        let is_wanted = |present: &&str| wanted.iter().any(|chain| chain_name(chain.hook) == *present);
        let unwanted: Vec<&str> = chains.into_iter().filter(|present| !is_wanted(present)).collect();
        remove(&mut script, &jumps, &unwanted);
        for chain in &wanted {
            let own = chain_name(chain.hook);
            for text in chain.rules.iter().filter_map(|rule| rule_text(rule, family)) {
                let _ = writeln!(script, "-A {own} {text}");
            }
            let _ = writeln!(script, "-A {} -j {own}", built_in(chain.hook));
        }
        script.push_str("COMMIT\n");
    }
    script
}

/// The script that removes all of ours, given what `iptables-save` prints; empty when there is nothing.
#[must_use]
pub fn removal(present: &str) -> String {
    let mut script = String::new();
    for name in TableName::ALL {
        let (jumps, chains) = ours(present, name);
        if !chains.is_empty() || !jumps.is_empty() {
            let _ = writeln!(script, "*{}", kernel_table(name));
            remove(&mut script, &jumps, &chains);
            script.push_str("COMMIT\n");
        }
    }
    script
}

/// The lines of `iptables-save` that are about our chains, under their tables and without counters.
#[must_use]
pub fn listing(present: &str) -> String {
    let mut listing = String::new();
    let mut table = "";
    for line in present.lines() {
        if line.starts_with('*') {
            table = line;
        }
        if line.contains(PREFIX) {
            let text = line.split(" [").next().unwrap_or_default();
            let _ = writeln!(listing, "{table} {text}");
        }
    }
    listing
}

fn remove(script: &mut String, jumps: &[&str], chains: &[&str]) {
    for jump in jumps {
        let _ = writeln!(script, "-D {jump}");
    }
    // Emptied first: one may lead to another.
    for (verb, chain) in chains.iter().map(|chain| ("-F", chain)).chain(chains.iter().map(|chain| ("-X", chain))) {
        let _ = writeln!(script, "{verb} {chain}");
    }
}

/// Jumps to our chains from others, without their `-A`, and the names of our chains, in one table.
fn ours(present: &str, name: TableName) -> (Vec<&str>, Vec<&str>) {
    let header = format!("*{}", kernel_table(name));
    let lines = present.lines().skip_while(|line| *line != header).skip(1).take_while(|line| *line != "COMMIT");
    let (mut jumps, mut chains) = (Vec::new(), Vec::new());
    for line in lines {
        if let Some(chain) = line.strip_prefix(':').filter(|chain| chain.starts_with(PREFIX)) {
            chains.push(chain.split(' ').next().unwrap_or_default());
        } else if let Some(rule) = line.strip_prefix("-A ").filter(|rule| is_jump(rule)) {
            jumps.push(rule);
        }
    }
    (jumps, chains)
}

/// A rule of somebody else's chain that leads to one of ours.
fn is_jump(rule: &str) -> bool {
    !rule.starts_with(PREFIX) && rule.contains(PREFIX)
}

fn kernel_table(name: TableName) -> &'static str {
    match name {
        TableName::Nat => "nat",
        TableName::Mangle => "mangle",
        TableName::Raw => "raw",
        TableName::Filter => "filter",
    }
}

fn built_in(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "PREROUTING",
        Hook::Input => "INPUT",
        Hook::Output => "OUTPUT",
    }
}

fn chain_name(hook: Hook) -> String {
    format!("{PREFIX}{}", built_in(hook))
}

/// A rule in `family`; nothing when it is about the other one.
fn rule_text(rule: &Rule, family: Family) -> Option<String> {
    let mut words = Vec::new();
    let protocol = rule.matches.iter().find_map(protocol);
    if let Some(protocol) = protocol {
        words.push(format!("-p {protocol}"));
    }
    for condition in &rule.matches {
        match condition {
            Match::Family(other) | Match::NotToLoopback(other) if *other != family => return None,
            Match::From(address) if Family::of(*address) != family => return None,
            Match::Family(_) | Match::Tcp => {}
            Match::From(address) => words.push(format!("-s {address}")),
            Match::Unseen => words.push("-m conntrack --ctstate NEW".to_owned()),
            Match::NotFromLoopback => words.push("! -i lo".to_owned()),
            Match::NotToLoopback(Family::V4) => words.push("! -d 127.0.0.1/32".to_owned()),
            Match::NotToLoopback(Family::V6) => words.push("! -d ::1/128".to_owned()),
            Match::FromInterface(name) => words.push(format!("-i {}", name.as_str())),
            Match::ViaLoopback => words.push("-o lo".to_owned()),
            Match::NotViaLoopback => words.push("! -o lo".to_owned()),
            Match::TcpAlreadyOpen => words.push("-m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN".to_owned()),
            Match::TcpNotReset => words.push("-m tcp ! --tcp-flags RST RST".to_owned()),
            Match::TcpTo(port) | Match::UdpTo(port) => words.push(format!("--dport {port}")),
            Match::TcpNotTo(port) => words.push(format!("! --dport {port}")),
            Match::UdpFrom(port) => words.push(format!("--sport {port}")),
            Match::Mark(mark) => words.push(format!("-m mark --mark {mark:#x}/{MARK_MASK:#x}")),
            Match::NotMark(mark) => words.push(format!("-m mark ! --mark {mark:#x}/{MARK_MASK:#x}")),
            Match::ConnectionMark(mark) => words.push(format!("-m connmark --mark {mark:#x}/{MARK_MASK:#x}")),
        }
    }
    words.push(action_text(rule.action));
    Some(words.join(" "))
}

fn protocol(condition: &Match) -> Option<&'static str> {
    match condition {
        Match::Tcp | Match::TcpAlreadyOpen | Match::TcpNotReset | Match::TcpTo(_) | Match::TcpNotTo(_) => Some("tcp"),
        Match::UdpTo(_) | Match::UdpFrom(_) => Some("udp"),
        _ => None,
    }
}

fn action_text(action: Action) -> String {
    match action {
        Action::Accept => "-j ACCEPT".to_owned(),
        Action::Return => "-j RETURN".to_owned(),
        Action::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Action::MarkConnection => format!("-j CONNMARK --set-xmark {RETURN_MARK:#x}/{MARK_MASK:#x}"),
        Action::MarkSpared => format!("-j CONNMARK --set-xmark {SPARED_MARK:#x}/{MARK_MASK:#x}"),
        Action::RestoreMark => "-j CONNMARK --restore-mark".to_owned(),
        Action::DnsZone => format!("-j CT --zone {DNS_ZONE}"),
        Action::Reset => "-j REJECT --reject-with tcp-reset".to_owned(),
    }
}
