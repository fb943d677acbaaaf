//! The two ways to write rules into the kernel, and which of them this node has: nftables, or iptables where a node has
//! only that. Both read back what they wrote. Everything here works on the network namespace of the calling thread.

use std::fmt;
use std::path::Path;

use fairway_core::limits;

use super::program::Program;
use super::tables::Tables;
use super::{KernelError, leftovers};
use crate::rules::{Capture, Family, filling, iptables, tables};

const NFT: Program = program("nft", "nftables");
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// Changes nothing but what the script names; waits this many seconds for others that hold the kernel's lock.
const GENTLY: [&str; 3] = ["--noflush", "--wait", "4"];
/// What a listing says of rules that another way has left.
const LEFTOVERS: &str = "rules of another way as well\n";

const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package, limit: limits::RULE_PROGRAM_TIMEOUT.duration() }
}

/// All rules of ours in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Listing {
    /// Those of nftables, where that is how they are written.
    pub(super) tables: Tables,
    /// Whatever else there is, in words of which only equality counts.
    pub(super) text: String,
}

impl Listing {
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.text.is_empty()
    }
}

/// Which of a node's iptables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tools {
    /// Those that the node has chosen for itself.
    #[default]
    Any,
    /// Those that write nftables.
    Nft,
    /// Those that write tables of their own.
    Legacy,
}

impl Tools {
    /// The program that prints the rules of a family.
    fn save(self, family: Family) -> Program {
        let name = match (self, family) {
            (Self::Any, Family::V4) => "iptables-save",
            (Self::Any, Family::V6) => "ip6tables-save",
            (Self::Nft, Family::V4) => "iptables-nft-save",
            (Self::Nft, Family::V6) => "ip6tables-nft-save",
            (Self::Legacy, Family::V4) => "iptables-legacy-save",
            (Self::Legacy, Family::V6) => "ip6tables-legacy-save",
        };
        program(name, "iptables")
    }

    /// The program that writes them.
    fn restore(self, family: Family) -> Program {
        let name = match (self, family) {
            (Self::Any, Family::V4) => "iptables-restore",
            (Self::Any, Family::V6) => "ip6tables-restore",
            (Self::Nft, Family::V4) => "iptables-nft-restore",
            (Self::Nft, Family::V6) => "ip6tables-nft-restore",
            (Self::Legacy, Family::V4) => "iptables-legacy-restore",
            (Self::Legacy, Family::V6) => "ip6tables-legacy-restore",
        };
        program(name, "iptables")
    }

    /// What they say of themselves.
    pub(super) fn version(self) -> Result<String, KernelError> {
        self.save(Family::V4).run(&["--version"], "")
    }

    /// That this node does not have them.
    pub(super) fn missing(self) -> KernelError {
        let Program { name, package, .. } = self.restore(Family::V4);
        KernelError::MissingProgram { program: name, package }
    }
}

/// How rules are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// With nftables: one transaction for everything.
    Nftables,
    /// With `iptables-restore` and its sister: one transaction for each table and family.
    Iptables(Tools),
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables(Tools::Any) => "iptables",
            Self::Iptables(Tools::Nft) => "iptables (nft)",
            Self::Iptables(Tools::Legacy) => "iptables (legacy)",
        })
    }
}

impl Backend {
    /// Both, the better one first.
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables(Tools::Any)];

    /// Makes the rules be those of `capture`, from nothing but their text, and leaves none that another way wrote. Those
    /// go last: rules twice do no more than rules once, while without any, connections would pass uncaptured.
    pub(super) fn write(self, capture: &Capture) -> Result<(), KernelError> {
        match self {
            Self::Nftables => {
                NFT.run(&["-f", "-"], &filling(&tables(capture)))?;
            }
            Self::Iptables(tools) => restore(tools, |family, present| match family {
                Family::V6 if !capture.ipv6 => iptables::removal(present),
                _ => iptables::filling(&tables(capture), family, present),
            })?,
        }
        leftovers::clear(self, Some(self))
    }

    /// The same, where it is known what they are once written.
    pub(super) fn copy(self, capture: &Capture, written: &Listing) -> Result<(), KernelError> {
        match self {
            Self::Nftables => match written.tables.write() {
                // A pod that starts has nothing else, and is not to wait for another look.
                Ok(has_others) if !has_others && !leftovers::has_old_tables() => Ok(()),
                Ok(_) => leftovers::clear(self, Some(self)),
                Err(error) => {
                    tracing::debug!(%error, "the kernel takes no copy of the rules; writing them with nft");
                    self.write(capture)
                }
            },
            Self::Iptables(_) => self.write(capture),
        }
    }

    /// Removes all rules, whichever way they were written.
    pub(super) fn remove(self) -> Result<(), KernelError> {
        leftovers::clear(self, None)
    }

    /// All rules of ours, without counters; empty when there are none.
    pub(super) fn list(self) -> Result<Listing, KernelError> {
        let mut text = match self {
            Self::Nftables => String::new(),
            Self::Iptables(tools) => of_iptables(tools)?,
        };
        let (tables, has_others) = leftovers::read(self, &text)?;
        if has_others {
            text.push_str(LEFTOVERS);
        }
        let tables = if self == Self::Nftables { tables } else { Tables::default() };
        Ok(Listing { tables, text })
    }
}

/// Our rules of iptables as these tools see them.
pub(super) fn of_iptables(tools: Tools) -> Result<String, KernelError> {
    let mut text = String::new();
    for family in FAMILIES {
        let own = iptables::listing(&saved(family, tools)?);
        text.push_str(&own.lines().map(|line| format!("{family:?} {line}\n")).collect::<String>());
    }
    Ok(text)
}

/// What is there of a family; nothing in a kernel without it.
fn saved(family: Family, tools: Tools) -> Result<String, KernelError> {
    let exists = family == Family::V4 || Path::new("/proc/thread-self/net/if_inet6").exists();
    if exists { tools.save(family).run(&[], "") } else { Ok(String::new()) }
}

pub(super) fn restore(tools: Tools, script: impl Fn(Family, &str) -> String) -> Result<(), KernelError> {
    for family in FAMILIES {
        let script = script(family, &saved(family, tools)?);
        if !script.is_empty() {
            tools.restore(family).run(&GENTLY, &script)?;
        }
    }
    Ok(())
}
