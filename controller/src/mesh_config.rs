//! Follows the file of the mesh configuration, which a volume replaces as a whole by swapping a link: what is read anew counts, and
//! what cannot be used leaves the last good one in force.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fairway_core::io::drain::Drain;
use tokio::sync::watch;

use crate::l7::mesh::{self, Mesh};
use crate::metrics::Metrics;

/// Time between looks. In full each time: a volume that swaps a link keeps sizes and times.
const LOOK: Duration = Duration::from_secs(2);
/// Largest mesh configuration; a config map holds no more.
const MAXIMUM_BYTES: u64 = 1024 * 1024;

/// What is in force, and what is wrong with the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The last good one.
    pub mesh: Mesh,
    /// Why the file as it is now does not count.
    pub trouble: Option<String>,
}

impl State {
    /// Nothing is wrong with this one.
    #[must_use]
    pub fn of(mesh: Mesh) -> Self {
        Self { mesh, trouble: None }
    }

    /// What follows from a look at the file.
    #[must_use]
    pub fn after(&self, look: Result<String, String>) -> Self {
        match look.and_then(|text| mesh::read(&text).map_err(|error| error.to_string())) {
            Ok(mesh) => Self::of(mesh),
            Err(trouble) => Self { mesh: self.mesh.clone(), trouble: Some(trouble) },
        }
    }
}

/// Reads a file with a mesh configuration.
///
/// # Errors
/// What the system says, or that it is too long.
pub fn text(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(MAXIMUM_BYTES + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAXIMUM_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {MAXIMUM_BYTES} bytes")));
    }
    Ok(text)
}

/// Follows the file, of which `first` was read, until the drain starts.
#[must_use]
pub fn follow(file: Option<PathBuf>, first: Mesh, metrics: Metrics, drain: Drain) -> watch::Receiver<State> {
    warn(&first);
    let (current, receiver) = watch::channel(State::of(first));
    if let Some(file) = file {
        tokio::spawn(keep(file, current, metrics, drain));
    }
    receiver
}

async fn keep(file: PathBuf, current: watch::Sender<State>, metrics: Metrics, mut drain: Drain) {
    let mut seen = None;
    loop {
        let look = text(&file).map_err(|error| error.to_string());
        if seen.as_ref() != Some(&look) {
            seen = Some(look.clone());
            let next = current.borrow().after(look);
            metrics.set_mesh_config_refused(next.trouble.is_some());
            take(&file, &current, next);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = drain.started() => return,
        }
    }
}

fn warn(mesh: &Mesh) {
    for odd in mesh.odd.iter() {
        tracing::warn!("the mesh configuration: {odd}");
    }
}

fn take(file: &Path, current: &watch::Sender<State>, next: State) {
    let file = file.display();
    let before = current.borrow().clone();
    match &next.trouble {
        Some(trouble) if before.trouble.as_ref() != Some(trouble) => {
            let holds =
                if next.mesh == Mesh::default() { "no provider is known" } else { "the last good one stays in force" };
            tracing::error!(%file, "the mesh configuration cannot be used, and {holds}: {trouble}");
        }
        None if before != next => {
            tracing::info!(%file, "another mesh configuration is in force");
            warn(&next.mesh);
        }
        _ => {}
    }
    current.send_if_modified(|state| {
        let is_new = *state != next;
        *state = next;
        is_new
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use fairway_core::io::drain;

    use super::*;

    fn naming(provider: &str) -> String {
        format!("extensionProviders:\n- {{name: {provider}, envoyExtAuthzGrpc: {{service: a.shop, port: 1}}}}\n")
    }

    #[test]
    fn the_last_good_one_stays_where_the_next_cannot_be_used() {
        let good = State::default().after(Ok(naming("a")));
        assert!(good.trouble.is_none() && good.mesh.authorizers.contains_key("a"));
        let rows = [
            (Ok("extensionProviders: 1".to_owned()), "cannot be read"),
            (Ok("extensionProviders: [{name: b, envoyExtAuthzGrpc: {service: a.shop}}]".to_owned()), "port is missing"),
            (Err("gone".to_owned()), "gone"),
        ];
        for (look, why) in rows {
            let next = good.after(look);
            assert_eq!(next.mesh, good.mesh);
            assert!(next.trouble.as_ref().is_some_and(|trouble| trouble.contains(why)), "{next:?}");
            assert!(next.after(Ok(naming("b"))).mesh.authorizers.contains_key("b"));
        }
        assert_eq!(good.after(Ok(String::new())), State::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_that_swaps_its_link_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let (file, data) = (root.path().join("mesh"), root.path().join("..data"));
        for (version, text) in [("1", naming("a")), ("2", "no: [".to_owned()), ("3", naming("b"))] {
            std::fs::create_dir(root.path().join(version)).unwrap();
            std::fs::write(root.path().join(version).join("mesh"), text).unwrap();
        }
        symlink("1", &data).unwrap();
        symlink("..data/mesh", &file).unwrap();
        let swap = |version: &str| {
            symlink(version, root.path().join("next")).unwrap();
            std::fs::rename(root.path().join("next"), &data).unwrap();
        };
        let (_trigger, drain) = drain::new();
        let first = mesh::read(&text(&file).unwrap()).unwrap();
        let metrics = Metrics::new();
        let mut states = follow(Some(file), first.clone(), metrics.clone(), drain);
        let refused = |page: &str| page.lines().any(|line| line == "fairway_mesh_config_refused 1");
        swap("2");
        states.changed().await.unwrap();
        assert!(states.borrow_and_update().trouble.is_some() && states.borrow().mesh == first);
        assert!(refused(&metrics.registry().render()));
        swap("3");
        states.changed().await.unwrap();
        let state = states.borrow_and_update().clone();
        assert!(state.trouble.is_none() && state.mesh.authorizers.contains_key("b"));
        assert!(!refused(&metrics.registry().render()));
    }
}
