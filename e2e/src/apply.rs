//! Adding, changing and removing objects of a lab's world: each object is one file below its manifests.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use fairway_core::source::{DEFAULT_NAMESPACE, Kind, ObjectKey, SourceError, directory};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Doing, Error, Result};
use crate::layout::Layout;

/// Directory of objects that live in no namespace. No namespace has an underscore in its name.
const CLUSTER_SCOPED: &str = "_cluster";

/// Text of manifests, and what to call it in messages.
#[derive(Clone, Debug)]
pub struct Input {
    /// File name as the user wrote it.
    pub name: String,
    /// Content.
    pub text: String,
}

/// What happened to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Such as `pod shop/client`.
    pub object: String,
    /// `created`, `changed`, `unchanged`, `deleted` or `not found`.
    pub what: &'static str,
}

/// What happened to all of them.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Objects, in the order they were given.
    pub changes: Vec<Change>,
    /// Documents that were refused.
    pub errors: Vec<SourceError>,
}

/// Reads manifests from a file, from every manifest below a directory, or from standard input (`-`).
///
/// # Errors
/// When something cannot be read.
pub fn read(path: &str) -> Result<Vec<Input>> {
    if path == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).doing(|| "reading standard input")?;
        return Ok(vec![Input { name: "standard input".to_owned(), text }]);
    }
    let mut files = Vec::new();
    collect(Path::new(path), true, &mut files)?;
    files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file).doing(|| format!("reading {}", file.display()))?;
            Ok(Input { name: file.display().to_string(), text })
        })
        .collect()
}

fn collect(path: &Path, named: bool, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        let manifest =
            matches!(path.extension().and_then(|extension| extension.to_str()), Some("yaml" | "yml" | "json"));
        if named || manifest {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    let entries = fs::read_dir(path).doing(|| format!("listing {}", path.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().try_for_each(|path| collect(path, false, files))
}

/// What a lab with a Kubernetes of its own holds is for that one to say.
fn refuse_kubernetes(layout: &Layout) -> Result<()> {
    if !layout.kubeconfig().exists() {
        return Ok(());
    }
    Err(Error::new(format!("the objects of lab `{}` are in its Kubernetes", layout.name()))
        .hint(format!("use kubectl: export KUBECONFIG={}", layout.kubeconfig().display())))
}

/// Adds or changes every valid object of `inputs`; the others are reported and left out.
///
/// # Errors
/// When the lab's manifests cannot be written.
pub fn apply(layout: &Layout, inputs: &[Input]) -> Result<Report> {
    refuse_kubernetes(layout)?;
    let mut report = Report::default();
    for (input, document) in documents(inputs) {
        let errors = faults(input, &document)?;
        if !errors.is_empty() {
            report.errors.extend(errors);
            continue;
        }
        match Head::of(&document.text) {
            Ok(head) => {
                report.changes.push(Change { object: head.to_string(), what: store(layout, &head, &document.text)? })
            }
            Err(message) => report.errors.push(fault(input, &document, message)),
        }
    }
    Ok(report)
}

/// Removes every object named in `inputs`.
///
/// # Errors
/// When the lab's manifests cannot be changed.
pub fn delete(layout: &Layout, inputs: &[Input]) -> Result<Report> {
    refuse_kubernetes(layout)?;
    let mut report = Report::default();
    for (input, document) in documents(inputs) {
        match Head::of(&document.text) {
            Ok(head) => report.changes.push(Change { object: head.to_string(), what: remove(layout, &head)? }),
            Err(message) => report.errors.push(fault(input, &document, message)),
        }
    }
    Ok(report)
}

/// Sets (`key=value`) and removes (`key-`) labels of an object that was applied. A namespace that has no manifest gets one.
///
/// # Errors
/// When there is no such object, or a change cannot be understood.
pub fn label(layout: &Layout, kind: Kind, namespace: &str, name: &str, changes: &[String]) -> Result<Change> {
    refuse_kubernetes(layout)?;
    let head = Head::new(kind, namespace, name);
    let path = head.path(layout);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(_) if kind == Kind::Namespace => head.minimal().to_string(),
        Err(error) => {
            return Err(Error::new(format!("no {head} was applied to this lab"))
                .because(error)
                .hint("apply it with `fairway lab apply -f`"));
        }
    };
    let mut object: Value = serde_saphyr::from_str(&text).doing(|| format!("reading {}", path.display()))?;
    for change in changes {
        change_label(&mut object, change)?;
    }
    let what = store(layout, &head, &format!("{object:#}\n"))?;
    Ok(Change { object: head.to_string(), what: if what == "unchanged" { what } else { "labeled" } })
}

fn change_label(object: &mut Value, change: &str) -> Result<()> {
    let bad =
        || Error::new(format!("`{change}` changes no label")).hint("write key=value to set one, key- to remove one");
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).ok_or_else(bad)?;
    let labels = metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut().ok_or_else(bad)?;
    match (change.split_once('='), change.strip_suffix('-')) {
        (Some((key, value)), _) => drop(labels.insert(key.to_owned(), json!(value))),
        (None, Some(key)) => drop(labels.remove(key)),
        (None, None) => return Err(bad()),
    }
    Ok(())
}

/// The documents of `inputs` as data; those that cannot be read are left out.
#[must_use]
pub fn objects(inputs: &[Input]) -> Vec<Value> {
    documents(inputs).filter_map(|(_, document)| serde_saphyr::from_str(&document.text).ok()).collect()
}

/// One YAML document of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Document {
    /// Lines before it.
    offset: usize,
    text: String,
}

