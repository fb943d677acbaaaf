//! Keys of two names, `namespace/name`, kept as one text because that is how they travel and are compared.

macro_rules! two_part_key {
    ($(#[$attribute:meta])* $key:ident, $second:ident, $second_doc:literal) => {
        $(#[$attribute])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $key(std::sync::Arc<str>);

        impl $key {
            /// Joins the two names. They are taken as they are; only a parsed key is known to be well-formed.
            #[must_use]
            pub fn new(namespace: &str, $second: &str) -> Self {
                Self(format!("{namespace}/{}", $second).into())
            }

            /// The namespace.
            #[must_use]
            pub fn namespace(&self) -> &str {
                self.0.split_once('/').map_or("", |(namespace, _)| namespace)
            }

            #[doc = $second_doc]
            #[must_use]
            pub fn $second(&self) -> &str {
                self.0.split_once('/').map_or("", |(_, second)| second)
            }

            /// The whole key, `namespace/name`.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $key {
            type Err = crate::invalid::Problem;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text.split_once('/') {
                    Some((namespace, second)) if !namespace.is_empty() && !second.is_empty() && !second.contains('/') => {
                        Ok(Self(text.into()))
                    }
                    _ => Err(crate::invalid::Problem::Key(text.into())),
                }
            }
        }

        impl std::borrow::Borrow<str> for $key {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $key {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $key {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl serde::Serialize for $key {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

pub(crate) use two_part_key;

#[cfg(test)]
mod tests {
    use crate::{invalid::Problem, policy::PolicyKey};

    #[test]
    fn parts_and_text() {
        let key: PolicyKey = "shop/allow".parse().unwrap();
        assert_eq!((key.namespace(), key.name(), key.as_str()), ("shop", "allow", "shop/allow"));
        assert_eq!(key, PolicyKey::new("shop", "allow"));
    }

    #[test]
    fn anything_but_two_names_is_refused() {
        for text in ["", "/", "a", "a/", "/a", "a/b/c"] {
            assert_eq!(text.parse::<PolicyKey>(), Err(Problem::Key(text.into())));
        }
    }
}
