//! What belongs in a captured pod's namespace, as data.
//!
//! Traffic is redirected to the node proxy's listeners inside the pod. The proxy's own sockets carry [`PROXY_MARK`]
//! and pass; connections it makes to the application with the client's address are remembered by [`RETURN_MARK`], so
//! that the replies find the proxy again through routing table [`RETURN_TABLE`]. Everything lives in tables of our
//! own and is removed with them.

pub mod iptables;
mod render;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub use render::{filling, removal};

/// Mark of the packets the proxy's own sockets send.
pub const PROXY_MARK: u32 = 0x539;
/// Mark of connections the proxy opened to the application, and of the replies on them.
pub const RETURN_MARK: u32 = 0x111;
/// The bits of a packet's mark that are ours.
pub const MARK_MASK: u32 = 0xfff;
/// Priority of the policy rule that sends marked replies to [`RETURN_TABLE`].
pub const RETURN_PRIORITY: u32 = 32764;
/// Routing table that delivers everything locally.
pub const RETURN_TABLE: u32 = 100;
/// Where outgoing connections go.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where incoming connections in clear text go.
pub const INBOUND_PORT: u16 = 15006;
/// Where tunnels arrive; never redirected.
pub const TUNNEL_PORT: u16 = 15008;
/// Where DNS queries go.
pub const DNS_PORT: u16 = 15053;
/// Mark of connections that were open before the pod was captured, and go on without the proxy for a while.
pub const SPARED_MARK: u32 = 0x222;
/// Connection tracking zone of the proxy's own DNS queries, so that they do not collide with the redirected ones.
pub const DNS_ZONE: u16 = 1;
/// Longest interface name: `IFNAMSIZ` without its terminator, in bytes.
const MAX_INTERFACE_NAME: usize = 15;

/// How one pod is captured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capture {
    /// Capture IPv6 too.
    pub ipv6: bool,
    /// Capture DNS queries.
    pub dns: bool,
    /// Capture incoming clear text.
    pub inbound: bool,
    /// Interfaces whose traffic counts as outbound.
    pub virtual_interfaces: BTreeSet<InterfaceName>,
    /// What the node may reach without the mesh.
    pub probes: Probes,
    /// What becomes of connections that were open when the pod came in, or are when it leaves.
    pub phase: Phase,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            ipv6: true,
            dns: false,
            inbound: true,
            virtual_interfaces: BTreeSet::new(),
            probes: Probes::default(),
            phase: Phase::default(),
        }
    }
}

/// The kubelet's probes: from addresses of the node, with which they really come, to the ports the pod declares for
/// them. Nothing else from the node passes the proxy by. Both must be there for a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probes {
    /// Addresses of the node towards the pod.
    pub sources: BTreeSet<IpAddr>,
    /// Ports that are probed.
    pub ports: BTreeSet<u16>,
}

/// How far a pod has come in or out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Connections that were open before go on as they are, and are remembered by [`SPARED_MARK`].
    #[default]
    Joining,
    /// Those that still are open are cut, and so is whatever else has not begun under these rules.
    Settled,
    /// New connections are left alone; what the proxy carries goes on.
    Leaving,
}

/// A name that is safe to write into a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

/// Why a text is not the name of an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an interface name: use 1 to 15 letters, digits, '.', '-' and '_'")]
pub struct InterfaceNameError(String);

impl InterfaceName {
    /// Takes `name` if it is one.
    ///
    /// # Errors
    /// When it is empty, too long, or has characters that need quoting.
    pub fn parse(name: &str) -> Result<Self, InterfaceNameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > MAX_INTERFACE_NAME || !name.bytes().all(allowed) {
            return Err(InterfaceNameError(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One of our tables; each serves both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableName {
    /// Redirections.
    Nat,
    /// Marks.
    Mangle,
    /// Connection tracking zones; only with DNS capture.
    Raw,
    /// Ends spared connections; only once the pod has settled.
    Filter,
}

impl TableName {
    /// All our tables.
    pub const ALL: [Self; 4] = [Self::Nat, Self::Mangle, Self::Raw, Self::Filter];

    /// The table's name in the kernel.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "fairway-nat",
            Self::Mangle => "fairway-mangle",
            Self::Raw => "fairway-raw",
            Self::Filter => "fairway-filter",
        }
    }
}

/// Where a chain sits in a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Packets that arrive.
    Prerouting,
    /// Packets for processes of the pod.
    Input,
    /// Packets that processes of the pod send.
    Output,
}

/// What a chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainType {
    /// Rewrite addresses.
    Nat,
    /// Inspect and mark.
    Filter,
    /// Mark, and route again when the mark changed.
    Route,
}

