//! Tests of `last_good`.

use fairway_proto::discovery::DeltaDiscoveryResponse;
use fairway_proto::type_url;

use super::keeper::Received;
use super::*;
use crate::io::metrics::Metrics;
use crate::io::xds::session::Rejection;

fn owner() -> Owner {
    Owner { cluster: "Kubernetes".to_owned(), node: "node-1".to_owned(), on_demand: false }
}

fn keeper(directory: &Path) -> Keeper {
    Keeper::new(directory.to_owned(), owner(), Duration::ZERO, &Metrics::default())
}

fn response(url: &str, names: &[(&str, &str)]) -> DeltaDiscoveryResponse {
    let resource = |(name, version): &(&str, &str)| Resource {
        name: (*name).to_owned(),
        version: (*version).to_owned(),
        aliases: vec!["/10.0.0.1".to_owned()],
        ..Resource::default()
    };
    DeltaDiscoveryResponse {
        type_url: url.to_owned(),
        resources: names.iter().map(resource).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn record(keeper: &Keeper, url: &str, names: &[(&str, &str)], rejected: &[&str], removed: &[&str]) {
    let rejections: Vec<_> =
        rejected.iter().map(|name| Rejection { name: (*name).to_owned(), reason: "bad".to_owned() }).collect();
    let removed: Vec<_> = removed.iter().map(ToString::to_string).collect();
    keeper.record(Received::of(&mut response(url, names)).unwrap(), &rejections, &removed);
}

/// Names and versions in the order in which they are given.
fn load(directory: &Path) -> Option<Vec<(String, String)>> {
    let mut given = Vec::new();
    let loaded = keeper(directory).load(|page| {
        assert_eq!(crate::io::xds::Extent::of(&page.system_version_info), crate::io::xds::Extent::Part);
        given.extend(page.resources.into_iter().map(|resource| (resource.name, resource.version)));
    });
    loaded.map(|(written, digests)| {
        assert!(digests && written == now());
        given
    })
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
}

/// Two workloads, a policy that is good, and one whose newest version is not.
fn filled(directory: &Path) -> Keeper {
    let keeper = keeper(directory);
    record(&keeper, type_url::ADDRESS, &[("w1", "1"), ("w2", "1")], &[], &[]);
    record(&keeper, type_url::AUTHORIZATION, &[("shop/p", "1"), ("shop/q", "1")], &[], &[]);
    record(&keeper, type_url::AUTHORIZATION, &[("shop/q", "2")], &["shop/q"], &[]);
    keeper.settle(true);
    keeper.write(now());
    keeper
}

#[test]
fn what_was_kept_is_given_back_and_later_changes_are_added() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(load(directory.path()), None);
    let keeper = filled(directory.path());
    // The version that was refused comes last, so that it is refused again and the one before stays in use.
    let first = pairs(&[("w1", "1"), ("w2", "1"), ("shop/p", "1"), ("shop/q", "1"), ("shop/q", "2")]);
    assert_eq!(load(directory.path()), Some(first));

    record(&keeper, type_url::ADDRESS, &[("w2", "2"), ("w3", "1")], &[], &["w1"]);
    record(&keeper, type_url::AUTHORIZATION, &[("shop/q", "3")], &[], &[]);
    keeper.settle(true);
    keeper.write(now());
    let second = pairs(&[("shop/p", "1"), ("w2", "2"), ("w3", "1"), ("shop/q", "3")]);
    assert_eq!(load(directory.path()), Some(second));
}

#[test]
fn half_of_an_answer_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = filled(directory.path());
    let before = load(directory.path());
    record(&keeper, type_url::AUTHORIZATION, &[], &[], &["shop/p"]);
    keeper.write(now());
    assert_eq!(load(directory.path()), before);
    keeper.settle(true);
    keeper.write(now());
    assert_ne!(load(directory.path()), before);
}

#[test]
fn a_file_that_is_not_whole_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    let path = directory.path().join(FILE.0);
    let whole = fs::read(&path).unwrap();
    // Every place where it may be cut off, every byte that may be wrong, and something behind the end.
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(load(directory.path()), None, "cut off at {length}");
    }
    for position in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x40;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(load(directory.path()), None, "damaged at {position}");
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert_eq!(load(directory.path()), None);
    fs::write(&path, &whole).unwrap();
    assert!(load(directory.path()).is_some());
}

#[test]
fn the_version_and_the_owner_must_fit() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    let path = directory.path().join(FILE.0);
    for other in [
        Owner { cluster: "other".to_owned(), ..owner() },
        Owner { node: "node-2".to_owned(), ..owner() },
        // What was asked for is not all there is.
        Owner { on_demand: true, ..owner() },
    ] {
        let error = Stored::open(&path, &other).unwrap_err();
        assert!(matches!(&error, Unusable::Owner(found) if *found == owner()), "{error}");
    }
    let mut bytes = fs::read(&path).unwrap();
    bytes[MAGIC.len() - 1] = 2;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(Stored::open(&path, &owner()), Err(Unusable::Version)));
}

#[test]
fn a_disk_that_refuses_loses_nothing_of_what_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = filled(directory.path());
    let before = load(directory.path());
    // In the way of the new file, as a full disk would be; works for root, too.
    fs::create_dir(directory.path().join(FILE.1)).unwrap();
    record(&keeper, type_url::ADDRESS, &[("w3", "1")], &[], &[]);
    keeper.settle(true);
    keeper.write(now());
    assert_eq!(load(directory.path()), before);
    fs::remove_dir(directory.path().join(FILE.1)).unwrap();
    keeper.write(now());
    assert_eq!(load(directory.path()).unwrap().len(), before.unwrap().len() + 1);
}

#[test]
fn changes_to_a_file_that_was_damaged_since_are_not_taken_for_everything() {
    for damage in [b"".as_slice(), b"fairway-last-good\x01 but no more"] {
        let directory = tempfile::tempdir().unwrap();
        let keeper = filled(directory.path());
        let path = directory.path().join(FILE.0);
        fs::write(&path, damage).unwrap();
        record(&keeper, type_url::ADDRESS, &[("w3", "1")], &[], &[]);
        keeper.settle(true);
        keeper.write(now());
        assert!(!path.exists(), "a damaged file stayed");
        keeper.write(now());
        assert!(!path.exists(), "a part was written as if it were the whole");
    }
}

#[test]
fn what_is_no_file_is_neither_read_nor_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE.0);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(load(directory.path()), None);
    // And it is replaced by what is one.
    filled(directory.path());
    assert!(load(directory.path()).is_some());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(load(directory.path()), None);
}

#[test]
fn a_disk_that_refuses_for_ever_does_not_fill_the_memory() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = filled(directory.path());
    let names: Vec<String> = (0..=crate::limits::XDS_STORE_BACKLOG.size() / 2).map(|name| name.to_string()).collect();
    keeper.record(Received::of(&mut response(type_url::ADDRESS, &[])).unwrap(), &[], &names);
    keeper.settle(true);
    assert_eq!(keeper.backlog(), 0);
    // What is on disk cannot be continued.
    assert_eq!(load(directory.path()), None);
    record(&keeper, type_url::ADDRESS, &[("w9", "1")], &[], &[]);
    keeper.settle(true);
    keeper.write(now());
    assert_eq!(load(directory.path()), None);
}
