//! What listeners lead to: the names of the resources that have to be asked for, those that have to be known before connections
//! can be served, and who is let in before either matters.

use std::sync::Arc;

use super::policy::Rules;
use super::{Chain, Listener, ServerName};

impl Listener {
    /// Name of the routes, where there are any.
    #[must_use]
    pub fn routes(&self) -> Option<&str> {
        match self {
            Self::Http(http) => Some(&http.routes),
            Self::Opaque(_) => None,
        }
    }

    /// Clusters that are named beside routes, without which connections or requests would be refused.
    #[must_use]
    pub fn awaited(&self) -> Vec<&str> {
        match self {
            Self::Http(http) => {
                let asked = http.custom.iter().map(|it| &*it.authorizer.cluster);
                let counted = http.limiter.iter().map(|limiter| &*limiter.cluster);
                let seen = http.processor.iter().map(|processor| &*processor.cluster);
                let otherwise = http.otherwise.iter().flat_map(|chain| chain.clusters.iter()).map(String::as_str);
                asked.chain(counted).chain(seen).chain(otherwise).collect()
            }
            Self::Opaque(opaque) => opaque.clusters().map(String::as_str).collect(),
        }
    }

    /// All clusters that are named beside routes: those, and of who is only told.
    #[must_use]
    pub fn clusters(&self) -> Vec<&str> {
        let mut named = self.awaited();
        match self {
            Self::Http(http) => {
                named.extend(http.tracing.iter().map(|it| &*it.collector.cluster));
                let of_others = http.otherwise.iter().flat_map(|chain| &chain.logs);
                named.extend(http.logs.iter().chain(of_others).flat_map(|it| it.clusters()).map(|it| &**it));
            }
            Self::Opaque(opaque) => {
                let logs = opaque.chains().flat_map(|chain| &chain.logs);
                named.extend(logs.flat_map(|it| it.clusters()).map(|it| &**it));
            }
        }
        named
    }

    /// Whether the same may pass here as there, as far as that is decided before routes are looked at.
    #[must_use]
    pub fn guards_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http(one), Self::Http(other)) => {
                // Who sees requests, or counts them, may refuse them as well.
                one.custom == other.custom
                    && one.processor == other.processor
                    && one.limiter == other.limiter
                    && one.tokens == other.tokens
                    && one.policies == other.policies
                    && one.rates == other.rates
                    // Whose word counts for where requests come from, and what may go on unseen, decide with policies.
                    && one.proxies == other.proxies
                    && one.upgrades == other.upgrades
                    && one.merge_slashes == other.merge_slashes
                    && policies(one.otherwise.as_deref()) == policies(other.otherwise.as_deref())
            }
            (Self::Opaque(one), Self::Opaque(other)) => {
                let others = [one, other].map(|opaque| policies(opaque.others.as_deref()));
                let is_same = one.named.iter().map(guard).eq(other.named.iter().map(guard)) && others[0] == others[1];
                // Without names policies about them decide otherwise.
                is_same && one.reads_names == other.reads_names
            }
            _ => false,
        }
    }

    /// Whether anybody may pass.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self {
            Self::Http(http) => {
                let is_unseen = http.processor.is_none() && http.limiter.is_none() && http.rates.is_none();
                let is_open = http.otherwise.iter().all(|chain| chain.policies.is_empty());
                is_unseen && is_open && http.custom.is_empty() && http.tokens.is_none() && http.policies.is_empty()
            }
            Self::Opaque(opaque) => opaque.named.is_empty() && opaque.chains().all(|chain| chain.policies.is_empty()),
        }
    }
}

/// Nothing where there is no such chain, which lets nobody pass.
fn policies(chain: Option<&Chain>) -> Option<&[Rules]> {
    chain.map(|chain| &*chain.policies)
}

fn guard((name, chain): &(ServerName, Arc<Chain>)) -> (&ServerName, &[Rules]) {
    (name, &chain.policies)
}

#[cfg(test)]
mod tests {
    use fairway_core::upgrade::Upgrades;

    use super::super::{Http, Opaque, Proxies};
    use super::*;

    #[test]
    fn whatever_policies_decide_by_is_part_of_who_may_pass() {
        let http = |http: Http| Listener::Http(Box::new(http));
        let opaque = |reads_names| Listener::Opaque(Opaque { reads_names, ..Opaque::default() });
        let plain = || http(Http::default());
        let mut upgrades = Upgrades::default();
        upgrades.allow("spdy/3.1").unwrap();
        let believing = Proxies { hops: 1, ..Proxies::default() };
        let rows = [
            ("the same", plain(), plain(), true),
            ("other routes", plain(), http(Http { routes: "b".into(), ..Http::default() }), true),
            ("slashes", plain(), http(Http { merge_slashes: true, ..Http::default() }), false),
            ("whose word counts", plain(), http(Http { proxies: believing, ..Http::default() }), false),
            ("upgrades", plain(), http(Http { upgrades, ..Http::default() }), false),
            ("no requests", plain(), opaque(false), false),
            ("names", opaque(true), opaque(true), true),
            ("no names", opaque(true), opaque(false), false),
        ];
        for (case, one, other, expected) in rows {
            assert_eq!((one.guards_like(&other), other.guards_like(&one)), (expected, expected), "{case}");
        }
    }
}
