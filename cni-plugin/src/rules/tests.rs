//! Tests of `rules`.

use std::path::PathBuf;

use super::*;

/// Set to `1` to write the golden files anew; look at the difference before keeping it.
const REGENERATE: &str = "FAIRWAY_REGENERATE_GOLDEN";

fn variants() -> Vec<(String, Capture)> {
    let mut variants = Vec::new();
    for ipv6 in [false, true] {
        for dns in [false, true] {
            for inbound in [false, true] {
                for virtual_interface in [false, true] {
                    let mut capture = Capture { ipv6, dns, inbound, ..Capture::default() };
                    if virtual_interface {
                        capture.virtual_interfaces.insert(InterfaceName::parse("tap0").unwrap());
                    }
                    let name = [
                        if ipv6 { "dual" } else { "ipv4" },
                        if dns { "-dns" } else { "" },
                        if inbound { "" } else { "-outbound-only" },
                        if virtual_interface { "-virtual-interface" } else { "" },
                    ];
                    variants.push((name.concat(), capture));
                }
            }
        }
    }
    variants
}

/// Captures beyond those above: what else changes a rule, one thing at a time.
fn others() -> Vec<(String, Capture)> {
    let probes = Probes {
        sources: ["10.0.0.1", "10.99.0.11", "fd00::1"].map(|address| address.parse().unwrap()).into(),
        ports: [8080, 9090].into(),
    };
    let one = Probes { sources: ["10.0.0.1".parse().unwrap()].into(), ports: [8080].into() };
    vec![
        ("probes".to_owned(), Capture { probes: probes.clone(), ..Capture::default() }),
        ("probes-ipv4-one".to_owned(), Capture { probes: one, ipv6: false, ..Capture::default() }),
        ("settled".to_owned(), Capture { phase: Phase::Settled, ..Capture::default() }),
        ("leaving".to_owned(), Capture { phase: Phase::Leaving, dns: true, probes, ..Capture::default() }),
    ]
}

fn all() -> Vec<(String, Capture)> {
    variants().into_iter().chain(others()).collect()
}

#[test]
fn probes_without_address_or_port_open_nothing() {
    for (sources, ports) in [(vec!["10.0.0.1"], vec![]), (vec![], vec![8080]), (vec!["fd00::1"], vec![8080])] {
        let sources = sources.into_iter().map(|address| address.parse().unwrap()).collect();
        let probes = Probes { sources, ports: ports.into_iter().collect() };
        let capture = Capture { probes, ipv6: false, ..Capture::default() };
        assert_eq!(tables(&capture), tables(&Capture { ipv6: false, ..Capture::default() }));
    }
}

#[test]
fn a_pod_that_leaves_is_not_redirected_any_more() {
    for (name, capture) in all() {
        let leaving = filling(&tables(&Capture { phase: Phase::Leaving, ..capture }));
        assert!(!leaving.contains("redirect") && leaving.contains("meta mark set ct mark"), "{name}");
    }
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/rules").join(format!("{name}.nft"))
}

/// Captures that together have every match and action once.
const IN_IPTABLES: [&str; 4] = ["dual-dns-virtual-interface", "probes", "settled", "leaving"];

fn all_of_iptables() -> Vec<(String, String)> {
    let families = [("v4", Family::V4), ("v6", Family::V6)];
    let chosen = all().into_iter().filter(|(name, _)| IN_IPTABLES.contains(&name.as_str()));
    chosen
        .flat_map(|(name, capture)| {
            families.map(|(family_name, family)| {
                let script = iptables::filling(&tables(&capture), family, "");
                (format!("{name}.{family_name}.iptables"), script)
            })
        })
        .collect()
}

#[test]
fn iptables_scripts_match_their_golden_files() {
    for (name, script) in all_of_iptables() {
        let path = golden(&name).with_extension("");
        if std::env::var_os(REGENERATE).is_some() {
            std::fs::write(&path, &script).unwrap();
        }
        let wanted = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(script, wanted, "{}: run again with {REGENERATE}=1 and look at the difference", path.display());
    }
}

