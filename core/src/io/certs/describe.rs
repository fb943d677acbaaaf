//! What operators want to know of a certificate: its number and its dates.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Where a certificate starts in PEM text (RFC 7468 §5).
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
/// Where it ends.
const END: &str = "-----END CERTIFICATE-----";

/// One certificate of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its own PEM text.
    pub pem: String,
    /// Serial number, decimal; and the first and last moment of its validity. None if it cannot be read.
    pub facts: Option<(String, SystemTime, SystemTime)>,
}

/// Every certificate of a PEM text, in order.
#[must_use]
pub fn describe(text: &str) -> Vec<Described> {
    let block = |text: &str| {
        let block = text.strip_suffix(END).and_then(|_| text.get(text.rfind(BEGIN)?..))?;
        let facts = CertificateDer::from_pem_slice(block.as_bytes()).ok().as_ref().and_then(facts);
        Some(Described { pem: format!("{block}\n"), facts })
    };
    text.split_inclusive(END).filter_map(block).collect()
}

/// Serial number and validity of a certificate; none if it is no certificate.
pub(super) fn facts(certificate: &CertificateDer<'_>) -> Option<(String, SystemTime, SystemTime)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let at = |seconds: i64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?));
    let validity = parsed.validity();
    Some((
        parsed.tbs_certificate.serial.to_string(),
        at(validity.not_before.timestamp())?,
        at(validity.not_after.timestamp())?,
    ))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SerialNumber, date_time_ymd};

    use super::*;

    #[test]
    fn every_certificate_of_a_bundle_is_described() {
        let pem = |serial: u64| {
            let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            params.serial_number = Some(SerialNumber::from(serial));
            (params.not_before, params.not_after) = (date_time_ymd(2025, 1, 1), date_time_ymd(2026, 1, 1));
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
        };
        let broken = format!("-----BEGIN CERTIFICATE-----\nAAAA\n{END}");
        let bundle = format!("a comment\n{}\n{}{broken}\n", pem(258), pem(7));
        let described = describe(&bundle);
        let serials: Vec<_> =
            described.iter().map(|one| one.facts.as_ref().map(|(serial, ..)| serial.as_str())).collect();
        assert_eq!(serials, [Some("258"), Some("7"), None]);
        let (_, from, to) = described[1].facts.clone().unwrap();
        assert_eq!(to.duration_since(from).unwrap(), Duration::from_secs(365 * 86_400));
        for one in &described {
            assert!(
                one.pem.starts_with(BEGIN) && one.pem.ends_with(&format!("{END}\n")),
                "no more than the certificate: {}",
                one.pem
            );
        }
        assert_eq!(describe("nothing"), []);
    }
}
