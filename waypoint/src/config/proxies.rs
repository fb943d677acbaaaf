//! Who is believed about where requests come from: proxies that they pass before they come here.

use std::collections::BTreeSet;

use fairway_proto::envoy::core::Metadata;
use fairway_proto::envoy::http_connection_manager::HttpConnectionManager;
use prost_types::Struct;
use prost_types::value::Kind;

use super::wrong::{Within, Wrong};

/// By this name a listener says whose `x-forwarded-for` is believed; Envoy, which believes everybody's, does not look there.
const NAME: &str = "dev.fairway.trusted_proxies";
/// Identities of such proxies.
const PRINCIPALS: &str = "principals";

/// Who is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// How many of them a request has passed; with none it comes from where its tunnel does.
    pub hops: usize,
    /// Whom the last of them proves to be, as SPIFFE IDs. Nobody else is believed.
    pub trusted: BTreeSet<String>,
}

impl Proxies {
    /// How many there are.
    ///
    /// # Errors
    /// Where addresses would be taken from what anybody says.
    pub(super) fn of(message: &HttpConnectionManager) -> Result<Self, Wrong> {
        if message.use_remote_address == Some(false) {
            let problem = "must be true: a client's own word for its address is not believed";
            return Err(Wrong::new("use_remote_address", problem));
        }
        let hops = usize::try_from(message.xff_num_trusted_hops).unwrap_or(usize::MAX);
        Ok(Self { hops, trusted: BTreeSet::new() })
    }
}

/// Who the last of them may be; nobody where it is not said.
pub(super) fn trusted(metadata: Option<&Metadata>) -> Result<BTreeSet<String>, Wrong> {
    let Some(said) = metadata.and_then(|metadata| metadata.filter_metadata.get(NAME)) else {
        return Ok(BTreeSet::new());
    };
    principals(said).within(format_args!("metadata.filter_metadata[{NAME}]"))
}

fn principals(said: &Struct) -> Result<BTreeSet<String>, Wrong> {
    if let Some(unknown) = said.fields.keys().find(|name| *name != PRINCIPALS) {
        return Err(Wrong::new(unknown, "is not supported"));
    }
    let Some(Kind::ListValue(list)) = said.fields.get(PRINCIPALS).and_then(|value| value.kind.as_ref()) else {
        return Err(Wrong::new(PRINCIPALS, "must be a list"));
    };
    let each = list.values.iter().enumerate().map(|(index, value)| match &value.kind {
        Some(Kind::StringValue(text)) => Ok(text.clone()),
        _ => Err(Wrong::new(format!("{PRINCIPALS}[{index}]"), "must be a text")),
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use prost_types::{ListValue, Value};

    use super::*;

    #[test]
    fn what_is_said_is_read_and_nothing_is_everybody() {
        let value = |kind| Value { kind: Some(kind) };
        let text = |text: &str| value(Kind::StringValue(text.to_owned()));
        let list = |values: Vec<Value>| value(Kind::ListValue(ListValue { values }));
        let said = |name: &str, value: Value| Metadata {
            filter_metadata: [(NAME.to_owned(), Struct { fields: [(name.to_owned(), value)].into() })].into(),
        };
        let rows = [
            ("nobody", None, Ok(vec![])),
            (
                "of somebody else",
                Some(Metadata { filter_metadata: [("a".to_owned(), Struct::default())].into() }),
                Ok(vec![]),
            ),
            ("two", Some(said(PRINCIPALS, list(vec![text("b"), text("a")]))), Ok(vec!["a", "b"])),
            ("no list", Some(said(PRINCIPALS, text("a"))), Err("principals: must be a list")),
            ("no text", Some(said(PRINCIPALS, list(vec![list(vec![])]))), Err("principals[0]: must be a text")),
            ("another field", Some(said("addresses", list(vec![]))), Err("addresses: is not supported")),
        ];
        for (name, metadata, expected) in rows {
            let read = trusted(metadata.as_ref()).map_err(|wrong| wrong.to_string());
            let expected = expected.map(|all| all.into_iter().map(str::to_owned).collect());
            let expected = expected.map_err(|wrong| format!("metadata.filter_metadata[{NAME}].{wrong}"));
            assert_eq!(read, expected, "{name}");
        }
    }

    #[test]
    fn hops_are_envoys_and_a_client_is_not_believed() {
        let read = |use_remote_address, xff_num_trusted_hops| {
            let message =
                HttpConnectionManager { use_remote_address, xff_num_trusted_hops, ..HttpConnectionManager::default() };
            Proxies::of(&message).map(|read| read.hops).map_err(|wrong| wrong.to_string())
        };
        assert_eq!(read(None, 0), Ok(0), "as controllers before have it");
        assert_eq!(read(Some(true), 2), Ok(2));
        assert!(read(Some(false), 0).is_err_and(|wrong| wrong.starts_with("use_remote_address: must be true")));
    }
}
