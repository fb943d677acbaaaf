//! What is wrong with a resource, and where.

use std::fmt;

/// A field of a resource that cannot be used. The whole resource is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Wrong {
    /// Way to the field from the resource on, for example `virtual_hosts[0].routes[2].match.headers[0].name`.
    field: String,
    /// What is wrong with it.
    problem: String,
}

impl Wrong {
    /// The field at this way.
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The message itself that is being looked at.
    pub(super) fn here(problem: impl Into<String>) -> Self {
        Self::new("", problem)
    }

    /// A field that must be there.
    pub(super) fn missing(field: &str) -> Self {
        Self::new(field, "is missing")
    }

    /// Seen from the message that has it in `field`.
    pub(super) fn within(mut self, field: impl fmt::Display) -> Self {
        self.field = if self.field.is_empty() { field.to_string() } else { format!("{field}.{}", self.field) };
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            return formatter.write_str(&self.problem);
        }
        write!(formatter, "{}: {}", self.field, self.problem)
    }
}

/// Names where a fault is.
pub(super) trait Within<T> {
    /// Seen from the message that has it in `field`.
    fn within(self, field: impl fmt::Display) -> Result<T, Wrong>;
}

impl<T> Within<T> for Result<T, Wrong> {
    fn within(self, field: impl fmt::Display) -> Self {
        self.map_err(|wrong| wrong.within(field))
    }
}

/// Converts every entry of a repeated field.
pub(super) fn all<'a, M: 'a, T>(
    field: &str,
    messages: impl IntoIterator<Item = &'a M>,
    convert: impl Fn(&'a M) -> Result<T, Wrong>,
) -> Result<Vec<T>, Wrong> {
    let messages = messages.into_iter().enumerate();
    messages.map(|(index, message)| convert(message).within(format_args!("{field}[{index}]"))).collect()
}
