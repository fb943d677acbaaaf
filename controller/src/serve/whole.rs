//! Discovery as the state of the world, which gRPC's own clients speak; and the question how far each proxy is.

use std::sync::Arc;

use fairway_core::io::drain::Drain;
use fairway_proto::discovery::{DiscoveryRequest, DiscoveryResponse};
use fairway_proto::type_url::SYNC_STATUS;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::age::Age;
use super::clients::Clients;
use super::session::Event;
use super::{Leave, check_node, describe, status};
use crate::l7::Client;
use crate::metrics::Metrics;
use crate::state::Published;
use crate::token::Caller;
use crate::world::ResourceType;

mod session;

use session::Session;

/// One stream.
pub(super) struct Stream {
    pub(super) requests: Streaming<DiscoveryRequest>,
    pub(super) answers: mpsc::Sender<Result<DiscoveryResponse, Status>>,
    pub(super) published: watch::Receiver<Arc<Published>>,
    pub(super) metrics: Metrics,
    pub(super) clients: Clients,
    /// Namespace whose callers see all proxies.
    pub(super) root_namespace: String,
    pub(super) age: Age,
}

impl Stream {
    /// Serves until the client goes or the drain starts.
    pub(super) async fn serve(mut self, caller: Caller, mut drain: Drain) {
        let answers = self.answers.clone();
        let ended = tokio::select! {
            ended = self.run(&caller) => ended,
            _ = drain.started() => Err(Status::unavailable("the controller is shutting down; connect again")),
            () = answers.closed() => Ok(()),
        };
        if let Err(status) = ended {
            // Nobody listens when the client has gone.
            let _ = answers.send(Err(status)).await;
        }
    }

    async fn run(&mut self, caller: &Caller) -> Result<(), Status> {
        let Some(first) = self.requests.message().await? else { return Ok(()) };
        if first.type_url == SYNC_STATUS {
            let namespace = (caller.namespace != self.root_namespace).then_some(caller.namespace.as_str());
            return status::answer(first, &mut self.requests, &self.answers, &self.clients, namespace).await;
        }
        if !ResourceType::find(&first.type_url).is_some_and(ResourceType::is_l7) {
            return Err(Status::unimplemented(format!(
                "{:?} is not served as the state of the world; subscribe by delta",
                first.type_url
            )));
        }
        let node = first.node.clone().unwrap_or_default();
        check_node(&node, caller)?;
        let client = Client::new(&node, &caller.namespace, &caller.service_account);
        let described = describe(&node, caller, false, client.gateway.as_ref());
        let id = described.id.clone();
        let membership = self.clients.join(described);
        let connected = self.metrics.clients.clone();
        connected.increment(1.0);
        let _leave = Leave(connected);
        tracing::info!(client = id, caller = %caller, "discovery client connected");
        let mut session = Session::of(client);
        self.take(&mut session, first, &id)?;
        let result = self.exchange(&mut session, &id, &membership).await;
        tracing::info!(client = id, reason = result.as_ref().err().map(Status::message), "discovery client left");
        result
    }

    async fn exchange(
        &mut self,
        session: &mut Session,
        id: &str,
        membership: &super::clients::Membership,
    ) -> Result<(), Status> {
        loop {
            let published = Arc::clone(&self.published.borrow_and_update());
            // Before the first reading an empty world would withdraw what clients hold.
            if published.world.generation > 0 {
                for response in session.plan(&published.world)? {
                    self.metrics.responses.increment(1);
                    if self.answers.send(Ok(response)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            membership.update(session.progress());
            tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => self.take(session, request, id)?,
                    None => return Ok(()),
                },
                () = self.age.over() => return Ok(()),
                changed = self.published.changed() => {
                    changed.map_err(|_| Status::unavailable("the controller is shutting down; connect again"))?;
                }
            }
        }
    }

    fn take(&self, session: &mut Session, request: DiscoveryRequest, id: &str) -> Result<(), Status> {
        match session.receive(request) {
            Event::Refused(kind, message) => {
                self.metrics.nacks.increment(1);
                tracing::warn!(client = id, r#type = kind.short_name(), message, "discovery client refused a response");
            }
            Event::UnknownType(type_url) => {
                tracing::debug!(client = id, type_url, "discovery client asked for a type that is not served");
            }
            Event::Flood => {
                return Err(Status::resource_exhausted("more names are asked for than are served to one client"));
            }
            event => tracing::trace!(client = id, ?event, "discovery request"),
        }
        Ok(())
    }
}