/// A chain on a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its hook, which also names it.
    pub hook: Hook,
    /// Its type.
    pub chain_type: ChainType,
    /// Its place among the chains of the hook; lower runs first.
    pub priority: i32,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// A table with its chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which one.
    pub name: TableName,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// Matches and what happens to packets that match; every rule also counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// What happens then.
    pub action: Action,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// One condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Of this family.
    Family(Family),
    /// TCP.
    Tcp,
    /// From this address.
    From(IpAddr),
    /// The first packet of a connection that is seen, be it in its middle.
    Unseen,
    /// Came in through something else than loopback.
    NotFromLoopback,
    /// Not to the loopback address of the family.
    NotToLoopback(Family),
    /// Came in through this interface.
    FromInterface(InterfaceName),
    /// Leaves through loopback.
    ViaLoopback,
    /// Leaves through something else than loopback.
    NotViaLoopback,
    /// A TCP packet that does not open a connection.
    TcpAlreadyOpen,
    /// A TCP packet that does not reset a connection.
    TcpNotReset,
    /// To this TCP port.
    TcpTo(u16),
    /// To any other TCP port.
    TcpNotTo(u16),
    /// To this UDP port.
    UdpTo(u16),
    /// From this UDP port.
    UdpFrom(u16),
    /// Has this mark.
    Mark(u32),
    /// Does not have this mark.
    NotMark(u32),
    /// Belongs to a connection with this mark.
    ConnectionMark(u32),
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Goes on as it is.
    Accept,
    /// Leaves the chain.
    Return,
    /// Goes to this port of the pod itself.
    Redirect(u16),
    /// Its connection gets [`RETURN_MARK`].
    MarkConnection,
    /// It gets its connection's mark.
    RestoreMark,
    /// Is tracked in [`DNS_ZONE`].
    DnsZone,
    /// Its connection gets [`SPARED_MARK`].
    MarkSpared,
    /// Is refused, and its connection ends.
    Reset,
}

/// The tables that capture a pod like `capture` says, in the order of interoperability notes §6.2 and §6.3.
#[must_use]
pub fn tables(capture: &Capture) -> Vec<Table> {
    let families: &[Family] = if capture.ipv6 { &[Family::V4, Family::V6] } else { &[Family::V4] };
    let mut tables = vec![nat(capture, families), mangle()];
    if capture.dns {
        tables.push(raw());
    }
    if capture.phase == Phase::Settled {
        tables.push(filter());
    }
    tables
}

fn rule(matches: Vec<Match>, action: Action) -> Rule {
    Rule { matches, action }
}

fn nat(capture: &Capture, families: &[Family]) -> Table {
    let chain = |hook, rules| Chain { hook, chain_type: ChainType::Nat, priority: -100, rules };
    let chains = vec![
        chain(Hook::Prerouting, nat_prerouting(capture, families)),
        chain(Hook::Output, nat_output(capture, families)),
    ];
    Table { name: TableName::Nat, chains }
}

/// Connections that were open before the pod was captured go on as they are.
///
/// Connection tracking begins with these tables and takes such a connection for a new one at its next packet. To
/// redirect it then would break it, as the proxy has never seen its beginning.
fn spare_open_connections() -> Rule {
    rule(vec![Match::TcpAlreadyOpen], Action::Accept)
}

