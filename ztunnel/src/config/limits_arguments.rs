//! A flag and a variable for every limit that can be set, from the table of limits.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Command, Error, FromArgMatches};
use fairway_core::config::{SettingError, read_limit};
use fairway_core::limits::{ALL, Limit, Limits, Unit};

/// What was set, by the limit's name; not checked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitArguments(BTreeMap<&'static str, String>);

impl LimitArguments {
    /// The values that were set, by the limit's name, each in its range.
    ///
    /// # Errors
    /// Names the variable, what it is set to, and what it may be.
    pub(super) fn check(&self) -> Result<BTreeMap<&'static str, u64>, SettingError> {
        let mut values = BTreeMap::new();
        for limit in ALL {
            let given = self.0.get(limit.name).filter(|text| !text.trim().is_empty());
            if given.is_some() {
                let text = |_: &str| given.cloned();
                values.insert(limit.name, read_limit(&text, limit)?);
            }
        }
        Ok(values)
    }
}

/// Every limit with its value, as shown in a dump.
pub(super) fn dump(limits: &Limits) -> serde_json::Value {
    limits.all().map(|(limit, value)| (limit.name.to_owned(), value.into())).collect::<serde_json::Map<_, _>>().into()
}

impl clap::Args for LimitArguments {
    fn augment_args(command: Command) -> Command {
        ALL.iter().fold(command, |command, limit| match limit.variable {
            Some(variable) => command.arg(argument(limit, variable)),
            None => command,
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(limit: &'static Limit, variable: &'static str) -> Arg {
    let unit = match limit.unit {
        Unit::Milliseconds => "DURATION",
        Unit::Bytes => "BYTES",
        Unit::Count => "NUMBER",
    };
    let [minimum, default, maximum] = [limit.minimum, limit.default, limit.maximum].map(|value| written(limit, value));
    let range = format!("Default {default}, from {minimum} to {maximum}.");
    Arg::new(limit.name)
        .long(variable.to_ascii_lowercase().replace('_', "-"))
        .env(variable)
        .value_name(unit)
        .help(format!("{} {range}", limit.why))
        .hide_short_help(true)
        .help_heading("Limits")
}

/// A value as it would be set.
fn written(limit: &Limit, value: u64) -> String {
    if limit.unit != Unit::Milliseconds {
        return value.to_string();
    }
    match value {
        0 => "0s".to_owned(),
        value if value % 3_600_000 == 0 => format!("{}h", value / 3_600_000),
        value if value % 60_000 == 0 => format!("{}m", value / 60_000),
        value if value % 1_000 == 0 => format!("{}s", value / 1_000),
        value => format!("{value}ms"),
    }
}

impl FromArgMatches for LimitArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut given = Self::default();
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for limit in ALL.iter().filter(|limit| limit.variable.is_some()) {
            if let Some(text) = matches.get_one::<String>(limit.name) {
                self.0.insert(limit.name, text.clone());
            }
        }
        Ok(())
    }
}
