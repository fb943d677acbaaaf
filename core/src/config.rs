//! Settings: from raw texts of an injected source to checked values. No process environment in here.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use crate::{
    addr::is_dns_name,
    limits::{self, Limit, Limits, OutOfRange, Unit},
};

/// Where raw settings come from: the process environment in a binary, a map in a test.
pub trait Strings {
    /// The text of a setting; none if it is not set.
    fn get(&self, name: &str) -> Option<String>;
}

impl Strings for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        Self::get(self, name).cloned()
    }
}

impl<F: Fn(&str) -> Option<String>> Strings for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?}: {problem}")]
pub struct SettingError {
    /// Name of the setting.
    pub name: String,
    /// What it is set to.
    pub value: String,
    /// What is wrong with that.
    pub problem: String,
}

/// Reads a setting of any type that can be parsed. An empty text counts as not set, as charts produce them.
///
/// # Errors
/// [`SettingError`] names the setting, its value and the problem.
pub fn read<T>(strings: &impl Strings, name: &str) -> Result<Option<T>, SettingError>
where
    T: FromStr<Err: fmt::Display>,
{
    read_with(strings, name, |text| text.parse::<T>().map_err(|error| error.to_string()))
}

/// Reads a setting with a parser.
///
/// # Errors
/// [`SettingError`] names the setting, its value and the problem.
pub fn read_with<T, E: fmt::Display>(
    strings: &impl Strings,
    name: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, SettingError> {
    let Some(value) = strings.get(name) else { return Ok(None) };
    let text = value.trim();
    if text.is_empty() {
        return Ok(None);
    }
    parse(text).map(Some).map_err(|error| SettingError {
        name: name.to_owned(),
        value: text.to_owned(),
        problem: error.to_string(),
    })
}

/// Reads a limit: its variable if that is set and in range, else its default. Times are durations such as `10s`.
///
/// # Errors
/// [`SettingError`] when the text is no number or duration, or is out of range.
pub fn read_limit(strings: &impl Strings, limit: &Limit) -> Result<u64, SettingError> {
    let Some(variable) = limit.variable else { return Ok(limit.default) };
    let parse = |text: &str| -> Result<u64, String> {
        let value = match limit.unit {
            Unit::Milliseconds => {
                let duration = parse_duration(text).map_err(|error| error.to_string())?;
                u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
            }
            Unit::Bytes | Unit::Count => text.parse::<u64>().map_err(|_| "not a whole number".to_owned())?,
        };
        limit.check(value).map_err(|error: OutOfRange| error.to_string())
    };
    Ok(read_with(strings, variable, parse)?.unwrap_or(limit.default))
}

/// Reads all limits that have a variable.
///
/// # Errors
/// [`SettingError`] when one cannot be read, or two of them contradict each other.
pub fn read_limits(strings: &impl Strings) -> Result<Limits, SettingError> {
    let mut given = BTreeMap::new();
    for limit in limits::ALL {
        let is_set =
            limit.variable.and_then(|variable| strings.get(variable)).is_some_and(|text| !text.trim().is_empty());
        if is_set {
            given.insert(limit.name, read_limit(strings, limit)?);
        }
    }
    Limits::with(&given).map_err(|conflict| SettingError {
        name: "the limits".to_owned(),
        value: String::new(),
        problem: conflict.to_string(),
    })
}

/// A text that is no truth value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be true or false")]
pub struct BooleanError;

/// Reads `true`/`false` and the spellings Go's parser takes, since charts were written for it.
///
/// # Errors
/// Any other text.
pub fn parse_bool(text: &str) -> Result<bool, BooleanError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(BooleanError),
    }
}

/// A text that is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a duration such as 500ms, 10s, 5m, 24h or 1h30m")]
pub struct DurationError;

/// Reads a duration as Go writes them: numbers, each with a unit of `ms`, `s`, `m` or `h`.
///
/// # Errors
/// An empty text, a number without unit, an unknown unit, or more than fits.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest == "0" {
        return Ok(total);
    }
    if rest.is_empty() {
        return Err(DurationError);
    }
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).ok_or(DurationError)?;
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| DurationError)?;
        let letters = tail.find(|character: char| character.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let milliseconds = match unit {
            "ms" => Some(number),
            "s" => number.checked_mul(1_000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            _ => None,
        };
        let part = Duration::from_millis(milliseconds.ok_or(DurationError)?);
        total = total.checked_add(part).ok_or(DurationError)?;
        rest = tail;
    }
    Ok(total)
}

/// Address of a control-plane service: `https://host:port`, `http://host:port`, or `host:port` for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlaneAddress {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// DNS name or IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl ControlPlaneAddress {
    /// Host and port, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for ControlPlaneAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

