//! Settings of a proxy without node agent, without control plane, or without either (interop §11).

use std::path::PathBuf;

use fairway_core::config::SettingError;
use fairway_core::io::grpc::ControlPlaneConfig;

use super::{set, wrong};
use crate::node::PodInfo;

/// Whom the proxy serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The pods of a node, as its agent says.
    Shared {
        /// Socket of the node agent.
        node_socket: PathBuf,
        /// Our own pod, where it is known who that is: tunnels to it are taken, too.
        ourselves: Option<PodInfo>,
    },
    /// One workload, in our own network namespace.
    Dedicated(PodInfo),
}

/// Configuration besides what a control plane gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// A file, followed while we run.
    File(PathBuf),
    /// The text itself.
    Text(String),
}

/// Who signs certificates.
#[derive(Clone, Debug)]
pub enum Signer {
    /// A certificate authority.
    ControlPlane(ControlPlaneConfig),
    /// Ourselves, for tests: with the root in this file.
    Test(PathBuf),
}

/// Reads the mode. `ourselves` is who our own pod is, where all of that is set.
pub(super) fn mode(
    mode: &str,
    workload: Option<&str>,
    node_socket: PathBuf,
    ourselves: PodInfo,
) -> Result<Mode, SettingError> {
    let workload = set(workload);
    match set(Some(mode)).unwrap_or("shared") {
        "shared" => match workload {
            Some(given) => Err(wrong("PROXY_WORKLOAD_INFO", given, "it goes with PROXY_MODE=dedicated; leave it out")),
            None => {
                let known = [&ourselves.name, &ourselves.namespace, &ourselves.service_account];
                let ourselves = known.iter().all(|part| !part.is_empty()).then_some(ourselves);
                Ok(Mode::Shared { node_socket, ourselves })
            }
        },
        "dedicated" => {
            let given = workload.unwrap_or_default();
            let mut parts = given.split('/').map(str::to_owned);
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(namespace), Some(name), Some(service_account), None)
                    if ![&namespace, &name, &service_account].iter().any(|part| part.is_empty()) =>
                {
                    Ok(Mode::Dedicated(PodInfo { name, namespace, service_account }))
                }
                _ => Err(wrong("PROXY_WORKLOAD_INFO", given, "write namespace/name/serviceaccount of the workload")),
            }
        }
        other => Err(wrong("PROXY_MODE", other, "write `shared` for a node or `dedicated` for one workload")),
    }
}

/// Reads where configuration comes from besides the control plane.
pub(super) fn local(path: Option<&str>, text: Option<&str>) -> Result<Option<Local>, SettingError> {
    match (set(path), set(text)) {
        (Some(path), Some(_)) => Err(wrong("LOCAL_XDS_PATH", path, "LOCAL_XDS is set as well; leave one of them out")),
        (Some(path), None) => Ok(Some(Local::File(path.into()))),
        (None, Some(text)) => Ok(Some(Local::Text(text.to_owned()))),
        (None, None) => Ok(None),
    }
}

/// Reads the mark for our packets. Capture rules inside pods know one mark only; who writes rules for a dedicated proxy
/// chooses, or leaves it away and with it the right it takes.
pub(super) fn packet_mark(mode: &Mode, text: Option<&str>, usual: u32) -> Result<Option<u32>, SettingError> {
    let Some(text) = set(text) else {
        return Ok(matches!(mode, Mode::Shared { .. }).then_some(usual));
    };
    let mark: u32 = super::parse("PACKET_MARK", text)?;
    match mode {
        Mode::Shared { .. } if mark != usual => {
            Err(wrong("PACKET_MARK", text, "the capture rules know only mark 1337; leave it out"))
        }
        _ => Ok(Some(mark).filter(|mark| *mark != 0)),
    }
}
