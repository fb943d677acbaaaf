//! Tests of `install`, on real directories.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fairway_core::io::metrics::Metrics;
use tokio_util::sync::CancellationToken;

use super::*;

const LIST: &str = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;
const SINGLE: &str = r#"{"cniVersion":"0.4.0","name":"pods","type":"bridge"}"#;

struct Node {
    _directory: tempfile::TempDir,
    settings: Settings,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        fs::create_dir_all(&settings.net_dir).unwrap();
        fs::create_dir_all(&settings.bin_dir).unwrap();
        fs::write(&settings.program, "the plugin").unwrap();
        Self { _directory: directory, settings }
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let node = Self::new();
        for (name, text) in files {
            node.write(name, text);
        }
        node
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.settings.net_dir.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.settings.net_dir.join(name)).unwrap()
    }

    fn names_us(&self, name: &str) -> bool {
        fs::read_to_string(self.settings.net_dir.join(name)).is_ok_and(|text| names_us(&text))
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.settings.net_dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn program(&self) -> PathBuf {
        self.settings.bin_dir.join(PLUGIN)
    }
}

fn settings(root: &Path) -> Settings {
    Settings {
        net_dir: root.join("net.d"),
        node_net_dir: "/etc/cni/net.d".into(),
        bin_dir: root.join("bin"),
        cache_dir: root.join("cache"),
        program: root.join("fairway-cni"),
        run_dir: "/var/run/istio-cni".into(),
        place: Place::First,
        fail: Fail::Closed,
        patience: 10_000,
    }
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn chains_into_the_first_usable_configuration_and_leaves_no_trace_when_removed() {
    let node = Node::with(&[
        ("00-notes.txt", "x"),
        ("05-broken.conflist", "{"),
        ("10-a.conflist", LIST),
        ("20-b.conflist", LIST),
    ]);
    let installed = node.settings.install().unwrap();
    assert_eq!((installed.file.as_str(), installed.changed), ("10-a.conflist", true));
    let list = json_of(&node.read("10-a.conflist"));
    assert_eq!(list["plugins"][2], node.settings.entry());
    assert_eq!(list["plugins"][2]["state_file"], "/etc/cni/net.d/fairway-cni/enrolled.json");
    assert!(!node.names_us("20-b.conflist"));
    assert_eq!(fs::read_to_string(node.program()).unwrap(), "the plugin");
    assert!(!node.settings.install().unwrap().changed, "again changes nothing");

    node.settings.remember(&["shop".to_owned()].into()).unwrap();
    node.settings.remove_configuration().unwrap();
    assert!(node.settings.remove_files().unwrap());
    assert_eq!(json_of(&node.read("10-a.conflist")), json_of(LIST));
    assert_eq!(node.files(), ["00-notes.txt", "05-broken.conflist", "10-a.conflist", "20-b.conflist"]);
    assert!(!node.program().exists());
}

#[test]
fn a_single_plugin_is_made_a_list_and_given_back() {
    let node = Node::with(&[("10-a.conf", SINGLE)]);
    for _ in 0..2 {
        assert_eq!(node.settings.install().unwrap().file, "10-a.conflist");
        assert_eq!(node.files(), ["10-a.conflist"]);
        // As after a crash between the two steps, or when its owner writes it again.
        node.write("10-a.conf", SINGLE);
        assert!(node.settings.install().unwrap().changed);
    }
    assert_eq!(node.files(), ["10-a.conflist"]);
    node.settings.remove_configuration().unwrap();
    assert_eq!(node.files(), ["10-a.conf"]);
    assert_eq!(json_of(&node.read("10-a.conf")), json_of(SINGLE));
}

#[test]
fn moves_along_when_another_configuration_becomes_the_first() {
    let node = Node::with(&[("10-a.conflist", LIST)]);
    node.settings.install().unwrap();
    node.write("05-new.conflist", LIST);
    assert_eq!(node.settings.install().unwrap().file, "05-new.conflist");
    assert!(!node.names_us("10-a.conflist"));
    fs::remove_file(node.settings.net_dir.join("05-new.conflist")).unwrap();
    assert_eq!(node.settings.install().unwrap().file, "10-a.conflist");
}

#[test]
fn an_owned_copy_leaves_the_original_alone() {
    let mut node = Node::with(&[("10-a.conflist", LIST)]);
    node.settings.install().unwrap();
    node.settings.place = Place::Owned("02-fairway-cni.conflist".to_owned());
    assert_eq!(node.settings.install().unwrap().file, "02-fairway-cni.conflist");
    assert_eq!(json_of(&node.read("10-a.conflist")), json_of(LIST), "the entry of an earlier setting is gone");
    assert!(node.names_us("02-fairway-cni.conflist"));
    assert!(!node.settings.install().unwrap().changed);
    node.write("10-a.conflist", &LIST.replace("portmap", "bandwidth"));
    assert!(node.settings.install().unwrap().changed);
    assert!(node.read("02-fairway-cni.conflist").contains("bandwidth"));
    fs::remove_file(node.settings.net_dir.join("10-a.conflist")).unwrap();
    assert!(matches!(node.settings.install(), Err(InstallError::NothingToChain { .. })));
    assert_eq!(node.files(), Vec::<String>::new());
    node.write("10-a.conflist", LIST);
    node.settings.install().unwrap();
    node.settings.remove_configuration().unwrap();
    assert_eq!(node.files(), ["10-a.conflist"]);
}

#[test]
fn only_the_named_configuration_is_used() {
    let mut node = Node::with(&[("10-a.conflist", LIST), ("20-b.conf", SINGLE)]);
    node.settings.place = Place::Named("20-b.conf".to_owned());
    assert_eq!(node.settings.install().unwrap().file, "20-b.conflist");
    assert!(!node.settings.install().unwrap().changed);
    assert!(!node.names_us("10-a.conflist"));
}

#[test]
fn what_another_cni_writes_while_we_write_is_not_lost() {
    let node = Node::with(&[("10-a.conflist", &LIST.replace("portmap", "bandwidth"))]);
    let path = node.settings.net_dir.join("10-a.conflist");
    let entry = node.settings.entry();
    let again = |text: &str| chained(text, Form::List, &entry).map(|list| render(&list)).ok();
    // We believe it to be the old one; it is the new one already.
    exchange::exchange(&path, LIST, &again(LIST).unwrap(), again).unwrap();
    let text = node.read("10-a.conflist");
    assert!(text.contains("bandwidth") && names_us(&text), "{text}");
    // We meet the beginning of what it writes: it keeps its file, and what it writes on gets there.
    let whole = LIST.replace("portmap", "tuning");
    let (beginning, rest) = whole.split_at(20);
    let mut writer = fs::File::create(&path).unwrap();
    writer.write_all(beginning.as_bytes()).unwrap();
    exchange::exchange(&path, LIST, &again(LIST).unwrap(), again).unwrap();
    assert_eq!(node.read("10-a.conflist"), beginning);
    writer.write_all(rest.as_bytes()).unwrap();
    assert_eq!(node.read("10-a.conflist"), whole);
    assert_eq!(node.files(), ["10-a.conflist"]);
}

#[test]
fn without_a_configuration_it_says_what_is_missing() {
    let node = Node::with(&[("10-a.conflist", "{\"cniVersion\":\"1.0.0\"")]);
    let error = node.settings.install().unwrap_err().to_string();
    assert!(error.contains("10-a.conflist: not JSON (yet)"), "{error}");
    assert_eq!(node.files(), ["10-a.conflist"]);
    fs::remove_dir_all(&node.settings.net_dir).unwrap();
    assert!(matches!(node.settings.install(), Err(InstallError::NoDirectory(_))));
    assert!(matches!(node.settings.remember(&BTreeSet::new()), Err(InstallError::NoDirectory(_))));
    node.settings.remove_configuration().unwrap();
}

#[test]
fn the_program_stays_while_a_pod_needs_it_to_end() {
    let node = Node::with(&[("10-a.conflist", LIST)]);
    node.settings.install().unwrap();
    // As Multus keeps them, one directory deeper than all others.
    let results = node.settings.cache_dir.join("multus/results");
    fs::create_dir_all(&results).unwrap();
    let result = results.join("pods-c0ffee-eth0");
    let configuration =
        STANDARD.encode(r#"{"cniVersion":"1.0.0","plugins":[{"type":"bridge"},{"type":"fairway-cni"}]}"#);
    fs::write(&result, json!({"kind": "cniCacheV1", "config": configuration, "ifName": "eth0"}).to_string()).unwrap();
    fs::write(results.join("others"), "fairway-cni").unwrap();
    node.settings.remove_configuration().unwrap();
    assert!(!node.settings.remove_files().unwrap());
    assert!(node.program().exists());
    fs::remove_file(result).unwrap();
    assert!(node.settings.remove_files().unwrap());
    assert!(!node.program().exists());
}

#[test]
fn an_uninstallation_that_was_killed_anywhere_is_finished_by_the_next() {
    let steps: [fn(&Settings); 4] = [
        |_| {},
        |settings| settings.remove_configuration().unwrap(),
        |settings| fs::remove_dir_all(settings.net_dir.join(STATE_DIRECTORY)).unwrap(),
        |settings| fs::remove_file(settings.bin_dir.join(PLUGIN)).unwrap(),
    ];
    for killed_after in 0..=steps.len() {
        let node = Node::with(&[("10-a.conflist", LIST)]);
        node.settings.install().unwrap();
        node.settings.remember(&BTreeSet::new()).unwrap();
        for step in &steps[..killed_after] {
            step(&node.settings);
        }
        node.settings.remove_configuration().unwrap();
        assert!(node.settings.remove_files().unwrap());
        assert_eq!(node.files(), ["10-a.conflist"], "killed after step {killed_after}");
        assert!(!node.names_us("10-a.conflist") && !node.program().exists());
    }
}

/// Runs `test` with `root` on a file system of its own, or says that it cannot.
fn on_a_small_disk(test: impl FnOnce(&Path) + Send) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let none: Option<&str> = None;
            let prepared = unshare(CloneFlags::CLONE_NEWNS)
                .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
                .and_then(|()| mount(Some("tmpfs"), root, Some("tmpfs"), MsFlags::empty(), Some("size=64k")));
            match prepared {
                Ok(()) => test(root),
                Err(_) => {
                    use std::io::Write as _;
                    // Written past the test harness, so that it shows without --nocapture.
                    let _ = writeln!(io::stderr(), "SKIPPED: a disk that is full or read-only: needs root");
                }
            }
        });
    });
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    on_a_small_disk(|root| {
        let settings = settings(root);
        fs::create_dir_all(&settings.net_dir).unwrap();
        fs::create_dir_all(&settings.bin_dir).unwrap();
        fs::write(&settings.program, "the plugin").unwrap();
        fs::write(settings.net_dir.join("10-a.conflist"), LIST).unwrap();
        settings.remember(&["shop".to_owned()].into()).unwrap();
        let state = fs::read_to_string(settings.state_file()).unwrap();
        let filler = root.join("filler");
        let error = fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        for _ in 0..2 {
            let error = settings.install().unwrap_err().to_string();
            assert!(error.contains("not full"), "{error}");
            assert!(settings.remember(&["shop".to_owned(), "bank".to_owned()].into()).is_err());
        }
        assert_eq!(fs::read_to_string(settings.net_dir.join("10-a.conflist")).unwrap(), LIST);
        assert_eq!(fs::read_to_string(settings.state_file()).unwrap(), state);
        fs::remove_file(filler).unwrap();
        assert!(settings.install().unwrap().changed, "room again, and it heals");
    });
}

