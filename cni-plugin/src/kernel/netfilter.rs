//! One conversation with nf_tables in the network namespace of the calling thread (netlink(7), and
//! `linux/netfilter/nf_tables.h` for the messages): ask what there is, and change it in one transaction.

use std::borrow::Cow;
use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::libc;

use super::attribute;

/// Longest datagram the kernel sends in answer to a dump.
const BUFFER: usize = 32 * 1024;
/// How often something is asked again when it changed while the kernel told it.
const MOST_ATTEMPTS: usize = 8;
/// Length of a message's header and of the one nf_tables adds, in bytes.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_BATCH_GENID`: the generation a batch goes by.
const BATCH_GENERATION: u16 = 1;
/// `NFT_MSG_GETGEN`, and the attribute of its answer, `NFTA_GEN_ID`.
const GET_GENERATION: u16 = 16;
const GENERATION: u16 = 1;

/// What is asked for, as the kernel numbers it; what makes it is one less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Get {
    Tables = 1,
    Chains = 4,
    Rules = 7,
}

/// What is done, as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Do {
    NewTable = 0,
    DeleteTable = 2,
    NewChain = 3,
    NewRule = 6,
}

/// One object as the kernel describes it, or as it is described to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Described {
    /// The address family, as netfilter numbers it.
    pub(super) family: u8,
    pub(super) attributes: Vec<u8>,
}

pub(super) struct Conversation {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Conversation {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER) })
    }

    /// All objects of one kind.
    pub(super) fn dump(&mut self, what: Get) -> io::Result<Vec<Described>> {
        for _ in 0..MOST_ATTEMPTS {
            if let Some(all) = self.try_dump(what)? {
                return Ok(all);
            }
        }
        Err(io::Error::other("they change faster than they can be read"))
    }

    /// Nothing when they changed meanwhile.
    fn try_dump(&mut self, what: Get) -> io::Result<Option<Vec<Described>>> {
        let mut request = Vec::new();
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
        put(&mut request, subsystem(what as u16), flags, 1, libc::AF_UNSPEC, 0, &[]);
        self.socket.send(&request, 0)?;
        let (mut all, mut is_consistent) = (Vec::new(), true);
        loop {
            self.receive()?;
            let mut rest = self.buffer.as_slice();
            while let Some(message) = Message::take(&mut rest) {
                is_consistent &= i32::from(message.flags) & libc::NLM_F_DUMP_INTR == 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(is_consistent.then_some(all)),
                    libc::NLMSG_ERROR => return Err(message.error().unwrap_or_else(|| garbled("an empty answer"))),
                    _ if message.kind == subsystem(what as u16 - 1) => all.extend(message.described()),
                    _ => {}
                }
            }
        }
    }

    /// Which generation of tables this is; each transaction makes another.
    fn generation(&mut self) -> io::Result<u32> {
        let mut request = Vec::new();
        put(&mut request, subsystem(GET_GENERATION), libc::NLM_F_REQUEST, 1, libc::AF_UNSPEC, 0, &[]);
        self.socket.send(&request, 0)?;
        self.receive()?;
        let mut rest = self.buffer.as_slice();
        let answer = Message::take(&mut rest).ok_or_else(|| garbled("no answer"))?;
        if i32::from(answer.kind) == libc::NLMSG_ERROR {
            return Err(answer.error().unwrap_or_else(|| garbled("an empty answer")));
        }
        let described = answer.described().ok_or_else(|| garbled("half an answer"))?;
        let generation = attribute::find(&described.attributes, GENERATION).and_then(|value| value.try_into().ok());
        generation.map(u32::from_be_bytes).ok_or_else(|| garbled("no generation"))
    }

    /// Does what `steps` makes of all objects of one kind, unless somebody changes any meanwhile; then it is made again.
    pub(super) fn change<'a>(
        &mut self,
        what: Get,
        mut steps: impl FnMut(Vec<Described>) -> Vec<(Do, Cow<'a, Described>)>,
    ) -> io::Result<()> {
        for _ in 0..MOST_ATTEMPTS {
            let generation = self.generation()?;
            let steps = steps(self.dump(what)?);
            // The kernel answers steps; to none it has nothing to say.
            if steps.is_empty() {
                return Ok(());
            }
            match self.transact(generation, &steps) {
                Err(error) if error.raw_os_error() == Some(libc::ERESTART) => {}
                done => return done,
            }
        }
        Err(io::Error::other("they change faster than they can be written"))
    }

    /// Does everything or nothing; nothing (`ERESTART`) when the generation is another by now.
    fn transact(&mut self, generation: u32, steps: &[(Do, Cow<'_, Described>)]) -> io::Result<()> {
        let mut batch = Vec::new();
        let mut expected = Vec::new();
        attribute::put(&mut expected, BATCH_GENERATION, &generation.to_be_bytes());
        put(&mut batch, BATCH_BEGIN, libc::NLM_F_REQUEST, 0, libc::AF_UNSPEC, SUBSYSTEM, &expected);
        let mut last = 0;
        for (number, (action, object)) in (1_u32..).zip(steps) {
            last = number;
            let is_last = steps.len() == usize::try_from(number).unwrap_or_default();
            // The last one is answered whatever comes of it; the others when they are refused.
            let answer = if is_last { libc::NLM_F_ACK } else { 0 };
            let create = match action {
                Do::NewTable | Do::NewChain => libc::NLM_F_CREATE,
                Do::NewRule => libc::NLM_F_CREATE | libc::NLM_F_APPEND,
                Do::DeleteTable => 0,
            };
            let flags = libc::NLM_F_REQUEST | create | answer;
            put(&mut batch, subsystem(*action as u16), flags, number, object.family.into(), 0, &object.attributes);
        }
        put(&mut batch, BATCH_END, libc::NLM_F_REQUEST, last + 1, libc::AF_UNSPEC, SUBSYSTEM, &[]);
        self.socket.send(&batch, 0)?;
        loop {
            self.receive()?;
            let mut rest = self.buffer.as_slice();
            while let Some(message) = Message::take(&mut rest) {
                if i32::from(message.kind) != libc::NLMSG_ERROR {
                    continue;
                }
                // A refusal of any step, or of the whole, comes before the answer to the last one.
                match message.error() {
                    Some(error) => return Err(error),
                    None if message.sequence == last => return Ok(()),
                    None => {}
                }
            }
        }
    }

    /// The kernel answers while it takes a request, so there is never anything to wait for.
    fn receive(&mut self) -> io::Result<()> {
        self.buffer.clear();
        match self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT)? {
            0 => Err(garbled("no answer")),
            _ => Ok(()),
        }
    }
}

