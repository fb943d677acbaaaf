//! Readiness: a process is ready while no named task holds it back.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// What a process waits for. Cheap to clone; all clones share one list.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    pending: BTreeMap<u64, Arc<str>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Nothing registered yet, so ready: register the tasks of the start before serving the probe.
    pub fn new() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// Registers a task. The process is not ready until the token is marked ready or dropped.
    pub fn block(&self, task: &str) -> ReadyToken {
        let task: Arc<str> = task.into();
        let mut id = 0;
        self.state.send_modify(|state| {
            id = state.next;
            state.next += 1;
            state.pending.insert(id, Arc::clone(&task));
        });
        ReadyToken { id, task, state: Arc::clone(&self.state) }
    }

    /// Names of the tasks that hold readiness back, in the order they were registered.
    pub fn pending(&self) -> Vec<String> {
        self.state.borrow().pending.values().map(ToString::to_string).collect()
    }

    /// Whether nothing holds readiness back.
    pub fn is_ready(&self) -> bool {
        self.state.borrow().pending.is_empty()
    }

    /// Waits until nothing holds readiness back.
    pub async fn wait(&self) {
        let mut changes = self.state.subscribe();
        // The sender lives as long as `self`, so this cannot fail while we wait.
        let _ = changes.wait_for(|state| state.pending.is_empty()).await;
    }
}

/// One task's hold on readiness. Dropping it releases the hold for good.
#[derive(Debug)]
#[must_use = "dropping the token marks the task as ready"]
pub struct ReadyToken {
    id: u64,
    task: Arc<str>,
    state: Arc<watch::Sender<State>>,
}

impl ReadyToken {
    /// The task is ready. May be taken back with [`ReadyToken::unready`].
    pub fn ready(&self) {
        self.state.send_if_modified(|state| state.pending.remove(&self.id).is_some());
    }

    /// The task is not ready (again).
    pub fn unready(&self) {
        self.state.send_if_modified(|state| state.pending.insert(self.id, Arc::clone(&self.task)).is_none());
    }

    /// Marks the task ready or not.
    pub fn set(&self, ready: bool) {
        if ready { self.ready() } else { self.unready() }
    }
}

impl Drop for ReadyToken {
    fn drop(&mut self) {
        self.ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_hold_readiness_until_marked_or_dropped() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let first = readiness.block("xds");
        let second = readiness.block("node socket");
        assert_eq!(readiness.pending(), ["xds", "node socket"]);
        first.ready();
        assert_eq!(readiness.pending(), ["node socket"]);
        drop(second);
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_task_can_become_unready_again() {
        let readiness = Readiness::new();
        let token = readiness.block("node socket");
        token.set(true);
        assert!(readiness.is_ready());
        token.set(false);
        token.set(false);
        assert_eq!(readiness.pending(), ["node socket"]);
        drop(token);
        assert!(readiness.is_ready());
    }

    #[tokio::test]
    async fn wait_ends_when_the_last_token_goes() {
        let readiness = Readiness::new();
        let token = readiness.block("certificates");
        let waiter = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.wait().await }
        });
        drop(token);
        waiter.await.unwrap();
    }
}
