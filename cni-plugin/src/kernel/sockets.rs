//! Connections in a pod that only go on while the proxy and the rules stay, from the kernel's own tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::rules::{INBOUND_PORT, OUTBOUND_PORT};

/// States that carry data or still will (include/net/tcp_states.h): not waiting, closed, or listening.
const LIVE: [&str; 6] = ["01", "02", "03", "04", "05", "08"];

/// How many connections in a table of `/proc/net/tcp` or `/proc/net/tcp6` depend on the capture, in a namespace that
/// has the addresses `own`: those redirected to the proxy, and those it opened to the application in a peer's name.
pub(super) fn captured(table: &str, own: &[IpAddr]) -> usize {
    let ports = [OUTBOUND_PORT, INBOUND_PORT];
    let sockets = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = address(fields.next()?)?;
        let state = fields.nth(1)?;
        LIVE.contains(&state).then_some(local)
    });
    sockets
        .filter(|(ip, port)| ports.contains(port) || !own.contains(ip) && !ip.is_loopback() && !ip.is_unspecified())
        .count()
}

/// An address as the kernel writes it: words of the machine's byte order, in hexadecimal.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let words: Option<Vec<u8>> = (0..ip.len())
        .step_by(8)
        .map(|start| u32::from_str_radix(ip.get(start..start + 8)?, 16).ok())
        .collect::<Option<Vec<u32>>>()
        .map(|words| words.into_iter().flat_map(u32::to_ne_bytes).collect());
    let bytes = words?;
    let ip: IpAddr = if let Ok(bytes) = <[u8; 4]>::try_from(bytes.as_slice()) {
        Ipv4Addr::from(bytes).into()
    } else {
        IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?)).to_canonical()
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_the_proxy_carries_and_nothing_else() {
        let hexadecimal = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let (pod, peer) = (hexadecimal([10, 0, 0, 5]), hexadecimal([10, 9, 9, 9]));
        let own = ["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let line = |local: &str, port: u16, state: &str| {
            format!(
                "   0: {local}:{port:04X} {peer}:C350 {state} 00000000:00000000 00:00000000 00000000     0        0 1 1\n"
            )
        };
        // socket, counts
        let rows = [
            (line(&pod, 15001, "01"), 1),
            (line(&pod, 15006, "08"), 1),
            (line(&pod, 15006, "06"), 0),
            (line("00000000", 15001, "0A"), 0),
            (line(&pod, 15008, "01"), 0),
            (line(&pod, 8080, "01"), 0),
            (line(&peer, 40000, "01"), 1),
            (line(&hexadecimal([127, 0, 0, 1]), 40000, "01"), 0),
            ("nonsense\n".to_owned(), 0),
            (line("zz", 15001, "01"), 0),
        ];
        for (socket, counts) in rows {
            assert_eq!(captured(&format!("header\n{socket}"), &own), counts, "{socket}");
        }
        let words = |ip: &str| -> String {
            let ip: Ipv6Addr = ip.parse().unwrap();
            ip.octets().chunks(4).map(|word| hexadecimal(word.try_into().unwrap())).collect()
        };
        let mapped = line(&words("::ffff:10.0.0.5"), 9000, "01");
        assert_eq!(captured(&format!("header\n{mapped}"), &own), 0, "an address of its own, written otherwise");
        assert_eq!(captured(&format!("header\n{}", line(&words("fd00::5"), 15006, "01")), &own), 1);
        assert_eq!(captured(&format!("header\n{}", line(&words("fd00::9"), 40000, "01")), &own), 1);
    }
}
