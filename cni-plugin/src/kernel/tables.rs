//! Our tables in the namespace of the calling thread: what they hold, and copies of what others hold.
//!
//! Nothing here knows what a rule says. `nft` writes a capture once, in a namespace made for that; what the kernel says
//! of it then is what other namespaces are compared with and what is written into them, in a few system calls where
//! `nft` would be a process each time.

use std::borrow::Cow;
use std::io;

use nix::libc;

use super::attribute::{self, Attribute};
use super::netfilter::{Conversation, Described, Do, Get};
use crate::rules::{TableName, iptables};

/// Both families in one table (`NFPROTO_INET`).
const INET: u8 = 1;

// Attributes, from linux/netfilter/nf_tables.h.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_USE: u16 = 3;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;

/// What tables of ours hold, without what differs from one namespace to the next: handles and counts of packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Tables {
    tables: Vec<Described>,
    /// How many chains, sets and other objects each of them has: of sets nothing else is read, as we have none.
    sizes: Vec<Option<Vec<u8>>>,
    chains: Vec<Described>,
    rules: Vec<Described>,
}

/// What there is besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Others {
    /// Chains that bear the names of ours under iptables, written by the newer one.
    pub(super) leftovers: bool,
}

impl Tables {
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// What there is in this thread's namespace.
    pub(super) fn read() -> io::Result<(Self, Others)> {
        let mut conversation = Conversation::open()?;
        let mut own = Self::default();
        let tables = conversation.dump(Get::Tables)?;
        if tables.is_empty() {
            return Ok((own, Others::default()));
        }
        for table in tables.iter().filter(|table| is_ours(table, TABLE_NAME)) {
            own.sizes.push(attribute::find(&table.attributes, TABLE_USE).map(<[u8]>::to_vec));
            own.tables.push(kept(table, &[TABLE_NAME, TABLE_FLAGS]));
        }
        let chains = conversation.dump(Get::Chains)?;
        let leftovers = chains.iter().any(|chain| {
            let name = attribute::find(&chain.attributes, CHAIN_NAME).unwrap_or_default();
            name.starts_with(iptables::PREFIX.as_bytes())
        });
        let of_chains = [CHAIN_TABLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE];
        let ours = chains.iter().filter(|chain| is_ours(chain, CHAIN_TABLE));
        own.chains = ours.map(|chain| kept(chain, &of_chains)).collect();
        if !own.is_empty() {
            let rules = conversation.dump(Get::Rules)?;
            own.rules = rules.iter().filter(|rule| is_ours(rule, RULE_TABLE)).map(uncounted).collect();
        }
        Ok((own, Others { leftovers }))
    }

    /// What no kernel takes: rules of chains that are not there.
    #[cfg(test)]
    pub(super) fn without_chains(mut self) -> Self {
        self.chains.clear();
        self
    }

    /// Makes this thread's namespace hold exactly these tables of ours. All of it takes effect at once. Says whether there
    /// are tables of others as well.
    pub(super) fn write(&self) -> io::Result<bool> {
        let mut has_others = false;
        // Only what is there is deleted, and a starting pod has nothing: the kernel ends a conversation in which something
        // was deleted only once nobody can be looking at it any more, which takes milliseconds.
        Conversation::open()?.change(Get::Tables, |present| {
            has_others = present.iter().any(|table| !is_ours(table, TABLE_NAME));
            let present = present.iter().filter(|table| is_ours(table, TABLE_NAME));
            let cleared = present.map(|table| (Do::DeleteTable, Cow::Owned(kept(table, &[TABLE_NAME]))));
            let tables = self.tables.iter().map(|table| (Do::NewTable, Cow::Borrowed(table)));
            let chains = self.chains.iter().map(|chain| (Do::NewChain, Cow::Borrowed(chain)));
            let rules = self.rules.iter().map(|rule| (Do::NewRule, Cow::Borrowed(rule)));
            cleared.chain(tables).chain(chains).chain(rules).collect()
        })?;
        Ok(has_others)
    }
}

/// As C writes it.
fn terminated(name: TableName) -> Vec<u8> {
    [name.as_str().as_bytes(), &[0]].concat()
}

