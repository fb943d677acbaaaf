//! Puts the plugin and its configuration on the node, keeps them there, and takes them away.
//!
//! The program first, then what it reads in the agent's absence, then the configuration that makes runtimes call it;
//! the other way round at the end. Every file is replaced as a whole, so a runtime never reads half of one.

pub mod conflist;
mod exchange;
mod files;
mod handed;
mod keep;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::plugin::protocol::{Fail, PLUGIN};
use crate::plugin::remembered::{self, Remembered};
use conflist::{Form, chained, names_us, render, unchained};
pub use keep::keep;

/// Longest configuration that is read, in bytes.
const MAX_CONFIGURATION: u64 = 1 << 20;
/// Directory beside the configurations for what the plugin reads in the agent's absence. Runtimes do not look into
/// directories, and unlike the run directory it survives a reboot.
const STATE_DIRECTORY: &str = "fairway-cni";
const STATE_FILE: &str = "enrolled.json";

/// Where everything goes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The runtime's directory of configurations, as the agent sees it.
    pub net_dir: PathBuf,
    /// The same, as the node sees it.
    pub node_net_dir: PathBuf,
    /// The runtime's directory of plugins.
    pub bin_dir: PathBuf,
    /// The runtime's directory of results; while one names us, the program is still needed for that pod's DEL.
    pub cache_dir: PathBuf,
    /// The program to install.
    pub program: PathBuf,
    /// Directory of the agent's socket, as the node sees it.
    pub run_dir: PathBuf,
    /// Which configuration we go into.
    pub place: Place,
    /// What happens to pods while the agent does not answer.
    pub fail: Fail,
    /// How long the plugin waits for the agent, in milliseconds.
    pub patience: u64,
}

/// Which configuration we go into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first one, as runtimes choose it.
    First,
    /// The one of this file name.
    Named(String),
    /// A copy of the first one in a file of ours, which has to come before it; the original stays as it is.
    Owned(String),
}

/// Why it is not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is no directory of configurations.
    #[error("{0} does not exist; is a container runtime with CNI on this node, and its directory mounted?")]
    NoDirectory(PathBuf),
    /// Nothing to chain into.
    #[error(
        "there is no usable CNI configuration in {directory}{complaint}; install a CNI plugin that makes the pods' network"
    )]
    NothingToChain {
        /// Where.
        directory: PathBuf,
        /// What is wrong with the files there.
        complaint: String,
    },
    /// The file system refused.
    #[error("cannot write {path}: {error}; check that it is writable and not full")]
    Io {
        /// What.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Somebody else writes it again and again.
    #[error("{0} changes faster than it can be written")]
    Contended(PathBuf),
    /// What was removed is there again.
    #[error("{0} names the plugin again after it was removed; stop the other fairway-cni-agent of this node")]
    StillThere(PathBuf),
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> InstallError + use<> {
    let path = path.to_owned();
    move |error| InstallError::Io { path, error }
}

/// What an installation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The configuration we are in.
    pub file: String,
    /// Whether anything had to be written.
    pub changed: bool,
}

struct Found {
    name: String,
    form: Form,
    text: String,
}

impl Settings {
    fn state_file(&self) -> PathBuf {
        self.net_dir.join(STATE_DIRECTORY).join(STATE_FILE)
    }

    /// Our entry in a list of plugins.
    #[must_use]
    pub fn entry(&self) -> Value {
        json!({
            "type": PLUGIN,
            "cni_agent_run_dir": self.run_dir,
            "state_file": self.node_net_dir.join(STATE_DIRECTORY).join(STATE_FILE),
            "timeout_milliseconds": self.patience,
            "fail": self.fail,
        })
    }

    /// The enrolled namespaces as they were written down last.
    #[must_use]
    pub fn remembered(&self) -> Remembered {
        remembered::read(&self.state_file())
    }