fn nat_prerouting(capture: &Capture, families: &[Family]) -> Vec<Rule> {
    let mut rules = vec![spare_open_connections()];
    if capture.phase == Phase::Leaving {
        return rules;
    }
    for interface in &capture.virtual_interfaces {
        let from = Match::FromInterface(interface.clone());
        rules.push(rule(vec![from.clone(), Match::Tcp], Action::Redirect(OUTBOUND_PORT)));
        rules.push(rule(vec![from], Action::Return));
    }
    if capture.inbound {
        rules.extend(families.iter().flat_map(|family| probe_rules(&capture.probes, *family)));
        for family in families {
            let matches = vec![Match::NotToLoopback(*family), Match::TcpNotTo(TUNNEL_PORT), Match::NotMark(PROXY_MARK)];
            rules.push(rule(matches, Action::Redirect(INBOUND_PORT)));
        }
    }
    rules
}

/// Probes reach the application with the address they come from; there is nothing to rewrite on the node.
///
/// A rule for each pair, of which there are few: a set would be one more kind of object to read back and to copy.
fn probe_rules(probes: &Probes, family: Family) -> impl Iterator<Item = Rule> + '_ {
    let sources = probes.sources.iter().filter(move |address| Family::of(**address) == family);
    sources.flat_map(|source| {
        probes.ports.iter().map(|port| rule(vec![Match::From(*source), Match::TcpTo(*port)], Action::Accept))
    })
}

fn nat_output(capture: &Capture, families: &[Family]) -> Vec<Rule> {
    let mut rules = vec![spare_open_connections()];
    if capture.phase == Phase::Leaving {
        return rules;
    }
    if capture.dns {
        for family in families {
            let query =
                vec![Match::Family(*family), Match::NotViaLoopback, Match::UdpTo(53), Match::NotMark(PROXY_MARK)];
            rules.push(rule(query, Action::Redirect(DNS_PORT)));
            let query = vec![Match::NotToLoopback(*family), Match::TcpTo(53), Match::NotMark(PROXY_MARK)];
            rules.push(rule(query, Action::Redirect(DNS_PORT)));
        }
    }
    rules.push(rule(vec![Match::Tcp, Match::Mark(RETURN_MARK)], Action::Accept));
    for family in families {
        rules.push(rule(vec![Match::ViaLoopback, Match::NotToLoopback(*family)], Action::Accept));
    }
    for family in families {
        let matches = vec![Match::NotToLoopback(*family), Match::Tcp, Match::NotMark(PROXY_MARK)];
        rules.push(rule(matches, Action::Redirect(OUTBOUND_PORT)));
    }
    rules
}

/// Loopback is nobody's business: its connections are not ours to mark or to cut.
fn mangle() -> Table {
    let spared =
        |way| rule(vec![way, Match::TcpAlreadyOpen, Match::Unseen, Match::NotMark(PROXY_MARK)], Action::MarkSpared);
    let prerouting = Chain {
        hook: Hook::Prerouting,
        chain_type: ChainType::Filter,
        priority: -150,
        rules: vec![rule(vec![Match::Mark(PROXY_MARK)], Action::MarkConnection), spared(Match::NotFromLoopback)],
    };
    let output = Chain {
        hook: Hook::Output,
        chain_type: ChainType::Route,
        priority: -150,
        rules: vec![rule(vec![Match::ConnectionMark(RETURN_MARK)], Action::RestoreMark), spared(Match::NotViaLoopback)],
    };
    Table { name: TableName::Mangle, chains: vec![prerouting, output] }
}

fn filter() -> Table {
    let chain = |hook| Chain {
        hook,
        chain_type: ChainType::Filter,
        priority: 0,
        // The reset itself belongs to the connection, and has to reach this pod's own end of it too.
        rules: vec![rule(vec![Match::TcpNotReset, Match::ConnectionMark(SPARED_MARK)], Action::Reset)],
    };
    Table { name: TableName::Filter, chains: vec![chain(Hook::Input), chain(Hook::Output)] }
}

fn raw() -> Table {
    let chain = |hook, rules| Chain { hook, chain_type: ChainType::Filter, priority: -300, rules };
    let answers = rule(vec![Match::UdpFrom(53), Match::NotMark(PROXY_MARK)], Action::DnsZone);
    let queries = rule(vec![Match::UdpTo(53), Match::Mark(PROXY_MARK)], Action::DnsZone);
    let chains = vec![chain(Hook::Prerouting, vec![answers]), chain(Hook::Output, vec![queries])];
    Table { name: TableName::Raw, chains }
}

#[cfg(test)]
mod tests;
