//! What the control plane has sent of each resource, byte by byte, for the page that shows it. What resources of several services
//! have in common is kept once (ADR 0034).

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::session::{KINDS, Kind};

/// All of it. Cheap to clone; clones are one.
#[derive(Clone, Debug)]
pub struct Held {
    all: Arc<Mutex<[Resources; KINDS.len()]>>,
    now: fn() -> SystemTime,
}

/// Resources of one kind.
#[derive(Debug, Default)]
struct Resources {
    entries: BTreeMap<String, Entry>,
    patterns: HashSet<Arc<Pattern>>,
}

/// What is known of one resource.
#[derive(Debug, Default)]
struct Entry {
    good: Option<Good>,
    bad: Option<Box<Bad>>,
}

/// A resource in force.
#[derive(Debug)]
struct Good {
    version: Box<str>,
    since: SystemTime,
    pattern: Arc<Pattern>,
}

/// An encoded resource without the host that it is for.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Pattern {
    rest: Box<[u8]>,
    /// Where in the rest the host belongs, in order.
    places: Box<[usize]>,
}

/// What is known of one resource, for whoever shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// Its name.
    pub(super) name: String,
    /// The one in force: its version, since when, and it.
    pub(super) good: Option<(String, SystemTime, Vec<u8>)>,
    /// Why the one that came last is not.
    pub(super) bad: Option<Bad>,
}

/// A resource that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    /// Its version.
    pub(super) version: String,
    /// What is wrong with it.
    pub(super) details: String,
    /// When it came.
    pub(super) at: SystemTime,
}

impl Default for Held {
    fn default() -> Self {
        Self::at(SystemTime::now)
    }
}

impl Held {
    /// Nothing yet, with this clock.
    #[must_use]
    pub fn at(now: fn() -> SystemTime) -> Self {
        Self { all: Arc::default(), now }
    }

    /// It is in force.
    pub(super) fn take(&self, kind: Kind, name: &str, version: &str, bytes: &[u8]) {
        let since = (self.now)();
        let mut all = self.all();
        let Resources { entries, patterns } = &mut all[kind as usize];
        let pattern = common(patterns, Pattern::of(bytes, host(name)));
        let good = Some(Good { version: version.into(), since, pattern });
        let before = match entries.get_mut(name) {
            Some(entry) => std::mem::replace(entry, Entry { good, bad: None }),
            None => entries.insert(name.to_owned(), Entry { good, bad: None }).unwrap_or_default(),
        };
        let_go(patterns, before);
    }

    /// It is not, and what was in force stays.
    pub(super) fn refuse(&self, kind: Kind, name: &str, version: &str, details: &str) {
        let bad = Bad { version: version.to_owned(), details: details.to_owned(), at: (self.now)() };
        self.all()[kind as usize].entries.entry(name.to_owned()).or_default().bad = Some(Box::new(bad));
    }

    /// There is none any more.
    pub(super) fn forget(&self, kind: Kind, name: &str) {
        let mut all = self.all();
        let Resources { entries, patterns } = &mut all[kind as usize];
        if let Some(entry) = entries.remove(name) {
            let_go(patterns, entry);
        }
    }

    /// Versions of those in force, by name.
    pub(super) fn versions(&self, kind: Kind) -> BTreeMap<String, String> {
        let all = self.all();
        let entries = all[kind as usize].entries.iter();
        entries.filter_map(|(name, entry)| Some((name.clone(), entry.good.as_ref()?.version.to_string()))).collect()
    }

    /// So many resources of this kind at most, by name, behind `last`. Nobody waits for longer than it takes to copy them.
    pub(super) fn behind(&self, kind: Kind, last: Option<&str>, most: usize) -> Vec<Shown> {
        let all = self.all();
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = all[kind as usize].entries.range::<str, _>((from, Bound::Unbounded)).take(most);
        entries.map(|(name, entry)| Shown::of(name, entry)).collect()
    }

    fn all(&self) -> MutexGuard<'_, [Resources; KINDS.len()]> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    fn of(name: &str, Entry { good, bad }: &Entry) -> Self {
        let good = good.as_ref().map(|good| (good.version.to_string(), good.since, good.pattern.bytes(host(name))));
        Self { name: name.to_owned(), good, bad: bad.as_deref().cloned() }
    }
}

