//! What the components say of themselves: access logs from a point on, metrics, dumps, descriptors, restarts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fairway_lab::Lab;
use serde_json::Value;

/// Lines of a log shown when the one that was waited for does not come.
const SHOWN: usize = 5;

/// Reads a component's log from where it ended when the cursor was made.
#[derive(Debug)]
pub(crate) struct Cursor {
    component: String,
    start: usize,
}

impl Cursor {
    /// From now on.
    pub(crate) fn at_end(lab: &Lab, component: &str) -> Self {
        Self { component: component.to_owned(), start: lab.log(component).len() }
    }

    /// Lines written since that contain all of `parts`.
    pub(crate) fn lines(&self, lab: &Lab, parts: &[&str]) -> Vec<String> {
        let log = lab.log(&self.component);
        let new = log.get(self.start..).unwrap_or_default();
        new.lines().filter(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned).collect()
    }

    /// Waits for a line that contains all of `parts`.
    pub(crate) fn wait(&self, lab: &Lab, parts: &[&str]) -> String {
        let found = lab.wait_until(&format!("a line with {parts:?} in the log of {}", self.component), || {
            self.lines(lab, parts).pop().ok_or_else(|| self.last(lab))
        });
        found.unwrap()
    }

    /// The last lines written since.
    fn last(&self, lab: &Lab) -> String {
        let lines = self.lines(lab, &[]);
        lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default().join("\n")
    }
}

/// Value of `name=value` or `name="value"` in a log line.
pub(crate) fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let start = line.find(&format!(" {name}=")).or_else(|| line.find(&format!("\t{name}=")))? + name.len() + 2;
    let rest = line.get(start..)?;
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split(' ').next(),
    }
}

/// Samples of one metric: labels and value.
pub(crate) type Samples = Vec<(BTreeMap<String, String>, f64)>;

/// Samples of `metric` on a page of metrics. Label values in the lab contain neither commas nor quotes.
pub(crate) fn samples(page: &str, metric: &str) -> Samples {
    let lines = page.lines().filter_map(|line| line.strip_prefix(metric));
    lines
        .filter_map(|rest| {
            let (labels, value) = match rest.strip_prefix('{') {
                Some(labelled) => labelled.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
            let labels = pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect();
            Some((labels, value.parse().ok()?))
        })
        .collect()
}

/// Sum of the samples of `metric` that have all of `labels`.
pub(crate) fn sum(page: &str, metric: &str, labels: &[(&str, &str)]) -> f64 {
    let matches = |found: &BTreeMap<String, String>| {
        labels.iter().all(|(name, value)| found.get(*name).is_some_and(|found| found == value))
    };
    samples(page, metric).iter().filter(|(found, _)| matches(found)).map(|(_, value)| value).sum()
}

/// The metrics of a node's ztunnel.
pub(crate) fn metrics(lab: &Lab, node: &str) -> String {
    lab.http(node, "http://127.0.0.1:15020/metrics").unwrap().body
}

/// The configuration a node's ztunnel has.
pub(crate) fn config_dump(lab: &Lab, node: &str) -> Result<Value, String> {
    let page = lab.http(node, "http://127.0.0.1:15000/config_dump").map_err(|error| error.to_string())?;
    serde_json::from_str(&page.body).map_err(|error| error.to_string())
}

/// A page of the controller.
pub(crate) fn controller(lab: &Lab, path: &str) -> Value {
    let page = lab.http("underlay", &format!("http://127.0.0.1:15014{path}")).unwrap();
    serde_json::from_str(&page.body).unwrap()
}

/// How often each component was restarted.
pub(crate) fn restarts(lab: &Lab) -> BTreeMap<String, u32> {
    lab.status().unwrap().components.into_iter().map(|component| (component.name, component.restarts)).collect()
}

/// Open file descriptors of a component, counted from inside the lab, where its process id means something.
pub(crate) fn descriptors(lab: &Lab, component: &str) -> usize {
    let found = lab.status().unwrap().components.into_iter().find(|known| known.name == component).unwrap();
    let directory = PathBuf::from("/proc").join(found.pid.unwrap().to_string()).join("fd");
    let listing = lab.exec_node("underlay", &["ls", &directory.to_string_lossy()]).unwrap();
    assert!(listing.status.success(), "{listing:?}");
    String::from_utf8_lossy(&listing.stdout).lines().count()
}
