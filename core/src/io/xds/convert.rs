//! One resource from the wire into one update of the world, or the reason why not.

use fairway_proto::discovery::Resource;
use fairway_proto::security::Authorization;
use fairway_proto::workload::{Address, address};
use prost::Message;

use super::session::ResourceType;
use crate::policy::{Policy, PolicyKey, RejectedPolicy};
use crate::service::Service;
use crate::snapshot::Update;
use crate::workload::Workload;

/// A resource that could not be used.
#[derive(Debug)]
pub(super) struct Unusable {
    /// For the control plane and the log.
    pub(super) reason: String,
    /// What the world must know of it nevertheless: a policy that is not understood refuses.
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
        ResourceType::Address => address(&any.value),
        ResourceType::Authorization => policy(&resource.name, &any.value),
    }
}

fn address(bytes: &[u8]) -> Result<Update, Unusable> {
    let message = Address::decode(bytes).map_err(Unusable::only)?;
    match message.r#type {
        Some(address::Type::Workload(workload)) => Ok(Workload::try_from(workload).map_err(Unusable::only)?.into()),
        Some(address::Type::Service(service)) => Ok(Service::try_from(service).map_err(Unusable::only)?.into()),
        None => Err(Unusable::only("it is neither a workload nor a service")),
    }
}

fn policy(name: &str, bytes: &[u8]) -> Result<Update, Unusable> {
    let rejected = match Authorization::decode(bytes) {
        Ok(message) => match Policy::try_from(message) {
            Ok(policy) => return Ok(policy.into()),
            Err(rejected) => rejected,
        },
        // Only the resource's name can say what it would have covered.
        Err(error) => match name.parse::<PolicyKey>() {
            Ok(key) => Box::new(RejectedPolicy::undecodable(key, &error)),
            Err(_) => return Err(Unusable::only(error)),
        },
    };
    Err(Unusable { reason: rejected.error.to_string(), update: Some(rejected.into()) })
}
