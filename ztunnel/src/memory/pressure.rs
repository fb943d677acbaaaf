//! Notices when the memory this process may have is nearly used up: then new connections are refused, before the kernel
//! ends the process and every open connection with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fairway_core::io::metrics::Metrics;
use fairway_core::limits::{self, Limits};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often is looked. A crowd opens some thousand connections meanwhile, which is what the part kept back is for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Giving back what is free is a walk through the heap, during which nobody gets any: not more often than this.
const BETWEEN_RELIEFS: Duration = Duration::from_secs(10);

/// Percent of the limit that must have come back before connections are let in again.
const RELIEF: u64 = 5;

/// What a cgroup of version 1 without a limit has as one is a little less than this: the largest page number there is.
const NO_LIMIT: u64 = 1 << 62;

const LIMIT: &str = "fairway_memory_limit_bytes";
const USED: &str = "fairway_memory_used_bytes";
const SHEDDING: &str = "fairway_memory_shedding";

/// Whether new connections are to be refused for want of memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pressure(Arc<AtomicBool>);

impl Pressure {
    /// Whether they are.
    #[must_use]
    pub fn is_high(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn set(&self, is_high: bool) {
        self.0.store(is_high, Ordering::Relaxed);
    }

    /// Follows the memory of this process for ever, if the kernel says how much it may have. `relieve` is called before
    /// anybody is refused, to give back what is free.
    pub async fn follow(self, group: Option<Group>, limits: Limits, metrics: Metrics, relieve: impl Fn()) {
        let Some(group) = group else {
            return tracing::info!("no cgroup of ours is known; nobody is refused for want of memory");
        };
        tracing::info!(cgroup = %group.directory.display(), "the memory limit of this cgroup is followed");
        metrics.describe(LIMIT, "Bytes of memory this process may have, by its cgroup; none is told without a limit.");
        metrics.describe(USED, "Bytes of them that are used, caches of files aside.");
        metrics.describe(SHEDDING, "1 while new connections are refused for want of memory.");
        let [used_gauge, shedding_gauge] = [USED, SHEDDING].map(|name| metrics.gauge(name, &[]));
        let threshold = limits.value(&limits::MEMORY_SHED);
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut relieved: Option<Instant> = None;
        loop {
            looks.tick().await;
            // What cannot be read says nothing; descriptors, for one, are short when connections are many.
            let Ok(mut reading) = group.read() else { continue };
            let was = self.is_high();
            let may_relieve = relieved.is_none_or(|at| at.elapsed() >= BETWEEN_RELIEFS);
            // While it lasts, too: what connections that have ended leave behind does not come back by itself.
            if may_relieve && reading.is_high(threshold, was) {
                relieved = Some(Instant::now());
                relieve();
                reading = group.read().unwrap_or(reading);
            }
            let is_high = reading.is_high(threshold, was);
            self.0.store(is_high, Ordering::Relaxed);
            let Reading { limit, used } = reading;
            used_gauge.set(used as f64);
            shedding_gauge.set(u8::from(is_high));
            if let Some(limit) = limit {
                metrics.gauge(LIMIT, &[]).set(limit as f64);
            }
            match (was, is_high) {
                (false, true) => {
                    tracing::error!(used, limit, "memory is short; new connections are refused until it is not")
                }
                (true, false) => tracing::warn!(used, limit, "memory is there again; connections are let in"),
                _ => {}
            }
        }
    }
}

/// How much memory there may be and is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    /// None where the process may have all there is.
    limit: Option<u64>,
    used: u64,
}

impl Reading {
    /// Whether it is too much, or still is if it `was`.
    fn is_high(self, threshold: u64, was: bool) -> bool {
        let percent = if was { threshold.saturating_sub(RELIEF) } else { threshold };
        threshold < 100 && self.limit.is_some_and(|limit| self.used > limit / 100 * percent)
    }
}

/// Where the kernel keeps account of a process's memory.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    directory: PathBuf,
    files: &'static Files,
}

/// The names of one version of cgroups.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    limit: &'static str,
    used: &'static str,
    /// What is used but can be had back at once, in `memory.stat`.
    reclaimable: &'static str,
}

