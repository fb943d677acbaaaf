//! What the agent leaves written for the plugin, and what the plugin decides by it while the agent does not answer.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::protocol::Fail;

/// The form of the file; another one is not understood, and then no pod starts without the agent.
const FORM: u32 = 1;

/// The agent's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    form: u32,
    enrolled_namespaces: BTreeSet<String>,
}

/// What is known without the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// There is no file: no agent is installed on this node, not yet or not any more.
    NotInstalled,
    /// The namespaces whose pods are enrolled, as of the agent's last word.
    Enrolled(BTreeSet<String>),
    /// There is a file, and it cannot be understood.
    Unreadable(String),
}

/// What happens to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WithoutAgent {
    /// It may run.
    Pass,
    /// It may not, and why.
    Refuse(String),
}

impl WithoutAgent {
    /// For what the agent itself has refused.
    pub(super) fn refuse_unless_open(fail: Fail, reason: &str) -> Self {
        match fail {
            Fail::Open => Self::Pass,
            Fail::Closed => Self::Refuse(reason.to_owned()),
        }
    }
}

impl Remembered {
    /// Whether pods of `namespace` are enrolled; nothing when that cannot be known.
    #[must_use]
    pub fn enrols(&self, namespace: &str) -> Option<bool> {
        match self {
            Self::NotInstalled => Some(false),
            Self::Enrolled(namespaces) => Some(namespaces.contains(namespace)),
            Self::Unreadable(_) => None,
        }
    }
}

/// The file's text for a node where `namespaces` are enrolled.
#[must_use]
pub fn render(namespaces: &BTreeSet<String>) -> String {
    let file = File { form: FORM, enrolled_namespaces: namespaces.clone() };
    serde_json::to_string(&file).unwrap_or_default() + "\n"
}

/// Reads what the agent has written.
#[must_use]
pub fn read(path: &Path) -> Remembered {
    let unreadable = |why: String| {
        Remembered::Unreadable(format!("which namespaces are enrolled is not known: {}: {why}", path.display()))
    };
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The file and its directory end with the agent; the one around them is the runtime's. Without that one
            // the place is wrong, which must not pass for an agent that was uninstalled.
            match path.parent().and_then(Path::parent) {
                Some(around) if around.is_dir() => Remembered::NotInstalled,
                _ => unreadable("its directory is not on this node; check --node-cni-net-dir of the agent".to_owned()),
            }
        }
        Err(error) => unreadable(error.to_string()),
        Ok(bytes) => match serde_json::from_slice::<File>(&bytes) {
            Ok(file) if file.form == FORM => Remembered::Enrolled(file.enrolled_namespaces),
            Ok(file) => unreadable(format!("its form is {}, only {FORM} is understood", file.form)),
            Err(error) => unreadable(error.to_string()),
        },
    }
}

/// Whether a pod of `namespace` may run although the agent does not answer.
#[must_use]
pub fn without_agent(remembered: &Remembered, fail: Fail, namespace: &str) -> WithoutAgent {
    match (remembered, fail) {
        (_, Fail::Open) => WithoutAgent::Pass,
        (Remembered::Unreadable(why), Fail::Closed) => WithoutAgent::Refuse(why.clone()),
        _ if remembered.enrols(namespace) == Some(false) => WithoutAgent::Pass,
        _ => WithoutAgent::Refuse(format!(
            "the namespace {namespace} is enrolled and the fairway-cni-agent of this node does not answer"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_for_enrolled_namespaces_and_open_for_all_else() {
        let enrolled = Remembered::Enrolled(["shop".to_owned()].into());
        let garbage = Remembered::Unreadable("garbage".to_owned());
        let rows = [
            (&Remembered::NotInstalled, Fail::Closed, "shop", true),
            (&enrolled, Fail::Closed, "shop", false),
            (&enrolled, Fail::Closed, "bank", true),
            (&enrolled, Fail::Open, "shop", true),
            (&garbage, Fail::Closed, "bank", false),
            (&garbage, Fail::Open, "bank", true),
        ];
        for (remembered, fail, namespace, passes) in rows {
            let verdict = without_agent(remembered, fail, namespace);
            assert_eq!(verdict == WithoutAgent::Pass, passes, "{remembered:?} {fail:?} {namespace}: {verdict:?}");
        }
    }

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("enrolled.json");
        assert_eq!(read(&path), Remembered::NotInstalled);
        let misplaced = directory.path().join("nowhere/fairway-cni/enrolled.json");
        assert!(matches!(read(&misplaced), Remembered::Unreadable(why) if why.contains("--node-cni-net-dir")));
        let namespaces: BTreeSet<String> = ["shop".to_owned(), "bank".to_owned()].into();
        std::fs::write(&path, render(&namespaces)).unwrap();
        assert_eq!(read(&path), Remembered::Enrolled(namespaces));
        for garbage in ["", "{", "[]", r#"{"form":2,"enrolled_namespaces":[]}"#, r#"{"form":1}"#] {
            std::fs::write(&path, garbage).unwrap();
            assert!(matches!(read(&path), Remembered::Unreadable(_)), "{garbage}");
        }
    }
}