fn documents(inputs: &[Input]) -> impl Iterator<Item = (&Input, Document)> {
    inputs.iter().flat_map(|input| split(&input.text).into_iter().map(move |document| (input, document)))
}

/// Splits a YAML stream at its document markers (YAML 1.2 §9.1.2), leaving out documents without content.
fn split(text: &str) -> Vec<Document> {
    let mut documents = vec![Document { offset: 0, text: String::new() }];
    for (number, line) in text.lines().enumerate() {
        let marker = line == "---" || line.starts_with("--- ") || line.starts_with("---\t");
        if marker {
            documents.push(Document { offset: number, text: String::new() });
        }
        if let Some(document) = documents.last_mut() {
            document.text.push_str(line);
            document.text.push('\n');
        }
    }
    let blank = |line: &str| matches!(line.trim(), "" | "---" | "...") || line.trim_start().starts_with('#');
    documents.retain(|document| !document.text.lines().all(blank));
    documents
}

/// What is wrong with a document, found by the reader that every component uses.
fn faults(input: &Input, document: &Document) -> Result<Vec<SourceError>> {
    let directory = tempfile::tempdir().doing(|| "making a temporary directory")?;
    // Empty lines in front keep the line numbers those of the user's file.
    let padded = "\n".repeat(document.offset) + &document.text;
    fs::write(directory.path().join("manifest.yaml"), padded).doing(|| "writing a temporary file")?;
    let mut errors = directory::load(directory.path(), None).errors;
    for error in &mut errors {
        error.file.clone_from(&input.name);
    }
    Ok(errors)
}

fn fault(input: &Input, document: &Document, message: String) -> SourceError {
    let line = u32::try_from(document.offset).ok().and_then(|offset| offset.checked_add(1));
    SourceError { file: input.name.clone(), line, column: None, field: None, message, object: None }
}

/// What identifies an object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    api_version: String,
    kind: String,
    namespace: Option<String>,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHead {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: RawMetadata,
}

#[derive(Default, Deserialize)]
struct RawMetadata {
    #[serde(default)]
    name: String,
    namespace: Option<String>,
}

impl Head {
    fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = kind.is_namespaced().then(|| namespace.to_owned());
        Self { api_version: kind.api_version(), kind: kind.to_string(), namespace, name: name.to_owned() }
    }

    fn of(text: &str) -> std::result::Result<Self, String> {
        let raw: RawHead = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if raw.kind.is_empty() {
            return Err("kind: required".to_owned());
        }
        let group = raw.api_version.split_once('/').map_or("", |(group, _)| group);
        let cluster_scoped = Kind::find(group, &raw.kind).is_some_and(|kind| !kind.is_namespaced());
        let namespace = raw.metadata.namespace.filter(|namespace| !namespace.is_empty());
        let namespace = (!cluster_scoped).then(|| namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()));
        let head = Self { api_version: raw.api_version, kind: raw.kind, namespace, name: raw.metadata.name };
        head.check_names()?;
        Ok(head)
    }

    /// The names become file names, so they must be what Kubernetes allows, whatever the kind.
    fn check_names(&self) -> std::result::Result<(), String> {
        let fits = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':'))
        };
        if !fits(&self.kind) {
            return Err(format!("kind: {:?} is not the name of a kind", self.kind));
        }
        if !fits(&self.name) {
            return Err(format!("metadata.name: {:?} is not a name", self.name));
        }
        match &self.namespace {
            Some(namespace) if !fits(namespace) => Err(format!("metadata.namespace: {namespace:?} is not a name")),
            _ => Ok(()),
        }
    }

    fn path(&self, layout: &Layout) -> PathBuf {
        let directory = self.namespace.as_deref().unwrap_or(CLUSTER_SCOPED);
        layout.manifests().join(directory).join(format!("{}_{}.yaml", self.kind.to_lowercase(), self.name))
    }

    fn minimal(&self) -> Value {
        json!({"apiVersion": self.api_version, "kind": self.kind, "metadata": {"name": self.name}})
    }
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind.to_lowercase())?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

/// Writes `object` as the manifest of `key`.
pub(crate) fn store_object(layout: &Layout, key: &ObjectKey, object: &Value) -> Result<()> {
    store(layout, &Head::new(key.kind, &key.namespace, &key.name), &format!("{object:#}\n")).map(drop)
}

/// Removes the manifest of `key`.
pub(crate) fn remove_object(layout: &Layout, key: &ObjectKey) -> Result<()> {
    remove(layout, &Head::new(key.kind, &key.namespace, &key.name)).map(drop)
}

fn store(layout: &Layout, head: &Head, text: &str) -> Result<&'static str> {
    let path = head.path(layout);
    let before = fs::read_to_string(&path).ok();
    if before.as_deref() == Some(text) {
        return Ok("unchanged");
    }
    let directory = path.parent().unwrap_or(layout.root());
    fs::create_dir_all(directory).doing(|| format!("creating {}", directory.display()))?;
    // Readers skip names with a leading dot, so they never see half a file.
    let temporary = directory.join(format!(".{}_{}.partial", head.kind.to_lowercase(), head.name));
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, &path))
        .doing(|| format!("writing {}", path.display()))?;
    Ok(if before.is_some() { "changed" } else { "created" })
}

fn remove(layout: &Layout, head: &Head) -> Result<&'static str> {
    let path = head.path(layout);
    match fs::remove_file(&path) {
        Ok(()) => Ok("deleted"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok("not found"),
        Err(error) => Err(Error::new(format!("removing {}", path.display())).because(error)),
    }
}

#[cfg(test)]
mod tests;
