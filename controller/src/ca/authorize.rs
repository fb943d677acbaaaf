//! Which identity a caller may have a certificate for; pure (interop §4.3).

use std::collections::BTreeSet;

use fairway_core::ident::{Identity, IdentityError};
use fairway_core::source::{Kind, MeshPod, Objects};
use tonic::{Code, Status};

use crate::token::Caller;

/// Who may ask for others, and in which trust domain.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Namespaces and service accounts of node proxies.
    pub trusted: BTreeSet<(String, String)>,
    /// The only trust domain that is signed for.
    pub trust_domain: String,
}

/// Why a caller does not get the certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not an identity.
    #[error("{requested:?} is not an identity: {error}")]
    Identity {
        /// What was asked for.
        requested: String,
        /// What is wrong.
        error: IdentityError,
    },
    /// Another mesh.
    #[error("{0} is of another trust domain than {1:?}; compare the trust domains of proxy and controller")]
    TrustDomain(Identity, String),
    /// An ordinary account that asks for others.
    #[error("service account {0} may ask for its own identity only; node proxies are named in --trusted-node-accounts")]
    NotTrusted(String),
    /// The token names no pod.
    #[error("the token of {0} is not bound to a pod, so its node is unknown; use a projected token")]
    Unbound(String),
    /// The pod is not known, or is another one of the same name.
    #[error("pod {0} with uid {1:?} is not known; it may have been replaced, or not be visible yet: try again")]
    UnknownPod(String, String),
    /// The pod runs as somebody else.
    #[error("pod {0} does not run as service account {1}")]
    OtherAccount(String, String),
    /// The pod has no node, or another one than the token says.
    #[error("the node of pod {0} is not known or not the one its token names; try again once it is scheduled")]
    OtherNode(String),
    /// Nothing on the node has the identity.
    #[error("no pod on node {node:?} runs as {identity}; if one was just created, try again")]
    NotOnNode {
        /// Node of the caller.
        node: String,
        /// What was asked for.
        identity: Identity,
    },
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::Identity { .. } => Code::InvalidArgument,
            Refusal::Unbound(_) | Refusal::UnknownPod(..) | Refusal::OtherAccount(..) => Code::Unauthenticated,
            Refusal::TrustDomain(..) | Refusal::NotTrusted(_) | Refusal::OtherNode(_) | Refusal::NotOnNode { .. } => {
                Code::PermissionDenied
            }
        };
        Self::new(code, refusal.to_string())
    }
}

/// The identity the caller gets a certificate for: its own, or `requested` if it may ask for that.
///
/// # Errors
/// Why it may not.
pub fn authorize(
    caller: &Caller,
    requested: Option<&str>,
    objects: &Objects,
    rules: &Rules,
) -> Result<Identity, Refusal> {
    let own = Identity::new(&rules.trust_domain, &caller.namespace, &caller.service_account)
        .map_err(|error| Refusal::Identity { requested: caller.to_string(), error })?;
    let Some(requested) = requested.filter(|requested| !requested.is_empty()) else {
        return Ok(own);
    };
    let identity: Identity =
        requested.parse().map_err(|error| Refusal::Identity { requested: requested.to_owned(), error })?;
    if identity.trust_domain() != rules.trust_domain {
        return Err(Refusal::TrustDomain(identity, rules.trust_domain.clone()));
    }
    if identity == own {
        return Ok(own);
    }
    let account = format!("{}/{}", caller.namespace, caller.service_account);
    if !rules.trusted.contains(&(caller.namespace.clone(), caller.service_account.clone())) {
        return Err(Refusal::NotTrusted(account));
    }
    let node = node_of(caller, &account, objects)?;
    let runs_there = Objects::within(&objects.pods, Kind::Pod, identity.namespace()).any(|(_, pod)| {
        pod.node() == Some(node) && *pod.service_account == *identity.service_account() && !pod.is_terminal
    });
    if runs_there { Ok(identity) } else { Err(Refusal::NotOnNode { node: node.to_owned(), identity }) }
}

/// The node of the caller's pod, as the objects say; the token alone is not enough, because a pod may be gone.
fn node_of<'a>(caller: &Caller, account: &str, objects: &'a Objects) -> Result<&'a str, Refusal> {
    let Some(claim) = &caller.pod else {
        return Err(Refusal::Unbound(account.to_owned()));
    };
    let name = format!("{}/{}", caller.namespace, claim.name);
    let pod: &'a MeshPod = objects
        .pod(&caller.namespace, &claim.name)
        .filter(|pod| pod.uid() == Some(claim.uid.as_str()) && !pod.is_terminal)
        .ok_or_else(|| Refusal::UnknownPod(name.clone(), claim.uid.clone()))?;
    if *pod.service_account != *caller.service_account {
        return Err(Refusal::OtherAccount(name, account.to_owned()));
    }
    match (pod.node(), claim.node.as_deref()) {
        (Some(node), None) => Ok(node),
        (Some(node), Some(claimed)) if node == claimed => Ok(node),
        _ => Err(Refusal::OtherNode(name)),
    }
}