#[test]
fn iptables_scripts_take_the_place_of_what_is_there() {
    let present = "*nat\n:PREROUTING ACCEPT [1:2]\n:FAIRWAY_PREROUTING - [0:0]\n:FAIRWAY_OLD - [0:0]\n:KUBE - [0:0]\n\
                   -A PREROUTING -j FAIRWAY_PREROUTING\n-A PREROUTING -j KUBE\n-A FAIRWAY_PREROUTING -j FAIRWAY_OLD\nCOMMIT\n";
    let removed = "*nat\n-D PREROUTING -j FAIRWAY_PREROUTING\n-F FAIRWAY_PREROUTING\n-F FAIRWAY_OLD\n\
                   -X FAIRWAY_PREROUTING\n-X FAIRWAY_OLD\nCOMMIT\n";
    assert_eq!(iptables::removal(present), removed);
    assert_eq!(iptables::removal("*nat\n:KUBE - [0:0]\nCOMMIT\n"), "");
    let script = iptables::filling(&tables(&Capture::default()), Family::V4, present);
    let nat = script.split("COMMIT").next().unwrap();
    assert!(nat.starts_with(
        "*nat\n:FAIRWAY_PREROUTING - [0:0]\n:FAIRWAY_OUTPUT - [0:0]\n-D PREROUTING -j FAIRWAY_PREROUTING\n-F FAIRWAY_OLD\n-X FAIRWAY_OLD\n"
    ));
    assert_eq!(nat.matches("-A PREROUTING -j FAIRWAY_PREROUTING").count(), 1, "{nat}");
    let listed =
        iptables::listing("*nat\n:FAIRWAY_OUTPUT - [3:4]\n-A OUTPUT -j FAIRWAY_OUTPUT\n-A OUTPUT -j KUBE\nCOMMIT\n");
    assert_eq!(listed, "*nat :FAIRWAY_OUTPUT -\n*nat -A OUTPUT -j FAIRWAY_OUTPUT\n");
}

#[test]
fn scripts_match_their_golden_files() {
    for (name, capture) in all() {
        let script = filling(&tables(&capture));
        let path = golden(&name);
        if std::env::var_os(REGENERATE).is_some() {
            std::fs::write(&path, &script).unwrap();
        }
        let wanted = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(script, wanted, "{}: run again with {REGENERATE}=1 and look at the difference", path.display());
    }
}

#[test]
fn every_rule_counts_and_no_golden_file_is_left_over() {
    for (name, capture) in all() {
        let script = filling(&tables(&capture));
        let rules =
            tables(&capture).iter().flat_map(|table| &table.chains).map(|chain| chain.rules.len()).sum::<usize>();
        assert_eq!(script.matches(" counter ").count(), rules, "{name}");
        let redirects_ipv6 = capture.ipv6 && capture.phase != Phase::Leaving;
        assert_eq!(script.contains("ip6 "), redirects_ipv6, "{name}");
    }
    let files = std::fs::read_dir(golden("x").parent().unwrap()).unwrap().count();
    assert_eq!(files, all().len() + all_of_iptables().len());
}

#[test]
fn removal_names_every_table_and_nothing_else() {
    let script = removal();
    assert_eq!(
        script.lines().filter(|line| line.starts_with("delete table inet fairway-")).count(),
        TableName::ALL.len()
    );
    assert!(!script.contains("flush"));
}

#[test]
fn interface_names() {
    for good in ["eth0", "tap0.100", "a", "br-lan_0", "123456789012345"] {
        assert!(InterfaceName::parse(good).is_ok(), "{good}");
    }
    for bad in ["", "1234567890123456", "a b", "a\"", "a;b", "ä", "a/b"] {
        assert!(InterfaceName::parse(bad).is_err(), "{bad}");
    }
}