impl Pattern {
    /// Of a resource that is for `host`.
    fn of(bytes: &[u8], host: &[u8]) -> Self {
        let (mut rest, mut places, mut ahead) = (Vec::with_capacity(bytes.len()), Vec::new(), bytes);
        while let Some((first, behind)) = ahead.split_first() {
            // Hardly ever is it the host, and a look at one byte tells.
            let host_here = (host.first() == Some(first)).then(|| ahead.strip_prefix(host));
            match host_here.flatten() {
                Some(behind) => {
                    places.push(rest.len());
                    ahead = behind;
                }
                None => {
                    rest.push(*first);
                    ahead = behind;
                }
            }
        }
        Self { rest: rest.into(), places: places.into() }
    }

    /// The resource for `host`.
    fn bytes(&self, host: &[u8]) -> Vec<u8> {
        let (mut bytes, mut from) = (Vec::with_capacity(self.rest.len() + self.places.len() * host.len()), 0);
        for place in &self.places {
            bytes.extend_from_slice(self.rest.get(from..*place).unwrap_or_default());
            bytes.extend_from_slice(host);
            from = *place;
        }
        bytes.extend_from_slice(self.rest.get(from..).unwrap_or_default());
        bytes
    }
}

/// The host of `<hostname>:<port>` or `<hostname>:<port>/<subset>`: what differs between resources of two services.
fn host(name: &str) -> &[u8] {
    name.rsplit_once(':').map_or(name, |(host, _)| host).as_bytes()
}

fn common(patterns: &mut HashSet<Arc<Pattern>>, pattern: Pattern) -> Arc<Pattern> {
    if let Some(known) = patterns.get(&pattern) {
        return Arc::clone(known);
    }
    let pattern = Arc::new(pattern);
    patterns.insert(Arc::clone(&pattern));
    pattern
}

/// A pattern that nobody else has goes.
fn let_go(patterns: &mut HashSet<Arc<Pattern>>, entry: Entry) {
    if let Some(Good { pattern, .. }) = entry.good
        && Arc::strong_count(&pattern) == 2
    {
        patterns.remove(&pattern);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(held: &Held, name: &str) -> Option<Vec<u8>> {
        let shown = held.behind(Kind::Routes, None, usize::MAX);
        shown.into_iter().find(|shown| shown.name == name)?.good.map(|(_, _, bytes)| bytes)
    }

    fn patterns(held: &Held) -> usize {
        held.all()[Kind::Routes as usize].patterns.len()
    }

    proptest! {
        #[test]
        fn what_was_sent_is_what_is_shown(sent in proptest::collection::vec(("[ab]{0,3}:[12]", "[ab:12]{0,12}"), 0..12)) {
            let (held, mut last) = (Held::default(), BTreeMap::new());
            for (name, text) in sent {
                held.take(Kind::Routes, &name, "1", text.as_bytes());
                last.insert(name, text);
            }
            for (name, text) in &last {
                prop_assert_eq!(bytes(&held, name), Some(text.clone().into_bytes()));
            }
            for name in last.keys() {
                held.forget(Kind::Routes, name);
            }
            prop_assert_eq!(patterns(&held), 0, "nothing is left of what nobody has");
        }
    }

    #[test]
    fn services_that_differ_by_name_alone_are_one_pattern() {
        let held = Held::default();
        for host in ["web.shop", "api.shop"] {
            held.take(
                Kind::Routes,
                &format!("{host}:80"),
                "1",
                format!("route of {host}:80 to {host}:80/v1").as_bytes(),
            );
        }
        assert_eq!(patterns(&held), 1);
        assert_eq!(bytes(&held, "api.shop:80").unwrap(), b"route of api.shop:80 to api.shop:80/v1");
        held.take(Kind::Routes, "api.shop:80", "2", b"another");
        assert_eq!((patterns(&held), held.versions(Kind::Routes)["api.shop:80"].as_str()), (2, "2"));
        held.take(Kind::Routes, "api.shop:80", "3", b"yet another");
        assert_eq!(patterns(&held), 2, "the one before is gone");
    }

    #[test]
    fn pages_follow_each_other() {
        let held = Held::default();
        for name in ["a", "b", "c"] {
            held.take(Kind::Routes, name, "1", b"");
        }
        let names = |last, most| {
            let shown = held.behind(Kind::Routes, last, most);
            shown.into_iter().map(|shown| shown.name).collect::<Vec<_>>()
        };
        assert_eq!(
            (names(None, 2), names(Some("b"), 2), names(Some("c"), 2)),
            (vec!["a".into(), "b".into()], vec!["c".into()], vec![])
        );
    }
}
