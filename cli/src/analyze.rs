//! `fairway analyze`: what is wrong with the objects of a mesh, or with files before anybody applies them.

mod beyond;
mod codes;
mod input;
mod never;
#[cfg(test)]
mod tests;
mod waypoints;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use fairway_controller::l7::mesh;
use fairway_controller::state::Published;
use fairway_controller::status::judgement;
use fairway_controller::translate::Settings;
use fairway_core::source::{Loaded, Location, ObjectKey};
use fairway_lab::render::{Tone, wrap};
use fairway_lab::{Error, Result};
use serde::Serialize;
use serde_json::Value;

use crate::mesh::{Part, Where};
use crate::output::Format;
pub(crate) use codes::{Code, Severity};

/// Widest line of a message.
const LINE: usize = 96;
/// Exit code when something was found that is bad enough; 1 is for what could not be looked at.
const FOUND: u8 = 2;
/// Node proxies that may fail to answer before no more are asked: asking one that is gone takes its time.
const SILENT: usize = 3;
/// The page that has a section for each code.
const PAGE: &str = "docs/guides/analyze.md";

/// Arguments of `analyze`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Look at these files instead of the mesh: a file, a directory, or - for standard input; may be repeated
    #[arg(short, long = "filename", value_name = "FILE")]
    files: Vec<String>,
    /// Look at the files as if they were applied to the mesh
    #[arg(long, requires = "files")]
    with_mesh: bool,
    /// Only what is about objects of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Leave messages with this code out; may be repeated
    #[arg(short = 'S', long, value_name = "CODE")]
    suppress: Vec<String>,
    /// End with exit code 2 when there is a message as bad as this
    #[arg(long, value_enum, default_value_t = Threshold::Error)]
    fail_on: Threshold,
    /// The mesh configuration: external authorizers, rate limiters and processors, collectors of traces and logs, and access
    /// logs are in there; without it, that of the mesh, or none for files alone
    #[arg(long, value_name = "FILE")]
    mesh_config: Option<PathBuf>,
    /// Trust domain of the mesh; without it, what the node proxies of a mesh say, or cluster.local for files alone
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// Show all codes and what they mean
    #[arg(short = 'L', long)]
    list: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Threshold {
    Error,
    Warning,
    Info,
    Never,
}

impl Threshold {
    fn is_met_by(self, severity: Severity) -> bool {
        match self {
            Self::Error => severity == Severity::Error,
            Self::Warning => severity <= Severity::Warning,
            Self::Info => true,
            Self::Never => false,
        }
    }
}

/// One thing that is wrong; the schema of `-o json`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Message {
    pub(crate) severity: Severity,
    pub(crate) code: &'static str,
    /// What kind of thing it is, in a word.
    pub(crate) name: &'static str,
    /// Such as `Service shop/web`.
    pub(crate) object: Option<String>,
    #[serde(skip)]
    pub(crate) key: Option<ObjectKey>,
    /// Path of the field.
    pub(crate) field: Option<String>,
    /// What is wrong, and what holds instead.
    pub(crate) message: String,
    /// File, line and column, where they are known.
    pub(crate) location: Option<String>,
    /// Where the documentation tells more.
    pub(crate) documentation: String,
}

/// Looks, prints, and tells by the exit code whether anything bad was found.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.list {
        arguments.format.print(&codes::ALL, listed)?;
        return Ok(ExitCode::SUCCESS);
    }
    arguments.format.follow(|| once(arguments))
}