const VERSION_1: Files =
    Files { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", reclaimable: "total_inactive_file" };
const VERSION_2: Files = Files { limit: "memory.max", used: "memory.current", reclaimable: "inactive_file" };

impl Group {
    /// That of this process.
    #[must_use]
    pub fn ours() -> Option<Self> {
        Self::named_by(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
    }

    /// The one that `membership` names, as in `/proc/self/cgroup`, where cgroups are mounted below `root`. In a container
    /// the path it names may be that of the host, and the mount begin at the container's own.
    fn named_by(membership: &str, root: &Path) -> Option<Self> {
        let lines = membership.lines().filter_map(|line| {
            let (_number, rest) = line.split_once(':')?;
            rest.split_once(':')
        });
        let places = lines.filter_map(|(controllers, path)| match controllers {
            "" => Some((root.to_owned(), path, &VERSION_2)),
            _ if controllers.split(',').any(|name| name == "memory") => Some((root.join("memory"), path, &VERSION_1)),
            _ => None,
        });
        let candidates = places.flat_map(|(mount, path, files)| {
            [mount.join(path.trim_start_matches('/')), mount].map(|directory| Self { directory, files })
        });
        candidates.into_iter().find(|group| group.directory.join(group.files.limit).is_file())
    }

    fn read(&self) -> io::Result<Reading> {
        let text = |name| fs::read_to_string(self.directory.join(name));
        let number = |text: &str| text.trim().parse::<u64>().map_err(io::Error::other);
        let limit = text(self.files.limit)?;
        let limit = if limit.trim() == "max" { None } else { Some(number(&limit)?).filter(|limit| *limit < NO_LIMIT) };
        let (used, stat) = (number(&text(self.files.used)?)?, text("memory.stat")?);
        let reclaimable = stat.lines().find_map(|line| line.strip_prefix(self.files.reclaimable)?.trim().parse().ok());
        Ok(Reading { limit, used: used.saturating_sub(reclaimable.unwrap_or(0)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_refused_from_the_threshold_on_and_let_in_somewhat_below_it() {
        for (used, threshold, was, expected) in [
            (900, 90, false, false),
            (901, 90, false, true),
            (851, 90, true, true),
            (850, 90, true, false),
            (1_000, 100, false, false),
            (1_000, 100, true, false),
        ] {
            assert_eq!(
                Reading { limit: Some(1_000), used }.is_high(threshold, was),
                expected,
                "{used} {threshold} {was}"
            );
        }
    }

    fn write(directory: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(directory).unwrap();
        for (name, text) in files {
            fs::write(directory.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_group_is_found_in_both_versions_and_in_containers() {
        let second =
            [("memory.max", "1000\n"), ("memory.current", "700\n"), ("memory.stat", "anon 1\ninactive_file 200\n")];
        let first = [
            ("memory.limit_in_bytes", "1000\n"),
            ("memory.usage_in_bytes", "700\n"),
            ("memory.stat", "inactive_file 9\ntotal_inactive_file 200\n"),
        ];
        for (membership, directory, files) in [
            ("0::/pods/z\n", "pods/z", &second),
            ("0::/pods/on/the/host\n", "", &second),
            ("9:name=systemd:/\n4:cpu,memory:/z\n0::/\n", "memory/z", &first),
            ("4:memory:/docker/z\n", "memory", &first),
        ] {
            let root = tempfile::tempdir().unwrap();
            write(&root.path().join(directory), files);
            let group = Group::named_by(membership, root.path()).unwrap();
            assert_eq!(group.read().unwrap(), Reading { limit: Some(1_000), used: 500 }, "{membership}");
        }
        assert_eq!(Group::named_by("0::/\n", tempfile::tempdir().unwrap().path()), None);
    }

    #[test]
    fn without_a_limit_there_is_no_pressure_and_what_cannot_be_read_is_not_taken_for_it() {
        let root = tempfile::tempdir().unwrap();
        let files = [("memory.max", ""), ("memory.current", "700"), ("memory.stat", "")];
        write(root.path(), &files);
        let group = Group::named_by("0::/\n", root.path()).unwrap();
        assert!(group.read().is_err(), "a limit that is no number");
        for limit in ["max", "9223372036854771712"] {
            write(root.path(), &[("memory.max", limit)]);
            assert_eq!(group.read().unwrap(), Reading { limit: None, used: 700 }, "{limit}");
        }
        fs::remove_file(root.path().join("memory.stat")).unwrap();
        assert!(group.read().is_err(), "caches cannot be told from what is used");
    }

    #[tokio::test(start_paused = true)]
    async fn pressure_comes_and_goes_with_memory_and_what_can_be_given_back_ends_it() {
        let root = tempfile::tempdir().unwrap();
        let used = |bytes: &str| {
            write(root.path(), &[("memory.max", "1000"), ("memory.current", bytes), ("memory.stat", "")]);
        };
        used("100");
        let (pressure, metrics) = (Pressure::default(), Metrics::new(&[]));
        // What is free, and given back when asked for.
        let free = Arc::new(AtomicBool::new(false));
        let (given, file) = (Arc::clone(&free), root.path().join("memory.current"));
        let relieve = move || {
            if given.swap(false, Ordering::Relaxed) {
                fs::write(&file, "800").unwrap();
            }
        };
        let group = Group::named_by("0::/\n", root.path());
        tokio::spawn(pressure.clone().follow(group, Limits::default(), metrics.clone(), relieve));
        for (bytes, is_free, after, is_high) in [
            ("100", false, LOOK_EVERY, false),
            ("950", true, LOOK_EVERY, false),
            ("950", false, LOOK_EVERY, true),
            ("860", false, LOOK_EVERY, true),
            ("", false, LOOK_EVERY, true),
            ("500", false, LOOK_EVERY, false),
            ("950", false, LOOK_EVERY, true),
            // The connections have ended, and their memory is free but not given back.
            ("950", true, BETWEEN_RELIEFS, false),
        ] {
            used(bytes);
            free.store(is_free, Ordering::Relaxed);
            // The clock is the test's own.
            tokio::time::sleep(after * 2).await;
            assert_eq!(pressure.is_high(), is_high, "{bytes}");
            assert!(metrics.render().contains(&format!("{SHEDDING} {}", u8::from(is_high))), "{}", metrics.render());
        }
    }
}
