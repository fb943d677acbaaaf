//! Clients outside of the mesh, in clear text.

use super::labs;
use super::shop::{self, SERVER, VISITOR};

/// So few ports that a client soon comes from most of them. None is used twice in a test: the client's end waits for a minute.
const PORTS: &str = "40000 40063";
/// Connections to each address.
const CONNECTIONS: &str = "60";

#[test]
fn a_client_in_clear_text_is_answered_whatever_port_it_comes_from() {
    let Some(lab) = shop::enrolled("strangers") else { return };
    let narrow = format!("echo {PORTS} > /proc/sys/net/ipv4/ip_local_port_range");
    for pod in [VISITOR, SERVER] {
        labs::output(&lab, pod, &["sh", "-c", &narrow]);
    }
    let addresses = labs::pod(&lab, SERVER).addresses;
    let hosts = addresses.iter().map(|it| if it.contains(':') { format!("[{it}]:8080") } else { format!("{it}:8080") });
    for host in hosts.chain(["server.shop".to_owned()]) {
        let url = format!("http://{host}/");
        let asked = ["fairway", "lab", "tool", "http-get", "--count", CONNECTIONS, &url];
        let heard = lab.exec(VISITOR, &asked).unwrap();
        let heard = String::from_utf8_lossy(&heard.stdout);
        let answers = heard.lines().filter(|line| line.starts_with("200 ")).count();
        assert_eq!(answers.to_string(), CONNECTIONS, "{url}: {heard}");
    }
}
