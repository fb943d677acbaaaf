//! What a lab needs from the machine, checked before anything is started.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A program the lab runs, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 2] = [("ip", "iproute2"), ("nft", "nftables")];

/// Where distributions put CNI plugins.
const PLUGIN_DIRECTORIES: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// The CNI plugins that make pods' networks.
const PLUGINS: [&str; 4] = ["loopback", "ptp", "host-local", "portmap"];

/// Directories searched besides `PATH`: administration tools are often outside an ordinary user's.
const EXTRA_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Checks that every program is there.
///
/// # Errors
/// Names what is missing, with the line that installs it.
pub fn check(path: &str) -> Result<()> {
    let mut missing = missing(path, |candidate| candidate.is_file());
    if plugin_directory().is_none() {
        missing.push(("a set of CNI plugins", "containernetworking-plugins"));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    Err(Error::new(format!("the lab needs {}, which is not installed", programs.join(" and ")))
        .hint(format!("sudo apt-get install -y {}", packages.join(" "))))
}

/// The machine's directory of CNI plugins.
pub(crate) fn plugin_directory() -> Option<PathBuf> {
    let has_all = |directory: &PathBuf| PLUGINS.iter().all(|plugin| directory.join(plugin).is_file());
    PLUGIN_DIRECTORIES.into_iter().map(PathBuf::from).find(has_all)
}

fn missing(path: &str, exists: impl Fn(&Path) -> bool) -> Vec<(&'static str, &'static str)> {
    PROGRAMS
        .into_iter()
        .filter(|(program, _)| !std::env::split_paths(path).any(|directory| exists(&directory.join(program))))
        .collect()
}

/// `PATH` for everything in the lab: the binaries' directory first, then the caller's, then where administration tools are.
#[must_use]
pub fn search_path(binaries: Option<&Path>, callers: &str) -> String {
    let mut directories: Vec<PathBuf> = binaries.map(Path::to_owned).into_iter().collect();
    directories.extend(std::env::split_paths(callers).filter(|directory| directory.is_absolute()));
    for extra in ["/usr/local/bin", "/usr/bin", "/bin"].into_iter().chain(EXTRA_DIRECTORIES) {
        if !directories.iter().any(|directory| directory == Path::new(extra)) {
            directories.push(extra.into());
        }
    }
    std::env::join_paths(directories).map(|joined| joined.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The error for a kernel that refuses the namespaces a lab is made of.
pub(crate) fn namespaces_refused(error: nix::errno::Errno, unprivileged: bool) -> Error {
    let refused = Error::new("the kernel refused new namespaces").because(error);
    if !unprivileged {
        return refused.hint("run as root with CAP_SYS_ADMIN, or in a container started with --privileged");
    }
    let switches = [
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
    ];
    let switch = switches
        .into_iter()
        .find(|(file, bad, _)| std::fs::read_to_string(file).is_ok_and(|value| value.trim() == *bad))
        .map_or("kernel.unprivileged_userns_clone=1", |(_, _, setting)| setting);
    refused.hint(format!("allow user namespaces (sudo sysctl -w {switch}), or run with sudo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_name_their_packages() {
        let none = missing("/a:/b", |_| false);
        assert_eq!(none, PROGRAMS.to_vec());
        let only_ip = missing("/a:/b", |candidate| candidate == Path::new("/b/ip"));
        assert_eq!(only_ip, [("nft", "nftables")]);
    }

    #[test]
    fn the_search_path_adds_administration_directories_once() {
        let path = search_path(Some(Path::new("/target/debug")), "/usr/bin:relative:/usr/sbin");
        assert_eq!(path, "/target/debug:/usr/bin:/usr/sbin:/usr/local/bin:/bin:/usr/local/sbin:/sbin");
    }
}
