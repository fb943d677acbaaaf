//! Object names as the Kubernetes API allows them (RFC 1123).

use super::Kind;

/// Longest label of a domain name (RFC 1123 §2.1, RFC 1035 §2.3.4), in bytes.
const MAX_LABEL: usize = 63;
/// Longest object name: a domain name as the Kubernetes API counts it, in bytes.
const MAX_SUBDOMAIN: usize = 253;

/// Says why `name` cannot name an object of `kind`.
pub(super) fn check_name(kind: Kind, name: &str) -> Result<(), String> {
    match kind {
        // Both become a label of a DNS name.
        Kind::Namespace | Kind::Service => check_label(name),
        _ => check_subdomain(name),
    }
}

/// Says why `name` cannot be a single DNS label.
pub(super) fn check_label(name: &str) -> Result<(), String> {
    if name.len() > MAX_LABEL {
        return Err(format!("\"{name}\" is longer than {MAX_LABEL} characters"));
    }
    if is_label(name) {
        return Ok(());
    }
    Err(format!(
        "\"{name}\" is not a valid name: use lower case letters, digits and '-', starting and ending with a letter or digit (RFC 1123)"
    ))
}

fn check_subdomain(name: &str) -> Result<(), String> {
    if name.len() > MAX_SUBDOMAIN {
        return Err(format!("the name is longer than {MAX_SUBDOMAIN} characters"));
    }
    if name.split('.').all(is_label) {
        return Ok(());
    }
    Err(format!(
        "\"{name}\" is not a valid name: use lower case letters, digits, '-' and '.', each part starting and ending with a letter or digit (RFC 1123)"
    ))
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}
