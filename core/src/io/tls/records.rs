//! Chooses who encrypts the records: with both providers built in, the one that is faster on this processor.
//!
//! AWS-LC has AES-GCM for AVX-512 and for plain AES instructions, and nothing in between; ring has it for the 256-bit
//! vectors (VAES) of processors without AVX-512, where it is 1.8 times as fast (docs/performance.md). Suites carry all
//! they need, so that key exchange and signatures stay with AWS-LC whoever encrypts.

use rustls::crypto::CryptoProvider;

/// What the processor has that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors {
    /// AES and carry-less multiplication on 256-bit vectors.
    pub vaes: bool,
    /// The 512-bit vectors that AWS-LC uses.
    pub avx512: bool,
}

impl Vectors {
    /// Those of this machine.
    #[must_use]
    pub fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        return Self {
            vaes: std::arch::is_x86_feature_detected!("vaes")
                && std::arch::is_x86_feature_detected!("vpclmulqdq")
                && std::arch::is_x86_feature_detected!("avx2"),
            avx512: std::arch::is_x86_feature_detected!("avx512f")
                && std::arch::is_x86_feature_detected!("avx512bw")
                && std::arch::is_x86_feature_detected!("avx512dq")
                && std::arch::is_x86_feature_detected!("avx512vl"),
        };
        #[cfg(not(target_arch = "x86_64"))]
        Self { vaes: false, avx512: false }
    }

    /// Whether ring is the faster one of the two.
    #[must_use]
    pub const fn prefer_ring(self) -> bool {
        self.vaes && !self.avx512
    }
}

/// Name of the provider that encrypts, of those that are built in.
#[must_use]
pub const fn encryptor(vectors: Vectors) -> &'static str {
    if cfg!(feature = "tls-ring") && vectors.prefer_ring() { "ring" } else { super::PROVIDER_NAME }
}

/// Lets ring encrypt where it is faster. The suites and their order stay the same.
pub(super) fn fastest(provider: CryptoProvider, vectors: Vectors) -> CryptoProvider {
    #[cfg(all(feature = "tls-aws-lc", feature = "tls-ring"))]
    if vectors.prefer_ring() {
        let ring = rustls::crypto::ring::ALL_CIPHER_SUITES;
        let of_ring = |suite: &rustls::SupportedCipherSuite| {
            ring.iter().find(|other| other.suite() == suite.suite()).copied().unwrap_or(*suite)
        };
        let cipher_suites = provider.cipher_suites.iter().map(of_ring).collect();
        return CryptoProvider { cipher_suites, ..provider };
    }
    let _ = vectors;
    provider
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::tls::default_provider;

    #[test]
    fn ring_encrypts_where_it_is_faster() {
        for (vaes, avx512, ring) in
            [(false, false, false), (true, false, true), (true, true, false), (false, true, false)]
        {
            assert_eq!(Vectors { vaes, avx512 }.prefer_ring(), ring, "VAES {vaes}, AVX-512 {avx512}");
        }
    }

    /// Whoever encrypts, peers are offered the same suites in the same order, by the same key exchange.
    #[test]
    fn peers_are_offered_the_same() {
        let offered = |vectors| {
            let provider = fastest(default_provider(), vectors);
            let suites: Vec<_> = provider.cipher_suites.iter().map(|suite| suite.suite()).collect();
            let groups: Vec<_> = provider.kx_groups.iter().map(|group| group.name()).collect();
            (suites, groups)
        };
        let plain = offered(Vectors { vaes: false, avx512: false });
        assert!(!plain.0.is_empty());
        assert_eq!(plain, offered(Vectors { vaes: true, avx512: false }));
    }
}
