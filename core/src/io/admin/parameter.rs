//! Parameters of operators' pages that have to be there, or to mean something.

use std::fmt::Display;
use std::str::FromStr;

use super::Request;

/// What is wrong with a parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadParameter {
    /// It is not there, or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// It cannot be used.
    #[error("{name} is {value:?}: {problem}")]
    Value {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with that.
        problem: String,
    },
}

impl Request {
    /// The decoded value of a query parameter that has to be there.
    ///
    /// # Errors
    /// [`BadParameter::Missing`], also for an empty value.
    pub fn given(&self, name: &'static str) -> Result<String, BadParameter> {
        self.parameter(name).filter(|value| !value.is_empty()).ok_or(BadParameter::Missing(name))
    }
}

/// What the value of a parameter means.
///
/// # Errors
/// [`BadParameter::Value`] if that is nothing.
pub fn parsed<T>(name: &'static str, value: String) -> Result<T, BadParameter>
where
    T: FromStr<Err: Display>,
{
    value.parse().map_err(|error: T::Err| BadParameter::Value { name, problem: error.to_string(), value })
}
