//! Which resolvers are asked: those that are set, else those of this machine's `resolv.conf`, read again when it changes.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Where resolvers take queries (RFC 1035 §4.2).
pub const RESOLVER_PORT: u16 = 53;
/// Where this machine's resolvers are written down.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How often the file is looked at; people change it by hand, or a lease does.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The resolvers to ask, most preferred first. Clones share what was read.
#[derive(Clone, Debug)]
pub struct Resolvers {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Fixed(Arc<[SocketAddr]>),
    File(Arc<File>),
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    read: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    checked: Option<Instant>,
    modified: Option<SystemTime>,
    resolvers: Arc<[SocketAddr]>,
}

impl Resolvers {
    /// Always these.
    #[must_use]
    pub fn fixed(resolvers: &[SocketAddr]) -> Self {
        Self { source: Source::Fixed(resolvers.into()) }
    }

    /// Those the file names, in the form of `resolv.conf(5)`.
    #[must_use]
    pub fn of_file(path: PathBuf) -> Self {
        Self { source: Source::File(Arc::new(File { path, read: Mutex::default() })) }
    }

    /// Those that this machine asks.
    #[must_use]
    pub fn of_machine() -> Self {
        Self::of_file(RESOLV_CONF.into())
    }

    /// Addresses, with a port if it is not 53, separated by commas.
    ///
    /// # Errors
    /// What to write.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let resolvers = text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(|word| {
            let address = word.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, RESOLVER_PORT));
            address.or_else(|_| word.parse()).ok().filter(|address| address.port() > 0)
        });
        let resolvers: Option<Vec<SocketAddr>> = resolvers.collect();
        let resolvers = resolvers.filter(|resolvers| !resolvers.is_empty());
        resolvers.map(|resolvers| Self::fixed(&resolvers)).ok_or("write addresses such as 10.96.0.10,[fd00::a]:5353")
    }

    /// The resolvers as of now.
    #[must_use]
    pub fn list(&self) -> Arc<[SocketAddr]> {
        match &self.source {
            Source::Fixed(resolvers) => Arc::clone(resolvers),
            Source::File(file) => file.list(Instant::now()),
        }
    }
}

impl File {
    fn list(&self, now: Instant) -> Arc<[SocketAddr]> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.checked.is_some_and(|checked| now.duration_since(checked) < CHECK_INTERVAL) {
            return Arc::clone(&read.resolvers);
        }
        read.checked = Some(now);
        let modified = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        if modified.is_none() || modified != read.modified {
            match std::fs::read(&self.path) {
                Ok(content) => (read.resolvers, read.modified) = (parse(&content), modified),
                // What it said before is a better guess than none.
                Err(error) => tracing::warn!(path = %self.path.display(), %error, "cannot read which resolvers to ask"),
            }
        }
        Arc::clone(&read.resolvers)
    }
}

/// Lines that are not understood do not take those with them that are.
fn parse(content: &[u8]) -> Arc<[SocketAddr]> {
    let (config, _ignored) = resolv_conf::Config::parse_with_errors(content);
    let resolvers = config.get_nameservers_or_local();
    resolvers.into_iter().map(|resolver| SocketAddr::new(IpAddr::from(resolver), RESOLVER_PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        for (content, expected) in [
            ("nameserver 10.96.0.10\nsearch a b\nnameserver fd00::a\n", &["10.96.0.10:53", "[fd00::a]:53"][..]),
            ("nonsense\nnameserver 10.96.0.10\noptions ndots:5\n", &["10.96.0.10:53"]),
            // As resolv.conf(5) has it.
            ("", &["127.0.0.1:53", "[::1]:53"]),
        ] {
            let expected: Vec<SocketAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(*parse(content.as_bytes()), *expected, "{content}");
        }
    }

    #[test]
    fn a_file_that_changes_is_read_again_and_one_that_vanishes_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let write = |text: &str, age: u64| {
            std::fs::write(&path, text).unwrap();
            // File times may be as coarse as the kernel's tick.
            let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(age);
            std::fs::File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
        };
        let file = File { path: path.clone(), read: Mutex::default() };
        let start = Instant::now();
        let at = |checks: u32| file.list(start + CHECK_INTERVAL * checks).first().unwrap().to_string();
        write("nameserver 10.0.0.1", 1);
        assert_eq!(at(0), "10.0.0.1:53");
        write("nameserver 10.0.0.2", 2);
        assert_eq!(at(0), "10.0.0.1:53", "looked at too often");
        assert_eq!(at(1), "10.0.0.2:53");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(at(2), "10.0.0.2:53");
        write("nameserver 10.0.0.3", 3);
        assert_eq!(at(3), "10.0.0.3:53");
    }
}
