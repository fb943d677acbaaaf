//! Waypoints from birth to death: a Gateway of class `fairway-waypoint` becomes objects of its own, which are kept as they
//! should be.
//!
//! [`render`] says what the objects are and [`conditions`] what users are told, both pure; [`owned`] watches what there is,
//! [`apply`] changes it; [`automatic`] makes gateways where namespaces ask for it; [`directory`] does both where there are manifests and no API server. Who deletes a gateway deletes what was made of it: that is left to the cluster, by owner references.

mod apply;
pub mod automatic;
pub mod conditions;
pub mod directory;
pub mod owned;
pub mod render;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fairway_core::io::drain::Drain;
use fairway_core::source::Kind;
use fairway_core::source::cluster::api_resource;
use fairway_core::source::gateway::Gateway;
use fairway_core::source::labels::WAYPOINT_CLASS;
use tokio::sync::watch;

use crate::api_server::{self, Complaints, Name};
use crate::state::Published;
use crate::status::condition::now;
use crate::status::lease::Leadership;
use apply::Applied;
use conditions::Outcome;
use owned::Owned;
use render::{Part, WaypointSettings};

/// Time changes are gathered before they are worked on: an object that is made changes several times.
const GATHER: Duration = Duration::from_millis(50);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// How often all is looked at without a change, for what cannot be watched: objects of others that are in the way.
const AGAIN: Duration = Duration::from_secs(30);

/// Keeps waypoints while `leads` says so, until the drain starts.
pub async fn run(
    client: kube::Client,
    mut published: watch::Receiver<Arc<Published>>,
    mut leads: Leadership,
    settings: WaypointSettings,
    mut drain: Drain,
) {
    let owned = Owned::watch(&client);
    let complaints = (Complaints::new("waypoint"), Complaints::new("class of waypoints"));
    let mut keeper = Keeper { client, settings, applied: BTreeMap::new(), complaints };
    loop {
        let loaded = Arc::clone(&published.borrow_and_update().loaded);
        let mut is_behind = false;
        if leads.may_write() && !loaded.is_never_read() && owned.view().is_complete() {
            let gateways = loaded.objects.gateways.values();
            let ours = gateways.filter(|gateway| gateway.spec.gateway_class_name == WAYPOINT_CLASS).map(Arc::as_ref);
            is_behind = !keeper.round(&owned, ours.collect(), &mut leads).await;
        }
        let pause = if is_behind { RETRY } else { AGAIN };
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            changed = leads.changed() => if changed.is_err() { return },
            () = owned.changed.notified() => {}
            () = tokio::time::sleep(pause) => {}
            _ = drain.started() => return,
        }
        tokio::time::sleep(GATHER).await;
    }
}

struct Keeper {
    client: kube::Client,
    settings: WaypointSettings,
    applied: BTreeMap<Name, (String, Applied)>,
    /// About waypoints, and about classes.
    complaints: (Complaints, Complaints),
}

impl Keeper {
    /// Looks at everything once; whether all is as it should be.
    async fn round(&mut self, owned: &Owned, gateways: Vec<&Gateway>, leads: &mut Leadership) -> bool {
        let mut is_done = self.classes(owned).await;
        if !owned.view().classes.contains_key(WAYPOINT_CLASS) {
            // The class is missing, or somebody else's: so are its gateways.
            return is_done;
        }
        let name = |gateway: &Gateway| -> Name {
            let metadata = &gateway.metadata;
            (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
        };
        let present: Vec<Name> = gateways.iter().map(|gateway| name(gateway)).collect();
        self.applied.retain(|name, _| present.contains(name));
        self.complaints.0.forget_but(|name| present.contains(name));
        for gateway in gateways.into_iter().filter(|gateway| gateway.metadata.deletion_timestamp.is_none()) {
            if !leads.may_write() {
                return false;
            }
            is_done &= self.gateway(owned, gateway, name(gateway)).await;
        }
        is_done
    }

    async fn gateway(&mut self, owned: &Owned, gateway: &Gateway, name: Name) -> bool {
        let uid = gateway.metadata.uid.clone().unwrap_or_default();
        let outcome = match render::render(gateway, &self.settings) {
            Err(fault) => Outcome::Refused(fault),
            Ok(wanted) => {
                let (known, applied) = self.applied.entry(name.clone()).or_default();
                if *known != uid {
                    (*known, *applied) = (uid, Applied::default());
                }
                match apply::make(&self.client, owned, gateway, wanted, applied).await {
                    Err(error) => Outcome::Failed(error),
                    Ok(()) => {
                        let view = owned.view();
                        let deployment = view.objects.get(&(Part::Deployment, name.clone()));
                        let (ready, wanted) = deployment.map(|it| it.pods).unwrap_or_default();
                        Outcome::Made { ready, wanted }
                    }
                }
            }
        };
        let mut result = match &outcome {
            Outcome::Failed(why) => Err(why.clone()),
            _ => Ok(()),
        };
        if let Some(status) = conditions::status(gateway, &outcome, &self.settings.cluster_domain, &now()) {
            let said = api_server::say(&self.client, &api_resource(Kind::Gateway), &name.0, &name.1, &status).await;
            result = result.and(said);
        }
        self.complaints.0.note(name, result)
    }

    /// Says of our classes that they are.
    async fn classes(&mut self, owned: &Owned) -> bool {
        let classes: Vec<_> = owned.view().classes.iter().map(|(name, class)| (name.clone(), class.clone())).collect();
        let mut is_done = true;
        for (name, class) in classes {
            let Some(status) = conditions::class(class.generation, &class.conditions, &now()) else { continue };
            let result = api_server::say(&self.client, &owned::class_resource(), "", &name, &status).await;
            is_done &= self.complaints.1.note((String::new(), name), result);
        }
        is_done
    }
}
