//! Volumes of pods: tokens of their service accounts, configuration and secrets, as files that stay current.

mod supply;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeProjection};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::container::field;
use crate::error::{Doing, Error, Result};
use crate::kubelet::Placement;
use crate::layout::Layout;
pub(crate) use supply::Supply;

/// Pods whose volumes are asked for at once; more wait.
pub(crate) const WAITING_ORDERS: usize = 64;
/// Pause before something that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often files are written anew. A token is replaced long before it ends: the shortest is good for ten minutes.
const RENEWAL: Duration = Duration::from_secs(180);

/// How often it is looked for an optional object that does not exist yet.
const AWAITED: Duration = Duration::from_secs(1);

/// A directory of the lab, and where a pod has it.
pub(crate) type Mount = (PathBuf, PathBuf);

/// The wish for one pod's volumes.
#[derive(Debug)]
pub(crate) struct Order {
    /// The pod, with its uid.
    pub(crate) pod: Arc<Pod>,
    pub(crate) placement: Placement,
    /// Gets the mounts once every file is there, or the reason why that will never be.
    pub(crate) done: oneshot::Sender<Result<Vec<Mount>>>,
}

/// Fulfils orders, and keeps files current as long as the pod's directory exists; for ever.
pub(crate) async fn run(supply: Supply, mut orders: mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        tokio::spawn(fulfil(supply.clone(), order));
    }
}

async fn fulfil(supply: Supply, order: Order) {
    let Order { pod, placement, mut done } = order;
    let root = Layout::inside().pod(&placement.uid).join("volumes");
    let planned = match plan(&pod, &root) {
        Ok(planned) => planned,
        // Whoever asked for a pod that has gone since does not listen; the same holds below.
        Err(error) => return drop(done.send(Err(error))),
    };
    let used: Vec<&Volume> =
        volumes(&pod).filter(|volume| planned.iter().any(|(from, _)| *from == root.join(&volume.name))).collect();
    loop {
        match fill_all(&supply, &pod, &placement, &used, &root).await {
            Ok(()) => break,
            Err(error) => tracing::warn!(%error, "cannot prepare a volume; trying again"),
        }
        tokio::select! {
            () = done.closed() => return,
            () = sleep(RETRY) => {}
        }
    }
    if done.send(Ok(planned)).is_err() {
        return;
    }
    loop {
        sleep(if awaits(&used, &root) { AWAITED } else { RENEWAL }).await;
        if !root.exists() {
            return;
        }
        if let Err(error) = fill_all(&supply, &pod, &placement, &used, &root).await {
            tracing::warn!(%error, "cannot renew a volume; trying again later");
        }
    }
}

/// Whether a volume is empty because what it is of does not exist yet.
fn awaits(used: &[&Volume], root: &Path) -> bool {
    let mut of_object = used.iter().filter(|volume| volume.config_map.is_some() || volume.secret.is_some());
    of_object.any(|volume| fs::read_dir(root.join(&volume.name)).is_ok_and(|mut entries| entries.next().is_none()))
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// Which directory goes where. A pod's containers share their files in the lab.
fn plan(pod: &Pod, root: &Path) -> Result<Vec<Mount>> {
    let mut mounts: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        for mount in container.volume_mounts.iter().flatten() {
            if mount.sub_path.is_some() || mount.sub_path_expr.is_some() {
                return Err(Error::new(format!("volumeMounts: {}: the lab has no subPath", mount.name)));
            }
            mounts.insert(PathBuf::from(&mount.mount_path), root.join(&mount.name));
        }
    }
    Ok(mounts.into_iter().map(|(target, source)| (source, target)).collect())
}

async fn fill_all(supply: &Supply, pod: &Pod, placement: &Placement, used: &[&Volume], root: &Path) -> Result<()> {
    for volume in used {
        let directory = root.join(&volume.name);
        fs::create_dir_all(&directory).doing(|| format!("creating {}", directory.display()))?;
        for (name, content) in files(supply, pod, placement, volume).await? {
            write(&directory, &name, &content)?;
        }
    }
    Ok(())
}

type Files = BTreeMap<String, Vec<u8>>;

async fn files(supply: &Supply, pod: &Pod, placement: &Placement, volume: &Volume) -> Result<Files> {
    let mut files = Files::new();
    let sources = match volume {
        Volume { projected: Some(projected), .. } => projected.sources.clone().unwrap_or_default(),
        Volume { config_map: Some(map), .. } => {
            let found = supply.config_map(pod, &map.name).await?;
            return chosen("ConfigMap", pod, &map.name, found, map.items.as_deref(), map.optional);
        }
        Volume { secret: Some(secret), .. } => {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            let found = supply.secret(pod, name).await?;
            return chosen("Secret", pod, name, found, secret.items.as_deref(), secret.optional);
        }
        Volume { downward_api: Some(api), .. } => return Ok(downward(pod, placement, api.items.as_deref())),
        Volume { empty_dir: Some(_), .. } => return Ok(files),
        other => {
            return Err(Error::new(format!("volume {}: the lab does not have volumes of its kind", other.name))
                .hint("use projected, configMap, secret, downwardAPI or emptyDir"));
        }
    };
    for source in sources {
        files.extend(projection(supply, pod, placement, &source).await?);
    }
    Ok(files)
}

