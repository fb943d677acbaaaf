//! The two ways to write rules into the kernel, and which of them this node has: nftables, or iptables where a node has
//! only that. Both read back what they wrote. Everything here works on the network namespace of the calling thread.

use std::fmt;
use std::fs;
use std::path::Path;

use fairway_core::limits;

use super::KernelError;
use super::program::Program;
use crate::rules::{Capture, Family, TableName, filling, iptables, removal, tables};

const NFT: Program = program("nft", "nftables");
const SAVE: [(Family, Program); 2] =
    [(Family::V4, program("iptables-save", "iptables")), (Family::V6, program("ip6tables-save", "iptables"))];
const RESTORE: [Program; 2] = [program("iptables-restore", "iptables"), program("ip6tables-restore", "iptables")];
/// Changes nothing but what the script names; waits this many seconds for others that hold the kernel's lock.
const GENTLY: [&str; 3] = ["--noflush", "--wait", "4"];
/// Asked together with a change, as every process costs milliseconds.
const LIST_TABLES: &str = "list tables\n";
/// What a listing says of rules that the other way has left.
const LEFTOVERS: &str = "rules of iptables as well\n";

const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package, limit: limits::RULE_PROGRAM_TIMEOUT.duration() }
}

/// How rules are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// With `nft`: one transaction for everything.
    Nftables,
    /// With `iptables-restore` and its sister: one transaction for each table and family.
    Iptables,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        })
    }
}

impl Backend {
    /// Both, the better one first.
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];

    /// Makes the rules be those of `capture`.
    pub(super) fn write(self, capture: &Capture) -> Result<(), KernelError> {
        match self {
            Self::Nftables => {
                let all = NFT.run(&["-f", "-"], &(filling(&tables(capture)) + LIST_TABLES))?;
                clear_leftovers(&all)
            }
            Self::Iptables => restore(|family, present| match family {
                Family::V6 if !capture.ipv6 => iptables::removal(present),
                _ => iptables::filling(&tables(capture), family, present),
            }),
        }
    }

    /// Removes all rules.
    pub(super) fn remove(self) -> Result<(), KernelError> {
        match self {
            Self::Nftables => {
                let all = NFT.run(&["-f", "-"], &(removal() + LIST_TABLES))?;
                clear_leftovers(&all)
            }
            Self::Iptables => restore(|_, present| iptables::removal(present)),
        }
    }

    /// All rules of ours, without counters; empty when there are none.
    pub(super) fn list(self) -> Result<String, KernelError> {
        match self {
            Self::Nftables => {
                let ruleset = NFT.run(&["--stateless", "list", "ruleset"], "")?;
                let mut listing = own_tables(&ruleset);
                // The newer iptables writes nftables, where it shows; the older one has tables of its own.
                if ruleset.contains(iptables::PREFIX) || has_old_tables() && has_leftovers()? {
                    listing.push_str(LEFTOVERS);
                }
                Ok(listing)
            }
            Self::Iptables => {
                let mut listing = String::new();
                for (family, save) in &SAVE {
                    let own = iptables::listing(&saved(*family, save)?);
                    listing.push_str(&own.lines().map(|line| format!("{family:?} {line}\n")).collect::<String>());
                }
                Ok(listing)
            }
        }
    }
}

/// What is there of a family; nothing in a kernel without it.
fn saved(family: Family, save: &Program) -> Result<String, KernelError> {
    let exists = family == Family::V4 || Path::new("/proc/thread-self/net/if_inet6").exists();
    if exists { save.run(&[], "") } else { Ok(String::new()) }
}

fn restore(script: impl Fn(Family, &str) -> String) -> Result<(), KernelError> {
    for ((family, save), restore) in SAVE.iter().zip(&RESTORE) {
        let script = script(*family, &saved(*family, save)?);
        if !script.is_empty() {
            restore.run(&GENTLY, &script)?;
        }
    }
    Ok(())
}

fn has_old_tables() -> bool {
    let names = ["ip_tables_names", "ip6_tables_names"].map(|name| Path::new("/proc/thread-self/net").join(name));
    names.iter().any(|path| fs::read_to_string(path).is_ok_and(|names| !names.trim().is_empty()))
}

fn has_leftovers() -> Result<bool, KernelError> {
    match Backend::Iptables.list() {
        Ok(listing) => Ok(!listing.is_empty()),
        // Not ours then: we never had it to write with.
        Err(KernelError::MissingProgram { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Rules of an agent that had nothing but iptables would redirect to a proxy that has left. `all` are the names of the
/// tables of nftables.
fn clear_leftovers(all: &str) -> Result<(), KernelError> {
    let of_iptables = ["table ip ", "table ip6 "].iter().any(|start| all.lines().any(|line| line.starts_with(start)));
    if (of_iptables || has_old_tables()) && has_leftovers()? {
        return Backend::Iptables.remove();
    }
    Ok(())
}

/// The part of a listing that is about our tables.
pub(super) fn own_tables(ruleset: &str) -> String {
    let mut ours = String::new();
    let mut inside = false;
    for line in ruleset.lines() {
        if let Some(rest) = line.strip_prefix("table inet ") {
            let name = rest.split(' ').next().unwrap_or_default();
            inside = TableName::ALL.iter().any(|table| table.as_str() == name);
        }
        if inside {
            ours.push_str(line);
            ours.push('\n');
        }
        if line == "}" {
            inside = false;
        }
    }
    ours
}
