//! One resource as it is sent: its name, its content, and a version that says which content.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_core::io::xds::digest::Entry;
use fairway_proto::security::{Authorization, Scope};
use fairway_proto::workload::{Address, NetworkAddress, Service, Workload, address};
use prost::Message;

use crate::translate::service;

/// Bytes of the SHA-256 that make a version: enough that two contents never share one.
const VERSION_BYTES: usize = 16;
/// Fields of an `Address`.
const WORKLOAD: u8 = 1;
const SERVICE: u8 = 2;
/// Wire type of a field that is a message.
const LENGTH_DELIMITED: u8 = 2;

/// One resource as it is sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its key.
    pub name: Arc<str>,
    /// Hash of the content.
    pub version: String,
    /// The encoded message.
    pub body: Vec<u8>,
    /// Other names it can be asked for by: `<network>/<address>`.
    pub aliases: Vec<String>,
    /// It is a policy that concerns only the workloads that list it.
    pub is_listed: bool,
    /// Name and version as digests of what clients hold have them.
    pub entry: Entry,
}

impl Resource {
    /// A resource whose version is that of its content.
    #[must_use]
    pub fn new(name: Arc<str>, body: Vec<u8>, aliases: Vec<String>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, &body);
        let version = hexadecimal(digest.as_ref().iter().take(VERSION_BYTES));
        let entry = Entry::new(&name, &version);
        Self { name, version, body, aliases, is_listed: false, entry }
    }

    /// What a workload is sent as.
    #[must_use]
    pub fn of_workload(workload: &Workload) -> Self {
        let aliases = workload.addresses.iter().filter_map(|octets| alias(&workload.network, octets));
        Self::new(workload.uid.as_str().into(), as_address(WORKLOAD, workload), aliases.collect())
    }

    /// What a service is sent as.
    #[must_use]
    pub fn of_service(service: &Service) -> Self {
        let aliases = service.addresses.iter().filter_map(|NetworkAddress { network, address, length }| {
            let alias = alias(network, address)?;
            Some(length.map_or_else(|| alias.clone(), |length| format!("{alias}/{length}")))
        });
        Self::new(service::key(service).into(), as_address(SERVICE, service), aliases.collect())
    }

    /// What a policy is sent as.
    #[must_use]
    pub fn of_policy(policy: &Authorization) -> Self {
        let name = format!("{}/{}", policy.namespace, policy.name);
        let is_listed = policy.scope() == Scope::WorkloadSelector;
        Self { is_listed, ..Self::new(name.into(), policy.encode_to_vec(), Vec::new()) }
    }

    /// The workload or service that it is; nothing if it is something else.
    #[must_use]
    pub fn address(&self) -> Option<address::Type> {
        Address::decode(self.body.as_slice()).ok()?.r#type
    }

    /// The workload that it is, if it is one.
    #[must_use]
    pub fn workload(&self) -> Option<Workload> {
        match self.address()? {
            address::Type::Workload(workload) => Some(workload),
            address::Type::Service(_) => None,
        }
    }
}

/// An `Address` with this message in this field, encoded without a copy of the message.
fn as_address(field: u8, message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut body = Vec::with_capacity(prost::length_delimiter_len(length).saturating_add(length).saturating_add(1));
    body.push(field << 3 | LENGTH_DELIMITED);
    // A vector has room for everything.
    let _ = message.encode_length_delimited(&mut body);
    body
}

fn hexadecimal<'a>(bytes: impl Iterator<Item = &'a u8>) -> String {
    let digit = |four: u8| char::from_digit(four.into(), 16);
    bytes.flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).flatten().collect()
}

fn alias(network: &str, octets: &[u8]) -> Option<String> {
    let address = match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
    };
    Some(format!("{network}/{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_and_services_are_addresses() {
        let workload = Workload { uid: "u".repeat(300), addresses: vec![vec![10, 0, 0, 1]], ..Workload::default() };
        let resource = Resource::of_workload(&workload);
        let whole = Address { r#type: Some(address::Type::Workload(workload.clone())) };
        assert_eq!(resource.body, whole.encode_to_vec());
        assert_eq!(
            (resource.body.capacity(), resource.aliases.as_slice()),
            (resource.body.len(), &["/10.0.0.1".to_owned()][..])
        );
        assert_eq!(resource.workload(), Some(workload));
        let service = Service { hostname: "web.shop".into(), namespace: "shop".into(), ..Service::default() };
        let resource = Resource::of_service(&service);
        let whole = Address { r#type: Some(address::Type::Service(service)) };
        assert_eq!((&*resource.name, &resource.body), ("shop/web.shop", &whole.encode_to_vec()));
        assert_eq!(resource.workload(), None);
    }

    #[test]
    fn a_version_is_the_beginning_of_the_hash_in_hexadecimal() {
        // FIPS 180-2, B.1.
        assert_eq!(Resource::new("a".into(), b"abc".to_vec(), Vec::new()).version, "ba7816bf8f01cfea414140de5dae2223");
    }
}