#[test]
fn a_read_only_root_is_said_and_healed() {
    on_a_small_disk(|root| {
        use nix::mount::{MsFlags, mount};
        let settings = settings(root);
        fs::create_dir_all(&settings.net_dir).unwrap();
        fs::create_dir_all(&settings.bin_dir).unwrap();
        fs::write(&settings.program, "the plugin").unwrap();
        fs::write(settings.net_dir.join("10-a.conflist"), LIST).unwrap();
        let none: Option<&str> = None;
        let remount = |flags| mount(none, root, none, MsFlags::MS_REMOUNT | flags, none).unwrap();
        remount(MsFlags::MS_RDONLY);
        let error = settings.install().unwrap_err().to_string();
        assert!(error.contains("check that it is writable"), "{error}");
        assert!(settings.remember(&BTreeSet::new()).is_err());
        remount(MsFlags::empty());
        assert!(settings.install().unwrap().changed);
    });
}

// The clock stands still while anything has something to do, as the loop below always has: nothing happens because its
// time has come. How soon it happens is for `fairway-bench cni` to say.
#[tokio::test(start_paused = true)]
async fn a_cni_that_rewrites_its_configuration_is_followed_without_waiting_for_the_next_round() {
    let node = Node::with(&[("10-a.conflist", LIST)]);
    let stop = CancellationToken::new();
    let metrics = Metrics::new(&[]);
    let keeping = tokio::spawn(keep(Arc::new(node.settings.clone()), metrics.clone(), stop.clone()));
    let back = async || {
        let limit = Instant::now() + Duration::from_secs(60);
        while !node.names_us("10-a.conflist") {
            assert!(Instant::now() < limit, "never");
            tokio::task::yield_now().await;
        }
    };
    back().await;
    for round in 0..20 {
        let text = LIST.replace("portmap", &format!("portmap{round}"));
        if round % 2 == 0 {
            // As careless as they come: half of it, then the rest.
            node.write("10-a.conflist", &text[..20]);
        }
        node.write("10-a.conflist", &text);
        back().await;
        assert!(node.read("10-a.conflist").contains(&format!("portmap{round}")), "its newest content is kept");
    }
    stop.cancel();
    keeping.await.unwrap();
    assert!(node.names_us("10-a.conflist"), "an agent that stops leaves it in place");
    let text = metrics.render();
    assert!(
        text.contains("istio_cni_install_ready 1") && text.contains(r#"istio_cni_installs_total{result="SUCCESS"}"#),
        "{text}"
    );
}

#[test]
fn a_fight_of_many_writers_ends_with_all_of_them_heard() {
    let node = Node::with(&[("10-a.conflist", LIST)]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200 {
                let beside = node.settings.net_dir.join(".their.tmp");
                fs::write(&beside, LIST.replace("portmap", &format!("portmap{round}"))).unwrap();
                fs::rename(beside, node.settings.net_dir.join("10-a.conflist")).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            match node.settings.install() {
                Ok(_) | Err(InstallError::Contended(_) | InstallError::NothingToChain { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    node.settings.install().unwrap();
    assert!(node.names_us("10-a.conflist"));
    assert!(node.read("10-a.conflist").contains("portmap199"));
}
