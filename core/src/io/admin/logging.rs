//! `POST /logging`: shows and changes what is logged, as Istio's proxy and `istioctl ztunnel-config log` have it.

use std::collections::BTreeMap;

use super::{Reply, Request, StatusCode, text};
use crate::io::logging::{LogFilter, LoggingError};

/// Words that are levels; anything else by itself would be taken for a target, and a misspelt level would silence the rest.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Between directives.
const SEPARATOR: char = ',';

const HELP: &str = "POST /logging shows the level; ?level=debug sets it; ?level=access=debug,h2=warn sets it for some \
                    targets and leaves the others; ?reset goes back to the level of the start";

#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("{0:?} is no level; write off, error, warn, info, debug or trace, or TARGET=LEVEL")]
    Level(String),
    #[error(transparent)]
    Filter(#[from] LoggingError),
}

/// Does what is asked and says what is in force then.
#[must_use]
pub fn answer(filter: &LogFilter, request: &Request) -> Reply {
    match change(filter, request) {
        Ok(()) => text(StatusCode::OK, format!("current log level is {}\n", filter.current())),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n{HELP}\n")),
    }
}

fn change(filter: &LogFilter, request: &Request) -> Result<(), Wrong> {
    let level = request.parameter("level").unwrap_or_default();
    if let Some(wrong) = directives(&level).find(|directive| !is_understood(directive)) {
        return Err(Wrong::Level(wrong.to_owned()));
    }
    if request.parameter("reset").is_some() {
        filter.reset()?;
    }
    if !level.is_empty() {
        filter.set(&merged(&filter.current(), &level))?;
    }
    Ok(())
}

fn directives(filter: &str) -> impl Iterator<Item = &str> {
    filter.split(SEPARATOR).map(str::trim).filter(|directive| !directive.is_empty())
}

fn is_understood(directive: &str) -> bool {
    match directive.rsplit_once('=') {
        Some((_, level)) => is_level(level),
        None => is_level(directive),
    }
}

fn is_level(text: &str) -> bool {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text))
}

/// `added` on top of `current`: what names a target that is there already takes its place, so that a filter that is changed a
/// thousand times does not grow.
fn merged(current: &str, added: &str) -> String {
    let mut by_target: BTreeMap<&str, &str> = BTreeMap::new();
    for directive in directives(current).chain(directives(added)) {
        let target = match directive.rsplit_once('=') {
            Some((target, _)) => target,
            None if is_level(directive) => "",
            None => directive,
        };
        by_target.insert(target, directive);
    }
    by_target.into_values().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_added_to_those_of_other_targets() {
        let rows = [
            ("info", "debug", "debug"),
            ("info", "access=debug", "info,access=debug"),
            ("info,access=debug", "access=off,warn", "warn,access=off"),
            ("info,access=debug", "DEBUG", "DEBUG,access=debug"),
            ("a=info", "b::c=trace", "a=info,b::c=trace"),
            ("info,quiet", "quiet=warn", "info,quiet=warn"),
            ("info", " , ", "info"),
        ];
        for (current, added, expected) in rows {
            assert_eq!(merged(current, added), expected, "{current} + {added}");
        }
    }

    #[test]
    fn misspelt_levels_are_refused() {
        for good in ["off", "access=debug", "a::b[span]=info", "WARN"] {
            assert!(is_understood(good), "{good}");
        }
        for bad in ["debgu", "access=loud", "access", "access="] {
            assert!(!is_understood(bad), "{bad}");
        }
    }
}