fn once(arguments: &Arguments) -> Result<ExitCode> {
    let suppressed = suppressed(&arguments.suppress)?;
    let inputs = input::read(&arguments.files)?;
    let loaded = match (inputs.is_empty(), arguments.with_mesh) {
        (true, _) => arguments.place.objects()?.loaded()?,
        (false, false) => input::load(&inputs)?,
        (false, true) => input::beside(arguments.place.objects()?.loaded()?, &inputs),
    };
    let With { settings, broken, clients_count } = with(arguments)?;
    let mut messages = look(loaded, &settings, clients_count);
    if !arguments.files.is_empty() && arguments.with_mesh {
        let own = input::keys(&inputs);
        messages.retain(|message| message.key.as_ref().is_none_or(|key| own.contains(key)));
    }
    messages.extend(of_mesh(&settings.mesh, broken));
    messages.sort();
    for message in &mut messages {
        message.location = message.location.take().map(|location| input::as_written(&location, &inputs));
    }
    let wanted = |key: &ObjectKey| match &arguments.namespace {
        None => true,
        Some(namespace) => key.namespace == *namespace || (key.namespace.is_empty() && key.name == *namespace),
    };
    messages.retain(|message| !suppressed.contains(message.code) && message.key.as_ref().is_none_or(wanted));
    arguments.format.print(&messages, |colour| shown(&messages, colour))?;
    let is_alone = !arguments.files.is_empty() && !arguments.with_mesh;
    if is_alone && messages.iter().any(|message| codes::OF_OTHERS.contains(&message.code)) {
        fairway_lab::complain!("the files were looked at by themselves; --with-mesh knows what the mesh has besides");
    }
    let is_bad = messages.iter().any(|message| arguments.fail_on.is_met_by(message.severity));
    Ok(if is_bad { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
}

/// Everything that is wrong with these objects, worst first: what the controller says of them, and what it has no word for.
/// Where nobody knows the trust domain it is empty, and nothing is said that rests on it. `clients_count` is whether policies of pods look
/// at clients behind waypoints.
pub(crate) fn look(loaded: Loaded, settings: &Settings, clients_count: bool) -> Vec<Message> {
    let loaded = Arc::new(loaded);
    let published = Published::default().next(Arc::clone(&loaded), settings);
    let judged = judgement::of(&published).into_iter().map(|judged| {
        let code = codes::of(judged.trouble);
        message(code, judged.object, &judged.field, judged.message, judged.location)
    });
    let mut messages: Vec<Message> = judged.chain(beyond::look(&loaded, settings, clients_count)).collect();
    messages.sort();
    messages.dedup();
    messages
}

/// A message of this code.
fn message(
    code: &'static Code,
    key: Option<ObjectKey>,
    field: &str,
    message: String,
    location: Option<Location>,
) -> Message {
    Message {
        severity: code.severity,
        code: code.code,
        name: code.name,
        object: key.as_ref().map(ToString::to_string),
        key,
        field: (!field.is_empty()).then(|| field.to_owned()),
        message,
        location: location.map(|location| location.to_string()),
        documentation: format!("{PAGE}#{}", code.code.to_lowercase()),
    }
}

fn suppressed(wanted: &[String]) -> Result<BTreeSet<&'static str>> {
    let known = |text: &String| {
        let found = codes::ALL.iter().find(|code| code.code.eq_ignore_ascii_case(text));
        found.map(|code| code.code).ok_or_else(|| {
            Error::new(format!("no message has the code {text}")).hint("fairway analyze --list shows all")
        })
    };
    wanted.iter().map(known).collect()
}

/// What to look with.
struct With {
    settings: Settings,
    /// What is wrong with the mesh configuration of the mesh.
    broken: Option<String>,
    /// Whether policies of pods look at clients behind waypoints.
    clients_count: bool,
}

fn with(arguments: &Arguments) -> Result<With> {
    let (mut broken, mut clients_count) = (None, true);
    let mut settings = Settings { root_namespace: arguments.place.mesh_namespace().to_owned(), ..Settings::default() };
    if arguments.files.is_empty() || arguments.with_mesh {
        let told = told(&arguments.place);
        settings.trust_domain = told.as_ref().map(|(domain, _)| domain.clone()).unwrap_or_default();
        // Where nobody can be asked, they are taken to do what they do unless they are told otherwise.
        clients_count = told.is_none_or(|(_, clients_count)| clients_count);
    }
    if let Some(trust_domain) = &arguments.trust_domain {
        settings.trust_domain.clone_from(trust_domain);
    }
    if let Some(path) = &arguments.mesh_config {
        let doing = || format!("reading the mesh configuration {}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| Error::new(doing()).because(error))?;
        settings.mesh = mesh::read(&text).map_err(|error| Error::new(doing()).because(error.to_string()))?;
    } else if arguments.files.is_empty() || arguments.with_mesh {
        (settings.mesh, broken) = told_mesh(&arguments.place);
    }
    Ok(With { settings, broken, clients_count })
}

/// The mesh configuration of the mesh, and what is wrong with it. Where it cannot be had, providers count as missing, and that
/// is said.
fn told_mesh(place: &Where) -> (mesh::Mesh, Option<String>) {
    let text = place.mesh_config().unwrap_or_else(|error| {
        fairway_lab::complain!("providers of the mesh configuration count as missing: {error}");
        None
    });
    match text.as_deref().map(mesh::read).transpose() {
        Ok(mesh) => (mesh.unwrap_or_default(), None),
        Err(error) => (mesh::Mesh::default(), Some(error.to_string())),
    }
}

/// What is wrong with the mesh configuration: all of it, or a part.
fn of_mesh(mesh: &mesh::Mesh, broken: Option<String>) -> Vec<Message> {
    let whole = broken.map(|why| {
        let said = format!("{why}; controllers go on with the last good one, and here its providers count as missing");
        message(codes::MESH_CONFIG, None, "", said, None)
    });
    let parts = mesh.odd.iter().map(|odd| message(codes::MESH_CONFIG_PART, None, "", odd.clone(), None));
    let named = whole.into_iter().chain(parts);
    named.map(|message| Message { object: Some("mesh configuration".to_owned()), ..message }).collect()
}

/// What the node proxies say that answer; none where nobody does.
fn told(place: &Where) -> Option<(String, bool)> {
    let mesh = place.mesh().ok()?;
    let dumps = mesh.status.nodes.iter().map(|node| mesh.ask::<Value>(Part::Proxy(&node.name), "/config_dump").ok());
    said_by_all(dumps)
}

/// Whether policies of pods look at clients behind waypoints, by the dump of the pods' node proxy. An older one does not say it, and does
/// not do it.
pub(crate) fn clients_count_at(dump: &Value) -> bool {
    dump.pointer("/config/clientsBehindWaypoints").and_then(Value::as_bool) == Some(true)
}

/// The trust domain of the first node proxy that says one, and whether policies look at clients behind waypoints, which they do if they
/// do so on all nodes: pods of others are refused what comes through a waypoint. None are those that do not answer.
fn said_by_all(dumps: impl IntoIterator<Item = Option<Value>>) -> Option<(String, bool)> {
    let (mut said, mut silent) = (None, 0);
    for dump in dumps {
        let Some(dump) = dump else {
            silent += 1;
            if silent == SILENT {
                break;
            }
            continue;
        };
        let domain = dump.pointer("/config/trustDomain").and_then(Value::as_str).unwrap_or_default();
        if domain.is_empty() {
            continue;
        }
        let (_, clients_count) = said.get_or_insert_with(|| (domain.to_owned(), true));
        *clients_count &= clients_count_at(&dump);
        if !*clients_count {
            // Nothing that others say changes it.
            break;
        }
    }
    said
}

fn shown(messages: &[Message], colour: bool) -> String {
    if messages.is_empty() {
        return "Nothing is wrong.\n".to_owned();
    }
    let mut text = String::new();
    for message in messages {
        let severity = message.severity.painted(colour);
        let about = message.object.as_deref().unwrap_or("what was read");
        text.push_str(&format!("{severity} {} {} {about}\n", message.code, message.name));
        if let Some(location) = &message.location {
            text.push_str(&format!("    at {location}\n"));
        }
        let said = match &message.field {
            Some(field) => format!("{field}: {}", message.message),
            None => message.message.clone(),
        };
        for line in wrap(&said, LINE) {
            text.push_str(&format!("    {line}\n"));
        }
    }
    let count = |severity| messages.iter().filter(|message| message.severity == severity).count();
    let counts = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Info, "note")];
    let counted = |(severity, word): (Severity, &str)| match count(severity) {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    };
    let counts: Vec<String> = counts.map(counted).to_vec();
    text.push_str(&format!("\n{}; {PAGE} has a section for each code.\n", counts.join(", ")));
    text
}

fn listed(colour: bool) -> String {
    let told = |code: &&Code| {
        let lines = wrap(code.meaning, LINE);
        let head = format!("{} {} {}\n", code.code, code.severity.painted(colour), code.name);
        lines.iter().fold(head, |text, line| format!("{text}    {line}\n"))
    };
    codes::ALL.iter().map(told).collect()
}

impl Severity {
    fn tone(self) -> Tone {
        match self {
            Self::Error => Tone::Bad,
            Self::Warning => Tone::Doubtful,
            Self::Info => Tone::Plain,
        }
    }

    fn painted(self, colour: bool) -> String {
        fairway_lab::render::paint(self.word(), self.tone(), colour)
    }
}
