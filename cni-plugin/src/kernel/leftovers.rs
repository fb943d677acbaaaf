//! Everything of ours in the network namespace of the calling thread, whichever way it was written: a node may have had
//! other tools before, and what they have left would redirect to a proxy that has gone.

use std::fs;
use std::io;
use std::path::Path;

use nix::libc;

use super::KernelError;
use super::backend::{Backend, Tools, of_iptables, restore};
use super::tables::{Others, Tables};
use crate::rules::iptables;

/// Where iptables keeps chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In nftables: the newer one does.
    New,
    /// In tables of its own: the older one.
    Old,
}

/// Our tables, and whether there is anything of ours that `backend` does not write. `text` is what it found of iptables.
pub(super) fn read(backend: Backend, text: &str) -> Result<(Tables, bool), KernelError> {
    let (tables, others) = read_tables(backend)?;
    let others = match backend {
        Backend::Nftables => others.leftovers || has_old()?,
        // The tools have found nothing where they look, so all there is, is elsewhere.
        Backend::Iptables(_) if text.is_empty() => !tables.is_empty() || others.leftovers || has_old()?,
        // They have found something, which is in one of the two places.
        Backend::Iptables(_) => !tables.is_empty() || others.leftovers && has_old()?,
    };
    Ok((tables, others))
}

/// Removes what `kept` does not write, or everything without it. `backend` is what this node has.
pub(super) fn clear(backend: Backend, kept: Option<Backend>) -> Result<(), KernelError> {
    let (tables, others) = read_tables(backend)?;
    if kept != Some(Backend::Nftables) && !tables.is_empty() {
        Tables::default().write().map_err(KernelError::Tables)?;
    }
    let own = |place| match kept {
        Some(Backend::Iptables(tools)) => Ok(place_of(tools)? == place),
        Some(Backend::Nftables) | None => Ok(false),
    };
    let remove = |tools| restore(tools, |_, present| iptables::removal(present));
    if others.leftovers && !own(Place::New)? && with_tools(Place::New, remove)?.is_none() {
        return Err(Tools::Nft.missing());
    }
    if has_old_tables() && !own(Place::Old)? {
        // Without tools they are not ours: we never had any to write them with.
        with_tools(Place::Old, remove)?;
    }
    Ok(())
}

/// A kernel without nf_tables, where iptables is the only way, holds none of our tables.
fn read_tables(backend: Backend) -> Result<(Tables, Others), KernelError> {
    let is_absent = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::EINVAL));
    match Tables::read() {
        Err(error) if backend != Backend::Nftables && is_absent(&error) => Ok(Default::default()),
        read => read.map_err(KernelError::Tables),
    }
}

/// Whether the older iptables holds chains of ours.
fn has_old() -> Result<bool, KernelError> {
    if !has_old_tables() {
        return Ok(false);
    }
    let listing = with_tools(Place::Old, of_iptables)?;
    Ok(listing.is_some_and(|listing| !listing.is_empty()))
}

/// Whether anybody has made tables with the older iptables.
pub(super) fn has_old_tables() -> bool {
    let names = ["ip_tables_names", "ip6_tables_names"].map(|name| Path::new("/proc/thread-self/net").join(name));
    names.iter().any(|path| fs::read_to_string(path).is_ok_and(|names| !names.trim().is_empty()))
}

/// Does something with the tools that look there; nothing when this node has none.
fn with_tools<T>(place: Place, work: impl Fn(Tools) -> Result<T, KernelError>) -> Result<Option<T>, KernelError> {
    let named = match place {
        Place::New => Tools::Nft,
        Place::Old => Tools::Legacy,
    };
    match work(named) {
        Err(KernelError::MissingProgram { .. }) => {}
        done => return done.map(Some),
    }
    match place_of(Tools::Any) {
        Ok(found) if found == place => work(Tools::Any).map(Some),
        Ok(_) | Err(KernelError::MissingProgram { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where these tools look.
fn place_of(tools: Tools) -> Result<Place, KernelError> {
    Ok(match tools {
        Tools::Nft => Place::New,
        Tools::Legacy => Place::Old,
        Tools::Any if tools.version()?.contains("nf_tables") => Place::New,
        Tools::Any => Place::Old,
    })
}