/// Whether the attribute `kind` names a table of ours.
fn is_ours(object: &Described, kind: u16) -> bool {
    let name = attribute::find(&object.attributes, kind);
    object.family == INET && TableName::ALL.iter().any(|table| name == Some(terminated(*table).as_slice()))
}

fn kept(object: &Described, kinds: &[u16]) -> Described {
    let kept = attribute::all(&object.attributes).filter(|attribute| kinds.contains(&attribute.kind));
    let attributes = kept.flat_map(|attribute| attribute.whole.iter().copied()).collect();
    Described { family: object.family, attributes }
}

/// A rule with its counters as new.
fn uncounted(rule: &Described) -> Described {
    let mut attributes = kept(rule, &[RULE_TABLE, RULE_CHAIN]).attributes;
    let mut expressions = Vec::new();
    for element in attribute::find(&rule.attributes, RULE_EXPRESSIONS).into_iter().flat_map(attribute::all) {
        match counter(&element) {
            Some(name) => {
                let mut bare = Vec::new();
                attribute::put(&mut bare, EXPRESSION_NAME, name);
                attribute::put(&mut expressions, LIST_ELEMENT | NESTED, &bare);
            }
            None => expressions.extend(element.whole),
        }
    }
    attribute::put(&mut attributes, RULE_EXPRESSIONS | NESTED, &expressions);
    Described { family: rule.family, attributes }
}

/// `NLA_F_NESTED`: the value consists of attributes.
#[expect(clippy::cast_possible_truncation, reason = "a flag of 16 bits")]
const NESTED: u16 = libc::NLA_F_NESTED as u16;

/// The name of an expression that counts.
fn counter<'a>(element: &Attribute<'a>) -> Option<&'a [u8]> {
    attribute::find(element.value, EXPRESSION_NAME).filter(|name| *name == b"counter\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expression(name: &str, data: &[u8]) -> Vec<u8> {
        let mut inner = Vec::new();
        attribute::put(&mut inner, EXPRESSION_NAME, &[name.as_bytes(), &[0]].concat());
        attribute::put(&mut inner, 2, data);
        let mut element = Vec::new();
        attribute::put(&mut element, LIST_ELEMENT, &inner);
        element
    }

    fn rule(handle: u8, expressions: &[Vec<u8>]) -> Described {
        let mut attributes = Vec::new();
        attribute::put(&mut attributes, RULE_TABLE, &terminated(TableName::Nat));
        attribute::put(&mut attributes, RULE_CHAIN, b"output\0");
        attribute::put(&mut attributes, 3, &[handle; 8]);
        attribute::put(&mut attributes, RULE_EXPRESSIONS, &expressions.concat());
        Described { family: INET, attributes }
    }

    #[test]
    fn rules_are_the_same_whatever_they_counted_and_differ_in_anything_else() {
        let (mark, other) = (expression("meta", &[3]), expression("meta", &[4]));
        let one = uncounted(&rule(1, &[mark.clone(), expression("counter", &[0; 24])]));
        assert_eq!(one, uncounted(&rule(2, &[mark.clone(), expression("counter", &[9; 24])])));
        assert_ne!(one, uncounted(&rule(1, &[other, expression("counter", &[0; 24])])));
        assert_ne!(one, uncounted(&rule(1, std::slice::from_ref(&mark))));
        assert_eq!(one, uncounted(&one), "what is kept can be kept again");
    }

    #[test]
    fn only_tables_of_our_names_and_family_are_ours() {
        let mut other = Described { family: INET, attributes: Vec::new() };
        attribute::put(&mut other.attributes, TABLE_NAME, &terminated(TableName::Raw));
        assert!(is_ours(&other, TABLE_NAME));
        other.family = 2;
        assert!(!is_ours(&other, TABLE_NAME));
        let mut longer = Described { family: INET, attributes: Vec::new() };
        attribute::put(&mut longer.attributes, TABLE_NAME, b"fairway-natx\0");
        assert!(!is_ours(&longer, TABLE_NAME));
    }
}