async fn projection(supply: &Supply, pod: &Pod, placement: &Placement, source: &VolumeProjection) -> Result<Files> {
    if let Some(token) = &source.service_account_token {
        let text = supply.token(pod, placement, token).await?;
        return Ok(Files::from([(token.path.clone(), text.into_bytes())]));
    }
    if let Some(map) = &source.config_map {
        let found = supply.config_map(pod, &map.name).await?;
        return chosen("ConfigMap", pod, &map.name, found, map.items.as_deref(), map.optional);
    }
    if let Some(secret) = &source.secret {
        let found = supply.secret(pod, &secret.name).await?;
        return chosen("Secret", pod, &secret.name, found, secret.items.as_deref(), secret.optional);
    }
    if let Some(api) = &source.downward_api {
        return Ok(downward(pod, placement, api.items.as_deref()));
    }
    Err(Error::new("the lab does not know a source of a projected volume"))
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// All keys of what was found under their own names, or those that are asked for under the names asked for.
fn chosen(
    kind: &str,
    pod: &Pod,
    name: &str,
    found: Option<Files>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> Result<Files> {
    let Some(mut data) = found else {
        if optional == Some(true) {
            return Ok(Files::new());
        }
        return Err(Error::new(format!("there is no {kind} {}/{name}", namespace(pod))));
    };
    let Some(items) = items.filter(|items| !items.is_empty()) else { return Ok(data) };
    Ok(items.iter().filter_map(|item| Some((item.path.clone(), data.remove(&item.key)?))).collect())
}

fn downward(pod: &Pod, placement: &Placement, items: Option<&[DownwardAPIVolumeFile]>) -> Files {
    let lines = |map: &Option<BTreeMap<String, String>>| {
        map.iter().flatten().map(|(key, value)| format!("{key}={value:?}\n")).collect::<String>()
    };
    let value = |path: &str| match path {
        "metadata.labels" => lines(&pod.metadata.labels),
        "metadata.annotations" => lines(&pod.metadata.annotations),
        other => field(pod, other, placement).unwrap_or_default(),
    };
    let named = |item: &DownwardAPIVolumeFile| {
        Some((item.path.clone(), value(&item.field_ref.as_ref()?.field_path).into_bytes()))
    };
    items.unwrap_or_default().iter().filter_map(named).collect()
}

/// Writes a file below `directory` unless it is the same already; whoever reads sees the old one or the new one.
fn write(directory: &Path, name: &str, content: &[u8]) -> Result<()> {
    if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Error::new(format!("{name:?} does not stay inside its volume")));
    }
    let path = directory.join(name);
    if fs::read(&path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).doing(|| format!("creating {}", parent.display()))?;
    }
    let temporary = path.with_extension("partial");
    fs::write(&temporary, content)
        .and_then(|()| fs::rename(&temporary, &path))
        .doing(|| format!("writing {}", path.display()))
}

/// Makes the place where a pod wants a directory. The lab's files are the host's, except below `/run`.
pub(crate) fn make_mount_point(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let nearest = path.ancestors().find_map(|ancestor| ancestor.canonicalize().ok());
    if nearest.is_some_and(|nearest| nearest.starts_with("/run")) {
        return fs::create_dir_all(path).doing(|| format!("creating {}", path.display()));
    }
    Err(Error::new(format!("mountPath: {} is no directory of this machine", path.display()))
        .hint("mount it below /run, or over a directory that exists"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_stay_in_their_volume_and_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "deep/token", b"1").unwrap();
        write(directory.path(), "deep/token", b"2").unwrap();
        assert_eq!(fs::read(directory.path().join("deep/token")).unwrap(), b"2");
        for name in ["../token", "/token", "a/../../b"] {
            assert!(write(directory.path(), name, b"").is_err(), "{name}");
        }
    }

    #[test]
    fn items_rename_keys_and_leave_out_the_rest() {
        let data = Files::from([("a".to_owned(), vec![1]), ("b".to_owned(), vec![2])]);
        let items = [KeyToPath { key: "b".into(), path: "c/d".into(), mode: None }];
        let pod = Pod::default();
        let chosen =
            |found: Option<&Files>, items, optional| chosen("Secret", &pod, "s", found.cloned(), items, optional).ok();
        assert_eq!(chosen(Some(&data), Some(&items), None), Some(Files::from([("c/d".to_owned(), vec![2])])));
        assert_eq!(chosen(Some(&data), None, None).as_ref(), Some(&data));
        assert_eq!(chosen(None, None, Some(true)), Some(Files::new()));
        assert_eq!(chosen(None, None, None), None);
    }

    #[test]
    fn a_pod_has_its_volumes_where_its_containers_mount_them() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "volumeMounts": [
            {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]}]}}))
        .unwrap();
        let expected = (PathBuf::from("/v/token"), PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount"));
        assert_eq!(plan(&pod, Path::new("/v")).unwrap(), [expected]);
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "volumeMounts": [
            {"name": "v", "mountPath": "/x", "subPath": "y"}]}]}}))
        .unwrap();
        assert!(plan(&pod, Path::new("/v")).is_err());
    }
}