fn garbled(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("nf_tables gave {what}"))
}

fn subsystem(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// Adds a message. All flags and families are small numbers.
fn put(to: &mut Vec<u8>, kind: u16, flags: i32, sequence: u32, family: i32, resource: u16, attributes: &[u8]) {
    let length = u32::try_from(HEADER + FAMILY_HEADER + attributes.len()).unwrap_or(u32::MAX);
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(u16::try_from(flags).unwrap_or_default().to_ne_bytes());
    to.extend(sequence.to_ne_bytes());
    to.extend(0_u32.to_ne_bytes());
    to.extend([u8::try_from(family).unwrap_or_default(), 0]);
    to.extend(resource.to_be_bytes());
    to.extend(attributes);
    to.resize(to.len().next_multiple_of(4), 0);
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message of several; nothing at the end, or where no message can be.
    fn take(rest: &mut &'a [u8]) -> Option<Self> {
        let (header, _) = rest.split_first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let body = rest.get(HEADER..length)?;
        *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Self {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body,
        })
    }

    /// What an NLMSG_ERROR says; nothing when it is an acknowledgement.
    fn error(&self) -> Option<io::Error> {
        let Some((code, _)) = self.body.split_first_chunk::<4>() else { return Some(garbled("half an answer")) };
        match i32::from_ne_bytes(*code) {
            0 => None,
            code => Some(Errno::from_raw(code.saturating_neg()).into()),
        }
    }

    fn described(&self) -> Option<Described> {
        let ([family, ..], attributes) = self.body.split_first_chunk::<FAMILY_HEADER>()?;
        Some(Described { family: *family, attributes: attributes.to_vec() })
    }
}
