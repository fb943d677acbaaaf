//! Reading and following a lab's logs.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::error::{Doing, Error, Result};
use crate::layout::Layout;

/// How often followed files are looked at.
const POLL: Duration = Duration::from_millis(200);

/// One log: what it is called, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Name of the component, or `namespace/pod/container`.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
}

/// Every log of a lab, components first.
#[must_use]
pub fn list(layout: &Layout) -> Vec<Log> {
    let files = |directory: PathBuf| {
        let mut names: Vec<(String, PathBuf)> = fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.file_name().to_str()?.strip_suffix(".log")?.to_owned(), entry.path())))
            .collect();
        names.sort();
        names
    };
    let components = files(layout.logs()).into_iter();
    let containers = files(layout.logs().join("pods")).into_iter().map(|(name, path)| (name.replace('_', "/"), path));
    components.chain(containers).map(|(name, path)| Log { name, path }).collect()
}

/// The logs meant by `wanted`: a component, `namespace/pod`, or a pod of `namespace`. All components when nothing is wanted.
///
/// # Errors
/// When there is no such log.
pub fn find(layout: &Layout, wanted: Option<&str>, namespace: &str) -> Result<Vec<Log>> {
    let all = list(layout);
    let Some(wanted) = wanted else { return Ok(all.into_iter().filter(|log| !log.name.contains('/')).collect()) };
    let pod = if wanted.contains('/') { wanted.to_owned() } else { format!("{namespace}/{wanted}") };
    let found: Vec<Log> = all
        .iter()
        .filter(|log| {
            log.name == wanted
                || log.name.strip_prefix(&pod).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .cloned()
        .collect();
    if found.is_empty() {
        let known: Vec<&str> = all.iter().map(|log| log.name.as_str()).collect();
        return Err(Error::new(format!("no log of `{wanted}`")).hint(format!("there are: {}", known.join(", "))));
    }
    Ok(found)
}

/// Writes logs to `output`, each line with the log's name in front when there are several; follows them until `output` is closed.
///
/// # Errors
/// When a log cannot be read.
pub fn show(logs: &[Log], follow: bool, output: &mut dyn Write) -> Result<()> {
    let mut tails: Vec<Tail> =
        logs.iter().map(|log| Tail { log: log.clone(), position: 0, partial: String::new() }).collect();
    let prefixed = tails.len() > 1;
    loop {
        for tail in &mut tails {
            let lines = tail.read(follow).doing(|| format!("reading {}", tail.log.path.display()))?;
            for line in lines {
                let written =
                    if prefixed { writeln!(output, "{} | {line}", tail.log.name) } else { writeln!(output, "{line}") };
                if written.is_err() {
                    // Whoever read this has seen enough.
                    return Ok(());
                }
            }
        }
        if !follow || output.flush().is_err() {
            return Ok(());
        }
        thread::sleep(POLL);
    }
}

struct Tail {
    log: Log,
    position: u64,
    partial: String,
}

impl Tail {
    /// Lines that were added; a last one without an end only when nobody waits for it.
    fn read(&mut self, follow: bool) -> io::Result<Vec<String>> {
        let mut file = File::open(&self.log.path)?;
        file.seek(SeekFrom::Start(self.position))?;
        let mut bytes = Vec::new();
        self.position += u64::try_from(file.read_to_end(&mut bytes)?).unwrap_or_default();
        self.partial.push_str(&String::from_utf8_lossy(&bytes));
        if !follow {
            return Ok(std::mem::take(&mut self.partial).lines().map(str::to_owned).collect());
        }
        let Some((complete, rest)) = self.partial.rsplit_once('\n') else { return Ok(Vec::new()) };
        let lines = complete.lines().map(str::to_owned).collect();
        self.partial = rest.to_owned();
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_found_by_component_and_by_pod() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::at(directory.path());
        fs::create_dir_all(layout.logs().join("pods")).unwrap();
        fs::write(layout.component_log("controller"), "up\n").unwrap();
        fs::write(layout.container_log("shop", "client", "main"), "one\ntwo\nhal").unwrap();
        fs::write(layout.container_log("shop", "client-2", "main"), "other\n").unwrap();
        let names = |wanted| find(&layout, wanted, "shop").unwrap().into_iter().map(|log| log.name).collect::<Vec<_>>();
        assert_eq!(names(None), ["controller"]);
        assert_eq!(names(Some("client")), ["shop/client/main"]);
        assert_eq!(names(Some("shop/client-2")), ["shop/client-2/main"]);
        assert!(find(&layout, Some("nobody"), "shop").is_err());
        let mut output = Vec::new();
        show(&find(&layout, Some("client"), "shop").unwrap(), false, &mut output).unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), "one\ntwo\nhal\n");
    }
}
