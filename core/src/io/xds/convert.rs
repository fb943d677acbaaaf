//! One resource from the wire into one update of the world, or the reason why not.

use fairway_proto::discovery::Resource;
use fairway_proto::security::{self, Authorization};
use fairway_proto::workload::{Address, address};
use prost::Message;

use super::session::ResourceType;
use crate::invalid::{Invalid, Kind, Problem};
use crate::policy::{Policy, PolicyKey, RejectedPolicy, Scope};
use crate::service::Service;
use crate::snapshot::{RefusedResource, Update};
use crate::workload::Workload;

/// A resource that could not be used.
#[derive(Debug)]
pub(super) struct Unusable {
    /// For the control plane and the log.
    pub(super) reason: String,
    /// What the world must know of it nevertheless: a policy that is not understood refuses, and so do the addresses of
    /// a workload or service.
    pub(super) update: Option<Update>,
}

impl Unusable {
    fn only(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), update: None }
    }
}

pub(super) fn update(resource_type: ResourceType, resource: Resource) -> Result<Update, Unusable> {
    let Some(any) = resource.resource else {
        return Err(Unusable::only("the resource is empty"));
    };
    if any.type_url != resource_type.url() {
        return Err(Unusable::only(format!("its type is {:?}, not the one of the response", any.type_url)));
    }
    match resource_type {
        ResourceType::Address => address(&resource.name, &any.value),
        ResourceType::Authorization => policy(&resource.name, &any.value),
    }
}

fn address(name: &str, bytes: &[u8]) -> Result<Update, Unusable> {
    let message = Address::decode(bytes).map_err(|error| Unusable {
        reason: error.to_string(),
        update: Some(Update::RefusedAddress(Box::new(RefusedResource::undecodable(name, bytes)))),
    })?;
    let (converted, refused) = match message.r#type {
        Some(address::Type::Workload(message)) => {
            let refused = RefusedResource::workload(name, &message);
            let converted = Workload::try_from(message).and_then(|workload| {
                named(name, workload.uid.as_str(), Kind::Workload, "uid").map(|()| workload.into())
            });
            (converted, refused)
        }
        Some(address::Type::Service(message)) => {
            let refused = RefusedResource::service(name, &message);
            let converted = Service::try_from(message).and_then(|service| {
                named(name, service.key.as_str(), Kind::Service, "hostname").map(|()| service.into())
            });
            (converted, refused)
        }
        None => return Err(Unusable::only("it is neither a workload nor a service")),
    };
    converted.map_err(|error| Unusable {
        reason: error.to_string(),
        update: Some(Update::RefusedAddress(Box::new(refused))),
    })
}

fn policy(name: &str, bytes: &[u8]) -> Result<Update, Unusable> {
    let rejected = match Authorization::decode(bytes) {
        Ok(message) => {
            let says = PolicyKey::new(&message.namespace, &message.name);
            let key = PolicyKey::of_resource(name);
            let (scope, dry_run) = (message.scope(), message.dry_run);
            match Policy::try_from(message) {
                Ok(policy) if policy.key == key => return Ok(policy.into()),
                Err(rejected) if rejected.key == key => rejected,
                Ok(_) | Err(_) => Box::new(misnamed(key, &says, scope, dry_run)),
            }
        }
        // Only the resource's name can say what it would have covered.
        Err(error) => match name.parse::<PolicyKey>() {
            Ok(key) => Box::new(RejectedPolicy::undecodable(key, &error)),
            Err(_) => return Err(Unusable::only(error)),
        },
    };
    Err(Unusable { reason: rejected.error.to_string(), update: Some(rejected.into()) })
}

/// A policy that came under a name that is not its own.
fn misnamed(key: PolicyKey, says: &PolicyKey, scope: security::Scope, dry_run: bool) -> RejectedPolicy {
    let scope = match scope {
        security::Scope::WorkloadSelector => Scope::WorkloadSelector,
        security::Scope::Namespace if !key.namespace().is_empty() => Scope::Namespace,
        // The name says no namespace, so nobody is known not to be covered.
        security::Scope::Namespace | security::Scope::Global => Scope::Global,
    };
    let error = not_named(key.resource_name(), says.as_str(), Kind::Policy, "name");
    RejectedPolicy { key, scope: Some(scope), dry_run, error }
}

fn named(name: &str, says: &str, kind: Kind, field: &str) -> Result<(), Invalid> {
    if says == name { Ok(()) } else { Err(not_named(name, says, kind, field)) }
}

fn not_named(name: &str, says: &str, kind: Kind, field: &str) -> Invalid {
    Invalid { kind, name: name.into(), field: field.into(), problem: Problem::Name(says.into()) }
}
