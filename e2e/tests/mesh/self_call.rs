//! A pod that connects to the proxy's own listener: refused, by whatever address, instead of going round for ever.

use super::labs;
use super::observe::{Cursor, field};
use super::shop::{self, CLIENT};

/// Where captured connections arrive.
const LISTENER: u16 = 15001;

#[test]
fn the_proxys_own_listener_is_no_destination() {
    let Some(lab) = shop::enrolled("self-call") else { return };
    let addresses = labs::output(&lab, CLIENT, &["ip", "-o", "address", "show", "dev", "eth0"]);
    let addresses: Vec<&str> =
        addresses.lines().filter_map(|line| line.split_whitespace().nth(3)?.split('/').next()).collect();
    assert!(addresses.iter().any(|address| address.starts_with("fe80:")), "one that is not announced: {addresses:?}");
    for address in addresses {
        let scope = if address.starts_with("fe80:") { "%eth0" } else { "" };
        let log = Cursor::at_end(&lab, "ztunnel-node-1");
        let script = format!("exec 3<>/dev/tcp/{address}{scope}/{LISTENER} && read -r -u 3");
        assert!(!lab.exec(CLIENT, &["bash", "-c", &script]).unwrap().status.success());
        let refused = log.wait(&lab, &["reason=\"self_call\""]);
        assert_eq!(field(&refused, "src.addr").map(|source| source.contains(address)), Some(true), "{refused}");
        assert_eq!(log.lines(&lab, &["reason=\"self_call\""]).len(), 1, "it went round before it was refused");
    }
}