/// A text that is no control-plane address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlPlaneAddressError {
    /// Neither `https` nor `http`.
    #[error("the scheme must be https or http")]
    Scheme,
    /// The host is missing or malformed.
    #[error("the host must be a DNS name, an IPv4 address, or an IPv6 address in brackets")]
    Host,
    /// The port is missing or malformed.
    #[error("it must end in a port from 1 to 65535, as in https://controller.example:15012")]
    Port,
}

impl FromStr for ControlPlaneAddress {
    type Err = ControlPlaneAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (tls, rest) = match text.split_once("://") {
            None | Some(("https", _)) => (true, text.trim_start_matches("https://")),
            Some(("http", rest)) => (false, rest),
            Some(_) => return Err(ControlPlaneAddressError::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = rest.rsplit_once(':').ok_or(ControlPlaneAddressError::Port)?;
        let port = Some(port)
            .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|port| port.parse().ok())
            .filter(|port| *port != 0)
            .ok_or(ControlPlaneAddressError::Port)?;
        let host = match host.strip_prefix('[') {
            Some(host) => host
                .strip_suffix(']')
                .filter(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
                .ok_or(ControlPlaneAddressError::Host)?,
            None if host.parse::<std::net::Ipv4Addr>().is_ok() || is_dns_name(host) => host,
            None => return Err(ControlPlaneAddressError::Host),
        };
        Ok(Self { tls, host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    fn set(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("250ms", 250),
            ("10s", 10_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("1h30m5s", 5_405_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in
            ["", "10", "s", "-1s", "1d", "1.5h", "10 s", "1s2", "99999999999999999999s", "18446744073709551615h", "1é"]
        {
            assert_eq!(parse_duration(text), Err(DurationError), "{text}");
        }
    }

    #[test]
    fn control_plane_addresses() {
        for (text, tls, host, port, printed) in [
            ("https://controller.example:15012", true, "controller.example", 15012, "https://controller.example:15012"),
            ("http://10.0.0.1:15010/", false, "10.0.0.1", 15010, "http://10.0.0.1:15010"),
            ("controller:15012", true, "controller", 15012, "https://controller:15012"),
            ("https://[fd00::1]:15012", true, "fd00::1", 15012, "https://[fd00::1]:15012"),
        ] {
            let address: ControlPlaneAddress = text.parse().unwrap();
            assert_eq!(address, ControlPlaneAddress { tls, host: host.to_owned(), port });
            assert_eq!(address.to_string(), printed);
        }
        for (text, expected) in [
            ("grpc://controller:15012", ControlPlaneAddressError::Scheme),
            ("https://controller", ControlPlaneAddressError::Port),
            ("https://controller:0", ControlPlaneAddressError::Port),
            ("https://controller:+1", ControlPlaneAddressError::Port),
            ("https://:15012", ControlPlaneAddressError::Host),
            ("https://fd00::1:15012", ControlPlaneAddressError::Host),
            ("https://a/b:15012", ControlPlaneAddressError::Host),
            ("https://user@a:15012", ControlPlaneAddressError::Host),
        ] {
            assert_eq!(text.parse::<ControlPlaneAddress>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn settings_come_from_the_source_and_name_themselves_in_errors() {
        assert_eq!(read::<u16>(&set("PORT", " 80 "), "PORT"), Ok(Some(80)));
        assert_eq!(read::<u16>(&set("PORT", ""), "PORT"), Ok(None));
        assert_eq!(read::<u16>(&|_: &str| None, "PORT"), Ok(None));
        let error = read::<u16>(&set("PORT", "x"), "PORT").unwrap_err();
        assert_eq!(error.to_string(), "PORT=\"x\": invalid digit found in string");
        assert_eq!(read_with(&set("IPV6_ENABLED", "false"), "IPV6_ENABLED", parse_bool), Ok(Some(false)));
        assert!(read_with(&set("IPV6_ENABLED", "no"), "IPV6_ENABLED", parse_bool).is_err());
    }

    #[test]
    fn limits_are_read_in_their_units_and_checked() {
        let none = BTreeMap::new();
        assert_eq!(read_limit(&none, &limits::POOL_MAX_STREAMS), Ok(100));
        assert_eq!(read_limit(&set("POOL_UNUSED_RELEASE_TIMEOUT", "2m"), &limits::POOL_IDLE_TIMEOUT), Ok(120_000));
        assert_eq!(read_limit(&set("HTTP2_FRAME_SIZE", "16384"), &limits::FRAME_SIZE), Ok(16_384));
        let error = read_limit(&set("HTTP2_FRAME_SIZE", "1"), &limits::FRAME_SIZE).unwrap_err();
        assert!(error.to_string().contains("16384 to 16777215 bytes"), "{error}");
        assert!(read_limit(&set("POOL_UNUSED_RELEASE_TIMEOUT", "120"), &limits::POOL_IDLE_TIMEOUT).is_err());
        // Fixed by a contract: whatever the environment says.
        assert_eq!(read_limit(&set("ZDS_MESSAGE", "1"), &limits::ZDS_MESSAGE), Ok(1024));
    }
}
