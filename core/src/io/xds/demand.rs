//! What connections ask the control plane for, when the world holds only what was asked for (interop §3.3).
//!
//! Each name is asked for once, however many wait for it, and at most so many are outstanding. That there is no such
//! thing is remembered: where the control plane is ours, for as long as we stay subscribed to the name, since it tells
//! when that changes. Istio's does not tell of names that are addresses, so there it holds for a short time only. Nor
//! does Istio's answer who subscribes twice: to ask again is to unsubscribe first.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::addr::NetworkCidr;
use crate::limits;

/// Names asked for. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    /// Somebody asked for something new.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct Table {
    is_connected: bool,
    /// Names the control plane has not answered; who waits follows the channel.
    pending: HashMap<String, watch::Sender<bool>>,
    /// Names that do not exist.
    absent: HashMap<String, Absent>,
    clock: u64,
    /// Names we are subscribed to on this stream, once the changes have been sent.
    told: HashSet<String>,
    /// Names given up on this stream, of which word may still be under way: those since the last turn, and before.
    given_up: [HashSet<String>; 2],
    changes: Changes,
}

#[derive(Debug)]
struct Absent {
    /// When it was last asked for.
    used: u64,
    /// Until when it is believed, where the control plane does not tell of changes.
    until: Option<Instant>,
}

/// What to tell the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Names to subscribe to.
    pub subscribe: Vec<String>,
    /// Names nobody needs any more.
    pub unsubscribe: Vec<String>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The control plane did not answer in time.
    #[error("the control plane did not answer in time")]
    Late,
    /// More is asked for than the control plane answers.
    #[error("too many names are being asked for")]
    Busy,
}

impl Demand {
    /// Waits until the control plane has said what it knows about `name`, and that is part of the world.
    ///
    /// What was absent when the control plane was last there is taken for absent while it does not answer.
    ///
    /// # Errors
    /// When it does not within `patience`, or too much is outstanding.
    pub async fn ask(&self, name: &str, patience: Duration) -> Result<(), Unanswered> {
        let (mut answered, was_absent) = {
            let mut table = self.table();
            table.clock += 1;
            let (now, is_connected) = (table.clock, table.is_connected);
            let absent = table.absent.get_mut(name);
            let was_absent = absent.is_some();
            if let Some(absent) = absent {
                absent.used = now;
                if !is_connected || absent.until.is_none_or(|until| Instant::now() < until) {
                    return Ok(());
                }
            }
            match table.pending.get(name) {
                Some(pending) => (pending.subscribe(), was_absent),
                None if table.pending.len() >= limits::XDS_DEMAND_OUTSTANDING.size() => {
                    return if was_absent { Ok(()) } else { Err(Unanswered::Busy) };
                }
                None => {
                    let (sender, receiver) = watch::channel(false);
                    table.pending.insert(name.to_owned(), sender);
                    table.subscribe(name);
                    self.shared.wanted.notify_one();
                    (receiver, was_absent)
                }
            }
        };
        // A sender that is gone has answered before.
        if tokio::time::timeout(patience, answered.wait_for(|answered| *answered)).await.is_ok() {
            return Ok(());
        }
        drop(answered);
        self.give_up(name);
        if was_absent { Ok(()) } else { Err(Unanswered::Late) }
    }

    /// A name nobody waits for any more must not count as outstanding for ever.
    fn give_up(&self, name: &str) {
        let mut table = self.table();
        if table.pending.get(name).is_some_and(|pending| pending.receiver_count() == 0) {
            table.pending.remove(name);
            table.unsubscribe(name);
            self.shared.wanted.notify_one();
        }
    }

    /// Waits until there is something to tell the control plane.
    pub(super) async fn wanted(&self) {
        self.shared.wanted.notified().await;
    }

    /// What to tell the control plane since this was last asked: what is given up first, since that may be asked for
    /// again.
    pub(super) fn changes(&self) -> Changes {
        std::mem::take(&mut self.table().changes)
    }

    /// Everything to subscribe to on a new stream, besides what is held.
    pub(super) fn all(&self) -> Vec<String> {
        let mut table = self.table();
        table.changes = Changes::default();
        table.given_up = Default::default();
        table.told = table.pending.keys().chain(table.absent.keys()).cloned().collect();
        table.told.iter().cloned().collect()
    }

    /// A stream is up, or is no more.
    pub(super) fn set_connected(&self, is_connected: bool) {
        self.table().is_connected = is_connected;
    }