    /// Writes down which namespaces are enrolled, for the plugin to read when the agent does not answer.
    ///
    /// # Errors
    /// When it cannot be written; what was there stays.
    pub fn remember(&self, namespaces: &BTreeSet<String>) -> Result<(), InstallError> {
        let path = self.state_file();
        if !self.net_dir.is_dir() {
            return Err(InstallError::NoDirectory(self.net_dir.clone()));
        }
        let text = remembered::render(namespaces);
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            return Ok(());
        }
        fs::create_dir_all(self.net_dir.join(STATE_DIRECTORY)).map_err(io_error(&path))?;
        files::write(&path, text.as_bytes(), 0o644).map_err(io_error(&path))
    }

    /// Makes plugin and configuration be there; doing it again changes nothing. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When there is nothing to chain into, or the file system refuses; a runtime finds the files it had before.
    pub fn install(&self) -> Result<Installed, InstallError> {
        let program = self.bin_dir.join(PLUGIN);
        let copied = files::copy(&self.program, &program).map_err(io_error(&program))?;
        let installed = self.assert()?;
        Ok(Installed { changed: installed.changed || copied, ..installed })
    }

    /// Makes the configuration name us.
    fn assert(&self) -> Result<Installed, InstallError> {
        self.recover()?;
        let found = self.configurations()?;
        let owned = match &self.place {
            Place::Owned(name) => Some(name),
            Place::First | Place::Named(_) => None,
        };
        let mut complaints = String::new();
        let candidates = found.iter().filter(|file| Some(&file.name) != owned).filter(|file| match &self.place {
            Place::Named(name) => file.name == *name || converted_name(name) == file.name,
            Place::First | Place::Owned(_) => true,
        });
        let mut chosen = None;
        for file in candidates {
            match chained(&file.text, file.form, &self.entry()) {
                Ok(list) => {
                    chosen = Some((file, list));
                    break;
                }
                Err(error) => complaints.push_str(&format!("; {}: {error}", file.name)),
            }
        }
        let Some((source, list)) = chosen else {
            if let Some(name) = owned {
                // A copy of what is gone would give pods a network that nobody makes any more.
                files::remove(&self.net_dir.join(name)).map_err(io_error(&self.net_dir))?;
            }
            return Err(InstallError::NothingToChain { directory: self.net_dir.clone(), complaint: complaints });
        };
        let target = owned.cloned().unwrap_or_else(|| converted_name(&source.name));
        let mut changed = match owned {
            Some(_) => self.write_owned(&target, &list)?,
            None => self.write_chained(source, &target, list)?,
        };
        // We are in one configuration: not also in one that was the first before.
        let is_in_use = |file: &&Found| file.name == target || owned.is_none() && file.name == source.name;
        for file in found.iter().filter(|file| !is_in_use(file) && names_us(&file.text)) {
            self.take_out(file)?;
            changed = true;
        }
        Ok(Installed { file: target, changed })
    }

    fn write_owned(&self, name: &str, list: &Value) -> Result<bool, InstallError> {
        let path = self.net_dir.join(name);
        let same = fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        if same.as_ref() == Some(list) {
            return Ok(false);
        }
        files::write(&path, render(list).as_bytes(), 0o600).map_err(io_error(&path))?;
        Ok(true)
    }

    fn write_chained(&self, source: &Found, target: &str, list: Value) -> Result<bool, InstallError> {
        let path = self.net_dir.join(target);
        if target != source.name {
            let is_anothers = fs::read_to_string(&path).is_ok_and(|text| !names_us(&text));
            if is_anothers {
                return Err(io_error(&path)(io::ErrorKind::AlreadyExists.into()));
            }
            files::write(&path, render(&list).as_bytes(), 0o600).map_err(io_error(&path))?;
            // Runtimes would take the single plugin first.
            let single = self.net_dir.join(&source.name);
            let is_gone = exchange::displace(&single, &source.text).map_err(io_error(&single))?;
            // Its owner has just written it again.
            return if is_gone { Ok(true) } else { Err(InstallError::Contended(single)) };
        }
        if serde_json::from_str::<Value>(&source.text).is_ok_and(|present| present == list) {
            return Ok(false);
        }
        let again = |text: &str| chained(text, Form::List, &self.entry()).map(|list| render(&list)).ok();
        self.exchange(source, &render(&list), again)?;
        Ok(true)
    }

    fn exchange(
        &self,
        file: &Found,
        content: &str,
        again: impl Fn(&str) -> Option<String>,
    ) -> Result<(), InstallError> {
        let path = self.real(&file.name);
        exchange::exchange(&path, &file.text, content, again).map_err(|error| match error {
            exchange::ExchangeError::Contended => InstallError::Contended(path),
            exchange::ExchangeError::Io(error) => InstallError::Io { path, error },
        })
    }

    /// The file itself where its name is a link: the link is its owner's, and stays.
    fn real(&self, name: &str) -> PathBuf {
        let path = self.net_dir.join(name);
        fs::canonicalize(&path).unwrap_or(path)
    }

    /// Finishes what an agent before this one was killed at.
    fn recover(&self) -> Result<(), InstallError> {
        let entries = fs::read_dir(&self.net_dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let files = names.filter(|name| Form::of(name).is_some()).map(|name| self.real(&name));
        let mut directories: BTreeSet<PathBuf> = files.filter_map(|file| Some(file.parent()?.to_owned())).collect();
        directories.extend(fs::canonicalize(&self.net_dir));
        directories.iter().try_for_each(|directory| exchange::recover(directory).map_err(io_error(directory)))
    }

    /// Takes our entry out of a file.
    fn take_out(&self, file: &Found) -> Result<(), InstallError> {
        let Some((value, form)) = unchained(&file.text) else { return Ok(()) };
        let path = self.net_dir.join(&file.name);
        if form == Form::Single && file.form == Form::List {
            let single = path.with_extension("conf");
            // One that is there is its owner's, and newer than ours.
            if !single.exists() {
                files::write(&single, render(&value).as_bytes(), 0o600).map_err(io_error(&single))?;
            }
            let is_gone = exchange::displace(&path, &file.text).map_err(io_error(&path))?;
            return if is_gone { Ok(()) } else { Err(InstallError::Contended(path)) };
        }
        self.exchange(file, &render(&value), |text| unchained(text).map(|(value, _)| render(&value)))
    }

    /// Takes us out of every configuration, and looks whether it lasted. From then on no runtime calls the plugin for
    /// new pods.
    ///
    /// # Errors
    /// When the file system refuses, or somebody puts us back.
    pub fn remove_configuration(&self) -> Result<(), InstallError> {
        if !self.net_dir.is_dir() {
            return Ok(());
        }
        self.recover()?;
        for file in &self.configurations()? {
            match &self.place {
                Place::Owned(name) if *name == file.name => {
                    let path = self.net_dir.join(name);
                    files::remove(&path).map_err(io_error(&path))?;
                }
                _ => self.take_out(file)?,
            }
        }
        match self.configurations()?.into_iter().find(|file| names_us(&file.text)) {
            Some(file) => Err(InstallError::StillThere(self.net_dir.join(file.name))),
            None => Ok(()),
        }
    }

    /// Removes what the plugin reads, and the plugin itself unless a pod still needs it to end; says whether it did.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove_files(&self) -> Result<bool, InstallError> {
        let state = self.net_dir.join(STATE_DIRECTORY);
        match fs::remove_dir_all(&state) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&state)(error)),
            _ => {}
        }
        if files::any(&self.cache_dir, was_made_with_us) {
            return Ok(false);
        }
        let program = self.bin_dir.join(PLUGIN);
        for path in [files::beside(&program), program] {
            files::remove(&path).map_err(io_error(&path))?;
        }
        Ok(true)
    }

    /// The configurations there are, in the order in which runtimes choose.
    fn configurations(&self) -> Result<Vec<Found>, InstallError> {
        let entries = fs::read_dir(&self.net_dir).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => InstallError::NoDirectory(self.net_dir.clone()),
            _ => InstallError::Io { path: self.net_dir.clone(), error },
        })?;
        let mut found: Vec<Found> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let form = Form::of(&name)?;
                let fits =
                    fs::metadata(entry.path()).is_ok_and(|file| file.is_file() && file.len() <= MAX_CONFIGURATION);
                let text = fits.then(|| fs::read_to_string(entry.path()).ok())??;
                Some(Found { name, form, text })
            })
            .collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }
}

/// Whether a sandbox that libcni remembers so was made with us: it keeps the whole configuration, in base64.
fn was_made_with_us(remembered: &str) -> bool {
    let cached: Option<Value> = serde_json::from_str(remembered).ok();
    let configuration = cached.as_ref().and_then(|cached| cached.get("config")).and_then(Value::as_str);
    let bytes = configuration.and_then(|configuration| STANDARD.decode(configuration).ok());
    bytes.is_some_and(|bytes| names_us(&String::from_utf8_lossy(&bytes)))
}

/// The file a configuration is in once it is a list.
fn converted_name(name: &str) -> String {
    match (Form::of(name), name.rsplit_once('.')) {
        (Some(Form::Single), Some((stem, _))) => format!("{stem}.conflist"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
