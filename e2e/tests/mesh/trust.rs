//! Whom the mesh trusts changes while it runs: certificates are revoked, and roots replaced.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_lab::Lab;
use fairway_lab::layout::Layout;
use http::Method;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::garbage::dial;
use super::garbage::tunnel::genuine;
use super::observe::{self, Cursor};
use super::shop::{self, CLIENT, CLIENT_IDENTITY, Conversation, SERVER, VISITOR};
use super::{enter, labs};

const NODES: [&str; 2] = ["node-1", "node-2"];
const LIST: &str = "ca-crl.pem";
/// Lines outlive roots, and say so.
const ECHO: u16 = 7000;

/// The shop, enrolled, whose proxies have this environment.
fn shop(test: &str, environment: &[(&str, String)]) -> Option<Lab> {
    let own: BTreeMap<_, _> = environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let lab = labs::mesh_in(test, BTreeMap::from([("ztunnel".to_owned(), own)]))?;
    lab.apply(shop::MANIFESTS).unwrap();
    lab.wait_ready().unwrap();
    shop::enrol(&lab);
    Some(lab)
}

/// Puts a file in its place as a whole.
pub(crate) fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

fn serial(certificate: &CertificateDer<'_>) -> Vec<u8> {
    X509Certificate::from_der(certificate).unwrap().1.raw_serial().to_vec()
}

/// The certificates a node's proxy has now, by identity.
fn held(lab: &Lab, node: &str) -> BTreeMap<String, CertificateDer<'static>> {
    let dump = observe::config_dump(lab, node).unwrap();
    let rows = dump["certificates"].as_array().unwrap().iter();
    let read = |row: &serde_json::Value| {
        let pem = STANDARD.decode(row["certChain"][0]["pem"].as_str()?).unwrap();
        Some((row["identity"].as_str()?.to_owned(), CertificateDer::from_pem_slice(&pem).unwrap()))
    };
    rows.filter_map(read).collect()
}

/// A list of the mesh's root that revokes these serial numbers.
fn revoking(lab: &Lab, serials: &[Vec<u8>]) -> String {
    let root = lab.layout().root_certificate();
    let key = KeyPair::from_pem(&fs::read_to_string(root.with_file_name("root-key.pem")).unwrap()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&fs::read_to_string(root).unwrap(), key).unwrap();
    let revoked = |serial: &Vec<u8>| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2126, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).unwrap().pem().unwrap()
}

#[test]
fn who_is_revoked_is_cut_and_refused_and_the_reason_says_so() {
    let inside = Layout::inside().root().join(LIST).to_string_lossy().into_owned();
    let Some(lab) = shop("revoked", &[("CRL_PATH", inside)]) else { return };
    if !labs::can_enter("a revoked certificate at the port of a captured pod") {
        return;
    }
    let server = shop::address(&lab, SERVER);
    let (tunnel, authority) = (SocketAddr::new(server, 15008), format!("{server}:8080"));
    // One that got into wrong hands, and the one that the client's own proxy uses.
    let stolen = genuine(&lab);
    let in_use = held(&lab, "node-1").remove(CLIENT_IDENTITY).unwrap();
    let shown = stolen.clone();
    let status = enter::pod(&lab, VISITOR, async || {
        dial::ask(&mut dial::http2(dial::tls(tunnel, Some(shown)).await).await, Method::CONNECT, &authority).await
    });
    assert_eq!(status, 200, "it is good until it is revoked");
    let mut conversation = Conversation::open(&lab, CLIENT, server, ECHO);
    assert!(conversation.says("before"));

    let (near, far) = (Cursor::at_end(&lab, "ztunnel-node-1"), Cursor::at_end(&lab, "ztunnel-node-2"));
    replace(&lab.layout().root().join(LIST), &revoking(&lab, &[serial(&stolen.chain[0]), serial(&in_use)]));
    near.wait(&lab, &["revocation list in force"]);
    far.wait(&lab, &["revocation list in force"]);
    // What is open is cut at the end that was shown the certificate.
    assert!(!conversation.says("after"), "a connection outlived the certificate it was opened with");
    far.wait(&lab, &["connection complete", "direction=\"inbound\"", "reason=\"certificate_revoked\""]);
    // Whoever shows it again is refused.
    let knocking = Cursor::at_end(&lab, "ztunnel-node-2");
    enter::pod(&lab, VISITOR, async || {
        let mut stream = dial::tls(tunnel, Some(stolen)).await;
        assert_eq!(dial::read_to_end(&mut stream).await.len(), 0);
    });
    let refused = [format!("src.addr={}:", shop::address(&lab, VISITOR)), "reason=\"certificate_revoked\"".into()];
    let line = knocking.wait(&lab, &[refused[0].as_str(), refused[1].as_str()]);
    assert!(observe::field(&line, "hint").is_some(), "{line}");
    // The client itself did no wrong: its proxy gets another certificate without being told.
    shop::mutual_tls(&lab);
    assert_ne!(held(&lab, "node-1").remove(CLIENT_IDENTITY).unwrap(), in_use);
}

