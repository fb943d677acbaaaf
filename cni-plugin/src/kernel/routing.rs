//! The policy rule and the table that bring replies back to the proxy, written and read back over rtnetlink(7).
//!
//! Everything here works on the network namespace of the calling thread.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use crate::rules::{MARK_MASK, RETURN_MARK, RETURN_PRIORITY, RETURN_TABLE};

/// Index of the loopback interface: the first of every namespace.
const LOOPBACK: u32 = 1;
/// Longest datagram the kernel sends in answer to a dump.
const BUFFER: usize = 32 * 1024;

/// Both families, as the kernel numbers them.
pub(super) const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// What is there of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Present {
    /// Nothing.
    Nothing,
    /// Exactly one rule and one route, as wanted.
    AsWanted,
    /// Something else.
    Other,
}

/// A connection to the kernel of this thread's namespace.
pub(super) struct Routing {
    socket: Socket,
    sequence: u32,
}

impl Routing {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Brings loopback up, as a fresh namespace does not have it.
    pub(super) fn raise_loopback(&mut self) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = LOOPBACK;
        (link.header.flags, link.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Looks at rules of our priority and routes of our table; a kernel without the family has none.
    pub(super) fn inspect(&mut self, family: AddressFamily) -> io::Result<Present> {
        Ok(self.look(family)?.present())
    }

    /// Makes exactly the wanted rule and route be there.
    pub(super) fn write(&mut self, family: AddressFamily) -> io::Result<()> {
        let found = self.look(family)?;
        if found.present() == Present::AsWanted {
            return Ok(());
        }
        self.clear(found)?;
        // The route first: without a rule nobody asks for it.
        self.ask(RouteNetlinkMessage::NewRoute(our_route(family)), NLM_F_CREATE | NLM_F_REPLACE)?;
        self.ask(RouteNetlinkMessage::NewRule(our_rule(family)), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes every rule of our priority and every route of our table.
    pub(super) fn remove(&mut self, family: AddressFamily) -> io::Result<()> {
        let found = self.look(family)?;
        self.clear(found)
    }

    fn clear(&mut self, found: Found) -> io::Result<()> {
        for rule in found.rules {
            self.delete(RouteNetlinkMessage::DelRule(rule))?;
        }
        for route in found.routes {
            self.delete(RouteNetlinkMessage::DelRoute(route))?;
        }
        Ok(())
    }

    fn look(&mut self, family: AddressFamily) -> io::Result<Found> {
        Ok(Found { rules: self.rules(family)?, routes: self.routes(family)? })
    }

    fn delete(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        match self.ask(message, 0) {
            // Somebody else was faster.
            Err(error) if is(&error, &[Errno::ENOENT, Errno::ESRCH]) => Ok(()),
            result => result,
        }
    }

    fn rules(&mut self, family: AddressFamily) -> io::Result<Vec<RuleMessage>> {
        let mut message = RuleMessage::default();
        message.header.family = family;
        let answers = self.dump(RouteNetlinkMessage::GetRule(message))?;
        let rules = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRule(rule) => Some(rule),
            _ => None,
        });
        // A kernel without the family answers for all of them.
        Ok(rules
            .filter(|rule| {
                rule.header.family == family && rule.attributes.contains(&RuleAttribute::Priority(RETURN_PRIORITY))
            })
            .collect())
    }

    fn routes(&mut self, family: AddressFamily) -> io::Result<Vec<RouteMessage>> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let answers = self.dump(RouteNetlinkMessage::GetRoute(message))?;
        let routes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        });
        Ok(routes
            .filter(|route| {
                route.header.address_family == family && route.attributes.contains(&RouteAttribute::Table(RETURN_TABLE))
            })
            .collect())
    }

    /// Sends a request that changes something, and waits for the kernel's word.
    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive().map(drop)
    }

    fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        match self.receive() {
            Err(error) if is(&error, &[Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT]) => Ok(Vec::new()),
            result => result,
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        (header.flags, header.sequence_number) = (flags, self.sequence);
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Reads until the kernel says that it is done, or what is wrong.
    fn receive(&mut self) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut messages = Vec::new();
        loop {
            let mut datagram = Vec::with_capacity(BUFFER);
            self.socket.recv(&mut datagram, 0)?;
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let packet = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = usize::try_from(packet.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                if packet.header.sequence_number != self.sequence {
                    continue;
                }
                match packet.payload {
                    NetlinkPayload::Done(_) => return Ok(messages),
                    NetlinkPayload::Error(error) => match error.code {
                        // An acknowledgement.
                        None => return Ok(messages),
                        Some(_) => return Err(error.to_io()),
                    },
                    NetlinkPayload::InnerMessage(message) => messages.push(message),
                    _ => {}
                }
            }
        }
    }
}

/// Rules of our priority and routes of our table.
struct Found {
    rules: Vec<RuleMessage>,
    routes: Vec<RouteMessage>,
}

impl Found {
    fn present(&self) -> Present {
        let Self { rules, routes } = self;
        if rules.is_empty() && routes.is_empty() {
            return Present::Nothing;
        }
        let wanted = rules.len() == 1 && routes.len() == 1;
        let wanted = wanted && rules.iter().all(is_our_rule) && routes.iter().all(is_our_route);
        if wanted { Present::AsWanted } else { Present::Other }
    }
}

fn is(error: &io::Error, kinds: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|raw| kinds.contains(&Errno::from_raw(raw)))
}

fn our_rule(family: AddressFamily) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family;
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::Priority(RETURN_PRIORITY),
        RuleAttribute::FwMark(RETURN_MARK),
        RuleAttribute::FwMask(MARK_MASK),
        RuleAttribute::Table(RETURN_TABLE),
    ];
    rule
}

fn is_our_rule(rule: &RuleMessage) -> bool {
    let of_traffic = |attribute: &RuleAttribute| {
        matches!(
            attribute,
            RuleAttribute::Source(_)
                | RuleAttribute::Destination(_)
                | RuleAttribute::Iifname(_)
                | RuleAttribute::Oifname(_)
                | RuleAttribute::UidRange(_)
                | RuleAttribute::IpProtocol(_)
                | RuleAttribute::SourcePortRange(_)
                | RuleAttribute::DestinationPortRange(_)
        )
    };
    rule.header.action == RuleAction::ToTable
        && !rule.header.flags.contains(RuleFlags::Invert)
        && our_rule(rule.header.family).attributes.iter().all(|wanted| rule.attributes.contains(wanted))
        && !rule.attributes.iter().any(of_traffic)
}

fn our_route(family: AddressFamily) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.kind = RouteType::Local;
    route.header.scope = RouteScope::Host;
    route.header.protocol = RouteProtocol::Boot;
    route.attributes = vec![RouteAttribute::Table(RETURN_TABLE), RouteAttribute::Oif(LOOPBACK)];
    route
}

fn is_our_route(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Local
        && route.header.destination_prefix_length == 0
        && route.attributes.contains(&RouteAttribute::Oif(LOOPBACK))
}
