//! YAML text to trees in which every node knows its line and column.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};

/// Documents in one file; a file with more is a mistake rather than a manifest.
const MAX_DOCUMENTS: usize = 20_000;

/// A position in a file, from 1; 0 means it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    line: u64,
    column: u64,
}

impl Place {
    pub(crate) fn line(self) -> Option<u32> {
        u32::try_from(self.line).ok().filter(|line| *line > 0)
    }

    pub(crate) fn column(self) -> Option<u32> {
        u32::try_from(self.column).ok().filter(|column| *column > 0)
    }
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }
}

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// The way from the root of a document to a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldPath(pub(crate) Vec<Step>);

impl FieldPath {
    /// A path of plain keys.
    pub(crate) fn of(keys: &[&str]) -> Self {
        Self(keys.iter().map(|key| Step::Key((*key).to_owned())).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The path that reads `text`, such as `spec.rules[0].to` or `metadata.annotations[istio.io/dry-run]`; it ends before
    /// what cannot be understood, so that a place near by is found at least.
    pub(crate) fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('[') {
                let quoted = inner.strip_prefix('"').and_then(|inner| inner.split_once("\"]"));
                let Some((step, after)) = quoted.or_else(|| inner.split_once(']')) else {
                    break;
                };
                match step.parse() {
                    Ok(index) if quoted.is_none() => steps.push(Step::Index(index)),
                    _ => steps.push(Step::Key(step.to_owned())),
                }
                rest = after.strip_prefix('.').unwrap_or(after);
            } else {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                let (step, after) = rest.split_at(end);
                steps.push(Step::Key(step.to_owned()));
                rest = after.strip_prefix('.').unwrap_or(after);
            }
        }
        Self(steps)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                // A label key such as `app.kubernetes.io/name` would read as several fields.
                Step::Key(key) if key.contains(['.', '/']) => write!(f, "[\"{key}\"]")?,
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A fault in one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) place: Place,
    pub(crate) field: Option<String>,
    pub(crate) message: String,
}

/// A node of a document, with the place where it starts.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    tree: Tree,
}

#[derive(Clone, Debug)]
enum Tree {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Clone, Debug)]
struct Entry {
    key: String,
    key_place: Place,
    value: Node,
}

impl Node {
    /// The member `key` of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The text of the member `key`, when it is a string.
    #[cfg(feature = "source")]
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.tree {
            Tree::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items of a sequence; none for anything else.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.tree {
            Tree::Sequence(items) => items,
            _ => &[],
        }
    }

    /// The keys of a mapping; none for anything else.
    #[cfg(feature = "local")]
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let entries: &[Entry] = match &self.tree {
            Tree::Mapping(entries) => entries,
            _ => &[],
        };
        entries.iter().map(|entry| entry.key.as_str())
    }

    #[cfg(feature = "local")]
    pub(crate) fn is_sequence(&self) -> bool {
        matches!(self.tree, Tree::Sequence(_))
    }

    pub(crate) fn is_mapping(&self) -> bool {
        matches!(self.tree, Tree::Mapping(_))
    }

    /// Where `path` starts; its nearest ancestor when the field itself is absent.
    ///
    /// The last key of the path is looked up by the place of the key, not of its value: that is where a reader looks.
    pub(crate) fn locate(&self, path: &FieldPath) -> Place {
        let mut node = self;
        let mut place = self.place;
        for step in &path.0 {
            let next = match step {
                Step::Key(key) => node.entry(key).map(|entry| (entry.key_place, &entry.value)),
                Step::Index(index) => node.items().get(*index).map(|item| (item.place, item)),
            };
            let Some((next_place, next_node)) = next else {
                break;
            };
            (place, node) = (next_place, next_node);
        }
        place
    }

    /// The node as JSON, without its places.
    ///
    /// `keep_null` is for merge patches (RFC 7396), where null deletes; elsewhere the Kubernetes API reads null as
    /// absent.
    pub(crate) fn to_json(&self, keep_null: bool) -> Value {
        match &self.tree {
            Tree::Null => Value::Null,
            Tree::Bool(value) => Value::Bool(*value),
            Tree::Number(value) => Value::Number(value.clone()),
            Tree::Text(text) => Value::String(text.clone()),
            Tree::Sequence(items) => Value::Array(items.iter().map(|item| item.to_json(keep_null)).collect()),
            Tree::Mapping(entries) => Value::Object(
                entries
                    .iter()
                    .filter(|entry| keep_null || !matches!(entry.value.tree, Tree::Null))
                    .map(|entry| (entry.key.clone(), entry.value.to_json(keep_null)))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.tree {
            Tree::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Tree>::deserialize(deserializer)?;
        Ok(Self { place: spanned.referenced.into(), tree: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Tree, E> {
        Number::from_f64(value).map(Tree::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Tree::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut entries: Vec<Entry> = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            if entries.iter().any(|entry| entry.key == key.value) {
                return Err(A::Error::custom(format!("the key `{}` is given twice", key.value)));
            }
            let value = access.next_value()?;
            entries.push(Entry { key: key.value, key_place: key.referenced.into(), value });
        }
        Ok(Tree::Mapping(entries))
    }
}

/// The documents of `text`; empty ones are left out.
///
/// # Errors
/// The first place where the text is not YAML.
pub(crate) fn documents(text: &str) -> Result<Vec<Node>, Fault> {
    // Kubernetes reads only `true` and `false` as booleans; the `yes` and `no` of YAML 1.1 stay text.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        budget: serde_saphyr::budget! { max_documents: MAX_DOCUMENTS },
    };
    serde_saphyr::from_multiple_with_options::<Node>(text, options).map_err(|error| {
        let place = error.location().map(Place::from).unwrap_or_default();
        Fault { place, field: None, message: syntax_message(&error) }
    })
}

/// The message without the position, which is reported as data.
fn syntax_message(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let text = match text.find(" at line ") {
        Some(end) => text.get(..end).unwrap_or(text),
        None => text,
    };
    format!("not valid YAML: {text}")
}
