//! Tests of `files`.

use fairway_core::io::tls;

use super::*;
use crate::testing::outside::Outside;

const LARGEST: u64 = 1 << 20;

/// Writes a file that is another one than before.
fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    let other = path.with_extension("other");
    fs::write(&other, bytes).unwrap();
    fs::rename(other, path).unwrap();
}

#[test]
fn roots_are_read_again_when_they_change_and_kept_when_they_go() {
    let (world, next) = (Outside::new(), Outside::new());
    let mut files = Files::default();
    let (path, start) = (world.roots(), Instant::now());
    let mut at = |checks: u32| files.roots(&path, LARGEST, start + CHECK_INTERVAL * checks);
    let first = at(0).unwrap();
    assert!(Arc::ptr_eq(&at(1).unwrap(), &first), "as it was");
    write(&path, fs::read(next.roots()).unwrap());
    let second = at(2).unwrap();
    assert!(!Arc::ptr_eq(&second, &first));
    let whole = fs::read(&path).unwrap();
    write(&path, b"half");
    assert!(Arc::ptr_eq(&at(3).unwrap(), &second));
    write(&path, [whole.as_slice(), b"\n"].concat());
    let third = at(4).unwrap();
    assert!(!Arc::ptr_eq(&third, &second), "it is read again once it can be");
    fs::remove_file(&path).unwrap();
    assert!(Arc::ptr_eq(&at(5).unwrap(), &third));
    let missing = Files::default().roots(Path::new("/nowhere"), LARGEST, start).unwrap_err();
    assert!(missing.starts_with("roots in /nowhere: "), "{missing}");
}

#[test]
fn what_is_no_file_or_too_large_is_not_read() {
    let world = Outside::new();
    let length = fs::metadata(world.roots()).unwrap().len();
    let read = |path: &Path, largest| Files::default().roots(path, largest, Instant::now()).map(drop);
    assert_eq!(read(&world.roots(), length), Ok(()));
    let large = read(&world.roots(), length - 1).unwrap_err();
    assert!(large.contains(&format!("more than {} bytes (TLS_FILE_SIZE)", length - 1)), "{large}");
    for other in ["/dev/zero", "/"] {
        assert_eq!(read(Path::new(other), LARGEST), Err(format!("roots in {other}: it is no file")));
    }
}

#[test]
fn a_certificate_needs_its_own_key() {
    let world = Outside::new();
    let own = world.own("client.example");
    let provider = tls::provider();
    let mut files = Files::default();
    let start = Instant::now();
    let mut at = |checks: u32| files.own(&own, &provider, LARGEST, start + CHECK_INTERVAL * checks);
    let (certificate, key) = (fs::read(&own.chain).unwrap(), fs::read(&own.key).unwrap());
    let (_, others) = world.certificate("client.example");
    let rows: [(&Path, Vec<u8>, &str); 5] = [
        (&own.key, others.serialize_pem().into_bytes(), "private key in "),
        (&own.key, certificate.clone(), "private key in "),
        (&own.key, Vec::new(), "private key in "),
        (&own.chain, key.clone(), "client certificate in "),
        (&own.chain, b"no PEM".to_vec(), "client certificate in "),
    ];
    for (path, bytes, expected) in rows {
        let before = fs::read(path).unwrap();
        write(path, bytes);
        let problem = at(0).unwrap_err();
        let named = format!("{expected}{}: ", path.display());
        assert!(problem.starts_with(&named) && problem.contains("fairway.dev/secrets"), "{problem}");
        write(path, before);
    }
    let first = at(0).unwrap();
    // While only one of both is there, what was there before is used.
    let next = world.certificate("client.example");
    write(&own.chain, next.0.pem());
    assert!(Arc::ptr_eq(&at(1).unwrap(), &first));
    write(&own.key, next.1.serialize_pem());
    let second = at(2).unwrap();
    assert_eq!(second.cert[0], *next.0.der());
}
