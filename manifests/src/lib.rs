//! What is installed on a cluster: the chart, embedded as it is, and a renderer for it.
//!
//! There is one source of truth, the files below `chart/`. Helm renders them for those who use Helm; this does for
//! `fairway install` and for the lab, and a test holds both results against each other.

mod files;
mod schema;
mod template;
mod values;

use std::collections::BTreeMap;

use serde_json::{Value, json};

pub use values::{ValuesError, merge, parse, set};

/// Label that all of the chart's objects have.
pub const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "fairway");
/// Label that says who installed them.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Where the mesh's own parts live unless something else is said.
pub const NAMESPACE: &str = "fairway-system";
/// Name of the release; with Helm the user's choice, and nothing rests on it.
const RELEASE: &str = "fairway";

/// Why the chart cannot be rendered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// Values that the schema refuses.
    #[error("{0}")]
    Values(String),
    /// A template that cannot be rendered with these values.
    #[error("{file}:{line}: {message}")]
    Template {
        /// Its name in the chart.
        file: String,
        /// The line.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// What was rendered is no YAML.
    #[error("{file}: {message}")]
    Object {
        /// The template's name in the chart.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// A profile that there is not.
    #[error("there is no profile {0:?}; there are: {1}")]
    Profile(String, String),
}

/// What the chart becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// Objects by template, in the order of their names.
    pub objects: Vec<Value>,
    /// What the user is told.
    pub notes: String,
}

/// Names of the profiles: values for a kind of installation.
pub fn profiles() -> impl Iterator<Item = &'static str> {
    files::PROFILES.iter().map(|(name, _)| *name)
}

/// Values of a profile.
///
/// # Errors
/// When there is none of this name.
pub fn profile(name: &str) -> Result<Value, RenderError> {
    let found = files::PROFILES.iter().find(|(known, _)| *known == name);
    let known = || profiles().collect::<Vec<_>>().join(" ");
    let (_, text) = found.ok_or_else(|| RenderError::Profile(name.to_owned(), known()))?;
    of_chart("profiles", text)
}

/// The version of what the chart installs.
///
/// # Errors
/// When the chart cannot be read, which its tests exclude.
pub fn version() -> Result<String, RenderError> {
    let chart = of_chart("Chart.yaml", files::CHART)?;
    Ok(chart["appVersion"].as_str().unwrap_or_default().to_owned())
}

/// The definitions of kinds, which the chart has as they are.
///
/// # Errors
/// When the chart cannot be read, which its tests exclude.
pub fn definitions() -> Result<Vec<Value>, RenderError> {
    files::DEFINITIONS.iter().map(|(name, text)| of_chart(name, text)).collect()
}

/// Renders the chart for `namespace`, with `values` over its own. `managed_by` is who will look after the objects.
///
/// # Errors
/// When the values are refused, or something cannot be made of them.
pub fn render(values: &Value, namespace: &str, managed_by: &str) -> Result<Rendered, RenderError> {
    let mut all = of_chart("values.yaml", files::VALUES)?;
    merge(&mut all, values);
    let schema = of_chart("values.schema.json", files::SCHEMA)?;
    schema::check(&schema, &all).map_err(RenderError::Values)?;
    let mut chart = of_chart("Chart.yaml", files::CHART)?;
    let dot = json!({
        "Values": all,
        "Release": {"Name": RELEASE, "Namespace": namespace, "Service": managed_by},
        // Helm has these in capitals.
        "Chart": {"Name": chart["name"].take(), "Version": chart["version"].take(), "AppVersion": chart["appVersion"].take()},
    });
    let mut templates = template::Templates::default();
    let failed = |file: &str, failure: template::Failure| RenderError::Template {
        file: file.to_owned(),
        line: failure.line,
        message: failure.message,
    };
    for (name, text) in files::TEMPLATES {
        templates.add(name, text).map_err(|failure| failed(name, failure))?;
    }
    let mut objects = Vec::new();
    let mut notes = String::new();
    for (name, _) in files::TEMPLATES {
        let text = templates.render(name, &dot).map_err(|failure| failed(name, failure))?;
        if *name == files::NOTES {
            notes = text;
        } else if !name.starts_with('_') {
            objects.extend(documents(name, &text)?);
        }
    }
    Ok(Rendered { objects, notes })
}

/// Which object it is: kind, namespace and name.
#[must_use]
pub fn key(object: &Value) -> (String, String, String) {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

/// Objects by what they are; of two of the same, the last.
#[must_use]
pub fn by_key(objects: Vec<Value>) -> BTreeMap<(String, String, String), Value> {
    objects.into_iter().map(|object| (key(&object), object)).collect()
}

/// The objects of a file of several documents.
///
/// # Errors
/// When one of them is no YAML.
pub fn documents(file: &str, text: &str) -> Result<Vec<Value>, RenderError> {
    let mut objects = Vec::new();
    for document in format!("\n{text}\n").split("\n---\n") {
        let is_empty = document.lines().all(|line| line.trim().is_empty() || line.starts_with('#'));
        if !is_empty {
            objects.push(of_chart(file, document)?);
        }
    }
    Ok(objects)
}

fn of_chart(file: &str, text: &str) -> Result<Value, RenderError> {
    serde_saphyr::from_str(text)
        .map_err(|error| RenderError::Object { file: file.to_owned(), message: error.to_string() })
}

#[cfg(test)]
mod tests;
