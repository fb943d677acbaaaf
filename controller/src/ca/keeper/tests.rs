//! Tests of `ca::keeper`.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_core::io::drain::{self, Mode};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::*;

const DOMAIN: &str = "cluster.local";
const PATIENCE: Duration = Duration::from_secs(60);

/// An authority with its certificate.
struct Made {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    key: String,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (now() - time::Duration::days(1), now() + time::Duration::days(90));
    params
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn made(params: CertificateParams, by: Option<&Made>) -> Made {
    let key = KeyPair::generate().unwrap();
    let certificate = match by {
        Some(by) => params.signed_by(&key, &by.issuer),
        None => params.self_signed(&key),
    };
    let (pem, text) = (certificate.unwrap().pem(), key.serialize_pem());
    Made { issuer: Issuer::new(params, key), pem, key: text }
}

fn files(content: &[(&str, &str)]) -> Files {
    content.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
}

fn cacerts(signer: &Made, chain: &str, roots: &str) -> Files {
    let names = ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"];
    let texts = [signer.pem.as_str(), signer.key.as_str(), chain, roots];
    files(&names.into_iter().zip(texts).collect::<Vec<_>>())
}

#[test]
fn each_layout_is_known() {
    let root = made(params("root"), None);
    let middle = made(params("middle"), Some(&root));
    let low = made(params("low"), Some(&middle));
    let chain = format!("{}{}", low.pem, middle.pem);
    for (name, files, intermediates) in [
        ("cacerts", cacerts(&low, &format!("{chain}{}", root.pem), &root.pem), 2),
        ("a root as cacerts", cacerts(&root, &root.pem, &root.pem), 0),
        ("cert-manager", files(&[("tls.crt", &chain), ("tls.key", &low.key), ("ca.crt", &root.pem)]), 2),
        ("our own", files(&[("root-cert.pem", &root.pem), ("root-key.pem", &root.key)]), 0),
    ] {
        let signer = Signer::of(&files, DOMAIN, now()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(signer.intermediates().len(), intermediates, "{name}");
        assert_eq!(signer.roots_pem().replace('\r', ""), root.pem.replace('\r', ""), "{name}");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let root = made(params("root"), None);
    let other = made(params("root"), None);
    let low = made(params("low"), Some(&root));
    let mut short = params("short");
    short.not_after = now() - time::Duration::hours(1);
    let ended = made(short, Some(&root));
    let mut early = params("early");
    early.not_before = now() + time::Duration::hours(1);
    let early = made(early, Some(&root));
    let mut leaf = params("leaf");
    leaf.is_ca = IsCa::NoCa;
    let leaf = made(leaf, Some(&root));
    let mut narrow = params("narrow");
    narrow.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let narrow = made(narrow, Some(&root));
    let below = made(params("below"), Some(&narrow));
    let without = |name: &str| {
        let mut files = cacerts(&low, &low.pem, &root.pem);
        files.remove(name);
        files
    };
    let with = |name: &str, text: &str| {
        let mut files = cacerts(&low, &low.pem, &root.pem);
        files.insert(name.to_owned(), text.as_bytes().to_vec());
        files
    };
    for (what, files, expected) in [
        ("nothing", Files::new(), "there is no key"),
        ("two layouts", with("tls.key", &low.key), "ca-key.pem and tls.key are both there"),
        ("no certificate", without("ca-cert.pem"), "ca-cert.pem is missing; it belongs to ca-key.pem"),
        ("no roots", without("root-cert.pem"), "root-cert.pem is missing"),
        ("no PEM", with("ca-cert.pem", "nothing"), "ca-cert.pem cannot be read: it holds no certificate"),
        ("no key", with("ca-key.pem", "nothing"), "ca-key.pem cannot be read"),
        (
            "another's key",
            with("ca-key.pem", &other.key),
            "ca-cert.pem is not the certificate of the key in ca-key.pem",
        ),
        (
            "a leaf",
            cacerts(&leaf, &leaf.pem, &root.pem),
            "CN=leaf in ca-cert.pem is not the certificate of an authority",
        ),
        ("too late", cacerts(&ended, &ended.pem, &root.pem), "CN=short in ca-cert.pem expired at"),
        ("too early", cacerts(&early, &early.pem, &root.pem), "CN=early in ca-cert.pem is not valid before"),
        (
            "another's root, of the same name",
            cacerts(&low, &low.pem, &other.pem),
            "the chain ends at CN=low, which says that",
        ),
        ("too long", cacerts(&below, &narrow.pem, &root.pem), "proxies would refuse what it signs"),
    ] {
        let error = Signer::of(&files, DOMAIN, now()).map(drop).expect_err(what).to_string();
        assert!(error.starts_with(expected), "{what}: {error}");
    }
}

/// As OpenSSL and cert-manager write keys of elliptic curves (RFC 5915), which PKCS #8 wraps.
#[test]
fn keys_are_read_in_their_own_form_too() {
    let root = made(params("root"), None);
    let wrapped = KeyPair::from_pem(&root.key).unwrap().serialize_der();
    let start = wrapped.windows(5).position(|bytes| matches!(bytes, [0x30, _, 0x02, 0x01, 0x01])).unwrap();
    let text = STANDARD.encode(&wrapped[start..]);
    let key = format!("-----BEGIN EC PRIVATE KEY-----\n{text}\n-----END EC PRIVATE KEY-----\n");
    Signer::of(&files(&[("tls.crt", &root.pem), ("tls.key", &key), ("ca.crt", &root.pem)]), DOMAIN, now()).unwrap();
}

#[tokio::test]
async fn another_authority_is_taken_and_a_broken_one_is_not() {
    let (directory, metrics) = (tempfile::tempdir().unwrap(), Metrics::new());
    let put =
        |files: &Files| files.iter().for_each(|(name, text)| fs::write(directory.path().join(name), text).unwrap());
    let refused = |value: &str| metrics.registry().render().contains(&format!("fairway_authority_refused {value}\n"));
    let (old, new) = (made(params("old"), None), made(params("new"), None));
    let both = format!("{}{}", old.pem, new.pem);
    put(&cacerts(&old, &old.pem, &old.pem));
    let (trigger, drain) = drain::new();
    let place = Place::Directory(directory.path().to_owned());
    let mut current = keep(place, DOMAIN.to_owned(), metrics.clone(), drain).await.unwrap();
    tokio::time::pause();
    // Both are trusted, then the other signs, then it is alone.
    for (files, subject, roots) in [
        (cacerts(&old, &old.pem, &both), "CN=old", 2),
        (cacerts(&new, &new.pem, &both), "CN=new", 2),
        (cacerts(&new, &new.pem, &new.pem), "CN=new", 1),
    ] {
        put(&files);
        let found = current.wait_for(|signer| signer.subject() == subject && signer.root_count() == roots);
        tokio::time::timeout(PATIENCE, found).await.unwrap().unwrap();
    }
    // The key of the old one stays behind, and is then put right.
    fs::write(directory.path().join("ca-key.pem"), &old.key).unwrap();
    while !refused("1") {
        // Time is paused: it goes on only while somebody waits for it.
        tokio::time::sleep(LOOK).await;
    }
    assert!(!current.has_changed().unwrap(), "the last good one stays");
    fs::write(directory.path().join("ca-key.pem"), &new.key).unwrap();
    tokio::time::timeout(PATIENCE, current.changed()).await.unwrap().unwrap();
    assert!(refused("0"));
    trigger.start(Mode::Graceful);
    tokio::time::timeout(PATIENCE, async { while current.changed().await.is_ok() {} }).await.unwrap();
}

#[tokio::test]
async fn nothing_is_started_with_what_cannot_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let (_trigger, drain) = drain::new();
    let place = Place::Directory(directory.path().to_owned());
    let error = keep(place, DOMAIN.to_owned(), Metrics::new(), drain).await.unwrap_err().to_string();
    assert!(error.contains("cannot be used: there is no key"), "{error}");
}
