//! Which key exchanges the tunnel may use, and what a build says of its cryptography.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::NamedGroup;
use rustls::crypto::CryptoProvider;
use serde::Serialize;

use super::records::{self, Vectors};
use super::{PROVIDER_NAME, default_provider};

/// A choice of algorithms. All are TLS 1.3 with AES-GCM; they differ in the key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// What the provider offers, post-quantum first where it can.
    Standard,
    /// X25519MLKEM768 and nothing else, so that what is recorded today stays closed; peers without it are refused.
    PostQuantum,
    /// Only what FIPS 140-3 approves: the curves P-256 and P-384, alone or with ML-KEM. Algorithms are chosen so; whether
    /// the module that computes them is validated is another matter, see [`Report::validated_module`].
    Fips,
}

impl Profile {
    /// The profile this build was made for, unless it is told otherwise when it starts.
    pub const DEFAULT: Self = if cfg!(feature = "profile-post-quantum") {
        Self::PostQuantum
    } else if cfg!(feature = "profile-fips") {
        Self::Fips
    } else {
        Self::Standard
    };

    /// The name in settings and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::PostQuantum => "post-quantum",
            Self::Fips => "fips",
        }
    }

    /// Whether records may be encrypted by another provider than the one that exchanges keys. Where it matters which
    /// module computes, one computes everything.
    const fn may_mix(self) -> bool {
        !matches!(self, Self::Fips)
    }

    /// The provider, restricted to this profile.
    ///
    /// # Errors
    /// When the provider of this build has none of the key exchanges that are asked for.
    pub fn provider(self) -> Result<Arc<CryptoProvider>, NoSuchProfile> {
        let mut provider = default_provider();
        if self.may_mix() {
            provider = records::fastest(provider, Vectors::here());
        }
        match self {
            Self::Standard => {}
            Self::PostQuantum => provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519MLKEM768),
            Self::Fips => {
                let approved = [NamedGroup::secp256r1, NamedGroup::secp384r1];
                provider.kx_groups.retain(|group| approved.contains(&group.name()));
                #[cfg(feature = "tls-aws-lc")]
                provider.kx_groups.insert(0, rustls::crypto::aws_lc_rs::kx_group::SECP256R1MLKEM768);
            }
        }
        if provider.kx_groups.is_empty() { Err(NoSuchProfile(self)) } else { Ok(Arc::new(provider)) }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A text that names no profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write `pqc` or `post-quantum` for post-quantum key exchange only, `fips` for approved algorithms, or leave it out"
)]
pub struct UnknownProfile;

impl FromStr for Profile {
    type Err = UnknownProfile;

    /// Reads a profile; `pqc` is what Istio calls the post-quantum one.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pqc" | "post-quantum" => Ok(Self::PostQuantum),
            // Istio's components share the variable, and some know only the standard's older edition.
            "fips" | "fips-140-2" | "fips-140-3" => Ok(Self::Fips),
            "standard" => Ok(Self::Standard),
            _ => Err(UnknownProfile),
        }
    }
}

/// The provider has nothing of what the profile allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this build's TLS provider, {PROVIDER_NAME}, has no key exchange of profile {0}; use a build with tls-aws-lc")]
pub struct NoSuchProfile(Profile);

/// What a build says of its cryptography.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Name of the provider.
    pub provider: &'static str,
    /// Name of the provider that encrypts records, the faster one on this processor where the build has both.
    pub records: &'static str,
    /// The profile in force.
    pub profile: Profile,
    /// Key exchanges offered, most wanted first.
    pub groups: Vec<String>,
    /// Whether one of them is post-quantum.
    pub post_quantum: bool,
    /// Whether every algorithm offered is one that FIPS 140-3 approves.
    pub approved_algorithms_only: bool,
    /// Whether the provider itself says that it is a validated module.
    pub validated_module: bool,
}

impl Report {
    /// Reads it off a provider.
    #[must_use]
    pub fn of(provider: &CryptoProvider, profile: Profile) -> Self {
        let groups: Vec<NamedGroup> = provider.kx_groups.iter().map(|group| group.name()).collect();
        Self {
            provider: PROVIDER_NAME,
            records: if profile.may_mix() { records::encryptor(Vectors::here()) } else { PROVIDER_NAME },
            profile,
            post_quantum: groups.iter().any(|group| format!("{group:?}").contains("MLKEM")),
            groups: groups.iter().map(|group| format!("{group:?}")).collect(),
            approved_algorithms_only: profile == Profile::Fips,
            validated_module: provider.fips(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |fact: bool| if fact { "yes" } else { "no" };
        writeln!(formatter, "TLS provider: {}", self.provider)?;
        writeln!(formatter, "records encrypted by: {}", self.records)?;
        writeln!(formatter, "TLS profile: {}", self.profile)?;
        writeln!(formatter, "key exchange: {}", self.groups.join(", "))?;
        writeln!(formatter, "post-quantum: {}", yes(self.post_quantum))?;
        writeln!(formatter, "FIPS-approved algorithms only: {}", yes(self.approved_algorithms_only))?;
        write!(formatter, "FIPS-validated module: {}", yes(self.validated_module))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_keep_what_they_allow() {
        let groups = |profile: Profile| Report::of(&profile.provider().unwrap(), profile).groups;
        assert_eq!(groups(Profile::Fips).last().map(String::as_str), Some("secp384r1"));
        assert!(!groups(Profile::Fips).iter().any(|group| group.contains("X25519")), "{:?}", groups(Profile::Fips));
        if cfg!(feature = "tls-aws-lc") {
            assert_eq!(groups(Profile::PostQuantum), ["X25519MLKEM768"]);
            assert_eq!(groups(Profile::Standard)[0], "X25519MLKEM768");
        } else {
            assert_eq!(Profile::PostQuantum.provider().map(|_| ()), Err(NoSuchProfile(Profile::PostQuantum)));
        }
        assert_eq!("pqc".parse(), Ok(Profile::PostQuantum));
        assert_eq!("".parse::<Profile>(), Err(UnknownProfile));
    }

    #[test]
    fn the_report_says_what_is_so() {
        let report = Report::of(&Profile::Fips.provider().unwrap(), Profile::Fips);
        assert_eq!(report.post_quantum, cfg!(feature = "tls-aws-lc"));
        assert!(report.approved_algorithms_only && !report.validated_module);
        assert!(report.to_string().contains("TLS profile: fips\nkey exchange: "), "{report}");
    }
}
