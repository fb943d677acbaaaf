//! SPIFFE identities: parse, print, compare.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Serialize, Serializer};

const SCHEME: &str = "spiffe://";
const NAMESPACE_MARK: &str = "/ns/";
const ACCOUNT_MARK: &str = "/sa/";

/// SPIFFE-ID §2.3: implementations must support, and need not go beyond, 2048 bytes.
const MAXIMUM_LENGTH: usize = 2048;

/// Why a text is not an identity of this mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not of the form `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    #[error("not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Form,
    /// The trust domain is empty or has a character SPIFFE forbids.
    #[error("the trust domain must be lower-case letters, digits, dots, dashes or underscores")]
    TrustDomain,
    /// The namespace is empty or has a character SPIFFE forbids.
    #[error("the namespace must be letters, digits, dots, dashes or underscores")]
    Namespace,
    /// The service account is empty or has a character SPIFFE forbids.
    #[error("the service account must be letters, digits, dots, dashes or underscores")]
    ServiceAccount,
    /// Longer than SPIFFE allows.
    #[error("longer than {MAXIMUM_LENGTH} bytes")]
    TooLong,
}

/// The name of a trust domain, for example `cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// What an empty trust domain on the wire stands for.
    pub const DEFAULT: &'static str = "cluster.local";

    /// Checks the name.
    ///
    /// # Errors
    /// [`IdentityError::TrustDomain`] when it is empty or has a character SPIFFE-ID §2.1 forbids.
    pub fn new(name: &str) -> Result<Self, IdentityError> {
        if is_trust_domain(name) { Ok(Self(name.into())) } else { Err(IdentityError::TrustDomain) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Who a workload is: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`. A clone is a pointer copy.
///
/// The whole text is kept once and the parts are slices of it, because policies compare the text on every connection.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    text: Arc<str>,
    namespace_start: u16,
    account_start: u16,
}

impl Identity {
    /// Puts an identity together from its parts.
    ///
    /// # Errors
    /// When a part is empty, has a character that SPIFFE forbids, or all are too long together.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        if !is_trust_domain(trust_domain) {
            return Err(IdentityError::TrustDomain);
        }
        if !is_segment(namespace) {
            return Err(IdentityError::Namespace);
        }
        if !is_segment(service_account) {
            return Err(IdentityError::ServiceAccount);
        }
        let text: Arc<str> =
            format!("{SCHEME}{trust_domain}{NAMESPACE_MARK}{namespace}{ACCOUNT_MARK}{service_account}").into();
        if text.len() > MAXIMUM_LENGTH {
            return Err(IdentityError::TooLong);
        }
        let namespace_start = SCHEME.len() + trust_domain.len() + NAMESPACE_MARK.len();
        let account_start = namespace_start + namespace.len() + ACCOUNT_MARK.len();
        Ok(Self {
            text,
            namespace_start: u16::try_from(namespace_start).map_err(|_| IdentityError::TooLong)?,
            account_start: u16::try_from(account_start).map_err(|_| IdentityError::TooLong)?,
        })
    }

    /// The whole text, with `spiffe://`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text without `spiffe://`, as policies write principals.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.text[SCHEME.len()..]
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..usize::from(self.namespace_start) - NAMESPACE_MARK.len()]
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.text[usize::from(self.namespace_start)..usize::from(self.account_start) - ACCOUNT_MARK.len()]
    }

    /// The service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        &self.text[usize::from(self.account_start)..]
    }

    /// Shares the text with equal identities.
    pub(crate) fn intern(&mut self, names: &mut crate::snapshot::Names) {
        names.intern(&mut self.text);
    }

    /// Whether the identity was issued in this trust domain. Aliases do not exist between node proxies.
    #[must_use]
    pub fn is_in(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain() == trust_domain.as_str()
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The length first: nothing is worth reading beyond it.
        if text.len() > MAXIMUM_LENGTH {
            return Err(IdentityError::TooLong);
        }
        let path = text.strip_prefix(SCHEME).ok_or(IdentityError::Form)?;
        let parts: Vec<&str> = path.splitn(6, '/').collect();
        match parts.as_slice() {
            [trust_domain, "ns", namespace, "sa", service_account] => {
                Self::new(trust_domain, namespace, service_account)
            }
            _ => Err(IdentityError::Form),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for Identity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// SPIFFE-ID §2.1.
fn is_trust_domain(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_'))
}

/// SPIFFE-ID §2.2: the characters of a path segment; the relative segments `.` and `..` are forbidden.
fn is_segment(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_slices_of_the_text() {
        let identity: Identity = "spiffe://td.example/ns/shop/sa/cart".parse().unwrap();
        assert_eq!(identity.trust_domain(), "td.example");
        assert_eq!(identity.namespace(), "shop");
        assert_eq!(identity.service_account(), "cart");
        assert_eq!(identity.principal(), "td.example/ns/shop/sa/cart");
        assert!(identity.is_in(&TrustDomain::new("td.example").unwrap()));
        assert!(!identity.is_in(&TrustDomain::new("td").unwrap()));
    }

    #[test]
    fn anything_else_is_refused() {
        for (text, expected) in [
            ("", IdentityError::Form),
            ("spiffe://td", IdentityError::Form),
            ("SPIFFE://td/ns/a/sa/b", IdentityError::Form),
            ("https://td/ns/a/sa/b", IdentityError::Form),
            ("spiffe://td/ns/a/sa", IdentityError::Form),
            ("spiffe://td/ns/a/sa/b/c", IdentityError::Form),
            ("spiffe://td/ns/a/sa/b/", IdentityError::Form),
            ("spiffe://td/sa/b/ns/a", IdentityError::Form),
            ("spiffe://td//ns/a/sa/b", IdentityError::Form),
            ("spiffe:///ns/a/sa/b", IdentityError::TrustDomain),
            ("spiffe://TD/ns/a/sa/b", IdentityError::TrustDomain),
            ("spiffe://user@td/ns/a/sa/b", IdentityError::TrustDomain),
            ("spiffe://td:80/ns/a/sa/b", IdentityError::TrustDomain),
            ("spiffe://td/ns//sa/b", IdentityError::Namespace),
            ("spiffe://td/ns/../sa/b", IdentityError::Namespace),
            ("spiffe://td/ns/a%2fb/sa/b", IdentityError::Namespace),
            ("spiffe://td/ns/a/sa/", IdentityError::ServiceAccount),
            ("spiffe://td/ns/a/sa/b?x=y", IdentityError::ServiceAccount),
            ("spiffe://td/ns/a/sa/b\n", IdentityError::ServiceAccount),
        ] {
            assert_eq!(text.parse::<Identity>(), Err(expected), "{text:?}");
        }
        let long = format!("spiffe://td/ns/a/sa/{}", "b".repeat(MAXIMUM_LENGTH));
        assert_eq!(long.parse::<Identity>(), Err(IdentityError::TooLong));
    }

    proptest! {
        #[test]
        fn print_then_parse_gives_the_same(
            trust_domain in "[a-z0-9._-]{1,20}", namespace in "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", account in "[a-z0-9]{1,20}"
        ) {
            let identity = Identity::new(&trust_domain, &namespace, &account).unwrap();
            let parsed: Identity = identity.to_string().parse().unwrap();
            prop_assert_eq!(&parsed, &identity);
            prop_assert_eq!(parsed.trust_domain(), trust_domain);
            prop_assert_eq!(parsed.namespace(), namespace);
            prop_assert_eq!(parsed.service_account(), account);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.as_str(), text);
            }
        }
    }
}