    /// The control plane has given something under these names.
    pub(super) fn found<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let mut table = self.table();
        for name in names {
            table.absent.remove(name);
            if let Some(pending) = table.pending.remove(name) {
                pending.send_replace(true);
            }
            let [recent, before] = &mut table.given_up;
            if recent.remove(name) | before.remove(name) {
                // It crossed our giving up: we hold it now, and must hear what becomes of it.
                table.subscribe(name);
                self.shared.wanted.notify_one();
            }
            if let Some(block) = block(name) {
                let inside = |asked: &String| {
                    asked.rsplit_once('/').is_some_and(|(network, ip)| {
                        *network == *block.network
                            && ip.parse().is_ok_and(|ip: std::net::IpAddr| block.block.contains(&ip))
                    })
                };
                table.absent.retain(|asked, _| !inside(asked));
                for (_, pending) in table.pending.extract_if(|asked, _| inside(asked)) {
                    pending.send_replace(true);
                }
            }
        }
    }

    /// The control plane has said that there is nothing under these names; some of them may never have been asked for.
    /// `tells` is whether it will say when that changes.
    pub(super) fn missing<'a>(&self, names: impl Iterator<Item = &'a str>, tells: bool) {
        let mut table = self.table();
        let until = (!tells).then(|| Instant::now() + limits::XDS_DEMAND_RECHECK.duration());
        for name in names {
            if let Some(absent) = table.absent.get_mut(name) {
                absent.until = until;
            }
            if let Some(pending) = table.pending.remove(name) {
                table.clock += 1;
                let used = table.clock;
                table.absent.insert(name.to_owned(), Absent { used, until });
                pending.send_replace(true);
            }
        }
        let limit = limits::XDS_DEMAND_ABSENT.size();
        if table.absent.len() > limit {
            // An eighth at a time, so that it is not done for every name.
            let mut ages: Vec<u64> = table.absent.values().map(|absent| absent.used).collect();
            let cut = ages.len() - (limit - limit / 8);
            let (_, oldest_kept, _) = ages.select_nth_unstable(cut);
            let oldest_kept = *oldest_kept;
            let forgotten: Vec<String> =
                table.absent.extract_if(|_, absent| absent.used < oldest_kept).map(|(name, _)| name).collect();
            forgotten.iter().for_each(|name| table.unsubscribe(name));
            self.shared.wanted.notify_one();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn subscribe(&mut self, name: &str) {
        if !self.told.insert(name.to_owned()) {
            self.changes.unsubscribe.push(name.to_owned());
        }
        self.changes.subscribe.push(name.to_owned());
    }

    fn unsubscribe(&mut self, name: &str) {
        self.told.remove(name);
        if let Some(position) = self.changes.subscribe.iter().position(|asked| asked == name) {
            // It has not been told yet, as while there is no stream.
            self.changes.subscribe.swap_remove(position);
            return;
        }
        self.changes.unsubscribe.push(name.to_owned());
        let [recent, before] = &mut self.given_up;
        if recent.len() >= limits::XDS_DEMAND_OUTSTANDING.size() {
            // What was given up so many names ago has been answered by now.
            *before = std::mem::take(recent);
        }
        recent.insert(name.to_owned());
    }
}

/// Reads `<network>/<address>/<length>`, the form in which a service's block of addresses is an alias.
fn block(alias: &str) -> Option<NetworkCidr> {
    let (network, rest) = alias.split_once('/')?;
    rest.contains('/').then(|| rest.parse().ok())?.map(|block| NetworkCidr { network: network.into(), block })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn spawn(demand: &Demand, name: &'static str) -> tokio::task::JoinHandle<Result<(), Unanswered>> {
        let demand = demand.clone();
        tokio::spawn(async move { demand.ask(name, PATIENCE).await })
    }

    async fn settle(demand: &Demand, waiting: usize) {
        let asked = || demand.table().pending.values().map(watch::Sender::receiver_count).sum::<usize>();
        while asked() < waiting {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_name_is_asked_for_once_and_all_who_wait_are_answered() {
        let demand = Demand::default();
        let waiting = [spawn(&demand, "/10.0.0.1"), spawn(&demand, "/10.0.0.1"), spawn(&demand, "/10.0.0.2")];
        settle(&demand, 3).await;
        demand.wanted().await;
        let mut changes = demand.changes();
        changes.subscribe.sort();
        assert_eq!(changes.subscribe, ["/10.0.0.1", "/10.0.0.2"]);
        demand.found(["Kubernetes//Pod/shop/web", "/10.0.0.1"].into_iter());
        demand.missing(["/10.0.0.2", "/10.0.0.3"].into_iter(), true);
        for one in waiting {
            assert_eq!(one.await.unwrap(), Ok(()));
        }
        // That it does not exist is known now; what was never asked for is not.
        assert_eq!(demand.ask("/10.0.0.2", Duration::ZERO).await, Ok(()));
        assert_eq!(demand.changes(), Changes::default());
        assert_eq!(demand.all(), ["/10.0.0.2"]);
        // And when it comes to be, it is asked for no more.
        demand.found(["/10.0.0.2"].into_iter());
        assert!(demand.all().is_empty());
    }

    #[tokio::test]
    async fn a_block_answers_for_the_addresses_in_it() {
        let demand = Demand::default();
        let waiting = spawn(&demand, "east/10.1.2.3");
        settle(&demand, 1).await;
        demand.found(["west/10.0.0.0/8", "east/10.2.0.0/16"].into_iter());
        assert!(!waiting.is_finished());
        demand.found(["shop/web.example", "east/10.0.0.0/8"].into_iter());
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_the_wait_and_frees_the_place() {
        let demand = Demand::default();
        assert_eq!(demand.ask("/10.0.0.1", PATIENCE).await, Err(Unanswered::Late));
        // There was no stream to say it on.
        assert_eq!(demand.changes(), Changes::default());
        let waiting = spawn(&demand, "/10.0.0.1");
        settle(&demand, 1).await;
        assert_eq!(demand.changes().subscribe, ["/10.0.0.1"]);
        assert_eq!(waiting.await.unwrap(), Err(Unanswered::Late));
        assert_eq!(demand.changes().unsubscribe, ["/10.0.0.1"]);
        assert!(demand.all().is_empty());
    }

    /// Asks in the background, and gives what the control plane is told then.
    async fn told(demand: &Demand, name: &'static str) -> (Changes, tokio::task::JoinHandle<Result<(), Unanswered>>) {
        let waiting = spawn(demand, name);
        settle(demand, 1).await;
        (demand.changes(), waiting)
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_tells_that_it_came_to_be_it_is_soon_asked_for_again() {
        let demand = Demand::default();
        demand.set_connected(true);
        let (changes, waiting) = told(&demand, "/10.0.0.1").await;
        assert_eq!(changes, Changes { subscribe: vec!["/10.0.0.1".to_owned()], unsubscribe: vec![] });
        demand.missing(["/10.0.0.1"].into_iter(), false);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert_eq!(demand.ask("/10.0.0.1", Duration::ZERO).await, Ok(()));
        assert_eq!(demand.changes(), Changes::default());

        tokio::time::advance(limits::XDS_DEMAND_RECHECK.duration()).await;
        // A second subscription to the same name would not be answered.
        let again = Changes { subscribe: vec!["/10.0.0.1".to_owned()], unsubscribe: vec!["/10.0.0.1".to_owned()] };
        let (changes, waiting) = told(&demand, "/10.0.0.1").await;
        assert_eq!(changes, again);
        // What it was counts where there is no answer, and at once where there can be none.
        assert_eq!(waiting.await.unwrap(), Ok(()));
        demand.set_connected(false);
        assert_eq!(demand.ask("/10.0.0.1", Duration::ZERO).await, Ok(()));
        assert_eq!(demand.ask("/10.0.0.2", Duration::ZERO).await, Err(Unanswered::Late));
    }

    #[tokio::test]
    async fn what_was_found_and_went_is_asked_for_anew() {
        let demand = Demand::default();
        let (_, waiting) = told(&demand, "/10.0.0.1").await;
        demand.found(["Kubernetes//Pod/shop/web", "/10.0.0.1"].into_iter());
        assert_eq!(waiting.await.unwrap(), Ok(()));
        demand.missing(["Kubernetes//Pod/shop/web"].into_iter(), true);
        let (changes, _waiting) = told(&demand, "/10.0.0.1").await;
        assert_eq!((changes.unsubscribe.len(), changes.subscribe.len()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_crosses_the_giving_up_is_followed() {
        let demand = Demand::default();
        let (_, waiting) = told(&demand, "shop/web").await;
        assert_eq!(waiting.await.unwrap(), Err(Unanswered::Late));
        assert_eq!(demand.changes().unsubscribe, ["shop/web"]);
        demand.found(["shop/web", "shop/other"].into_iter());
        assert_eq!(demand.changes(), Changes { subscribe: vec!["shop/web".to_owned()], unsubscribe: vec![] });
    }

    #[tokio::test]
    async fn outstanding_names_are_bounded() {
        let demand = Demand::default();
        for number in 0..limits::XDS_DEMAND_OUTSTANDING.size() {
            demand.table().pending.insert(number.to_string(), watch::Sender::new(false));
        }
        assert_eq!(demand.ask("/10.0.0.1", PATIENCE).await, Err(Unanswered::Busy));
    }

    #[tokio::test]
    async fn names_that_do_not_exist_are_bounded_and_the_oldest_given_up() {
        let demand = Demand::default();
        let limit = limits::XDS_DEMAND_ABSENT.size();
        let names: Vec<String> = (0..=limit).map(|number| number.to_string()).collect();
        for name in &names {
            demand.table().pending.insert(name.clone(), watch::Sender::new(false));
            demand.missing(std::iter::once(name.as_str()), true);
        }
        let changes = demand.changes();
        assert!(changes.unsubscribe.contains(&names[0]) && !changes.unsubscribe.contains(&names[limit]));
        assert_eq!(demand.all().len() + changes.unsubscribe.len(), limit + 1);
    }
}