/// A root with its key, as PEM.
fn another_root(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Gives the running controller these files, one after the other: what does not fit it leaves alone.
fn hand_out(lab: &Lab, certificates: &str, key: &str) {
    let root = lab.layout().root_certificate();
    replace(&root.with_file_name("root-key.pem"), key);
    replace(&root, certificates);
}

/// Waits until every proxy trusts so many roots, and shows certificates for which `as_wanted` holds.
fn wait_for_all(lab: &Lab, what: &str, roots: f64, as_wanted: impl Fn(&CertificateDer<'_>) -> bool) {
    lab.wait_until(what, || {
        for node in NODES {
            let trusted = observe::sum(&observe::metrics(lab, node), "fairway_trust_bundle_roots", &[]);
            let held = held(lab, node);
            let unwanted: Vec<_> = held.iter().filter(|(_, shown)| !as_wanted(shown)).map(|(name, _)| name).collect();
            if trusted.total_cmp(&roots).is_ne() || !unwanted.is_empty() {
                return Err(format!("{node} trusts {trusted} roots, not renewed: {unwanted:?}"));
            }
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_root_is_replaced_under_running_traffic() {
    // The shortest there is, so that renewals come soon.
    let Some(lab) = shop("rotated", &[("SECRET_TTL", "1m".to_owned())]) else { return };
    let path = lab.layout().root_certificate();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let (old, old_key) = (read(&path), read(&path.with_file_name("root-key.pem")));
    let (new, new_key) = another_root("second root");
    let of_new = |shown: &CertificateDer<'_>| {
        X509Certificate::from_der(shown).unwrap().1.issuer().to_string().contains("second root")
    };
    let restarts = observe::restarts(&lab);
    let failures = || shop::heard(&lab).1;
    let before = failures();
    let mut conversation = Conversation::open(&lab, CLIENT, shop::address(&lab, SERVER), ECHO);

    hand_out(&lab, &format!("{old}{new}"), &old_key);
    wait_for_all(&lab, "all to trust both", 2.0, |shown| !of_new(shown));
    hand_out(&lab, &format!("{new}{old}"), &new_key);
    wait_for_all(&lab, "all to show what the new one signed", 2.0, of_new);
    assert!(conversation.says("both are trusted"), "a renewal cut an open connection");
    hand_out(&lab, &new, &new_key);
    wait_for_all(&lab, "all to forget the old one", 1.0, of_new);
    shop::carries_on(&lab);
    assert!(conversation.says("the old one is gone"), "a connection was cut whose certificate ended");
    assert_eq!(failures(), before, "the client noticed");
    assert_eq!(observe::restarts(&lab), restarts, "something had to be started again");
}
