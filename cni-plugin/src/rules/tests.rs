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

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/rules").join(format!("{name}.nft"))
}

#[test]
fn scripts_match_their_golden_files() {
    for (name, capture) in variants() {
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
    for (name, capture) in variants() {
        let script = filling(&tables(&capture));
        let rules =
            tables(&capture).iter().flat_map(|table| &table.chains).map(|chain| chain.rules.len()).sum::<usize>();
        assert_eq!(script.matches(" counter ").count(), rules, "{name}");
        assert_eq!(script.contains("ip6 "), capture.ipv6, "{name}");
    }
    let files = std::fs::read_dir(golden("x").parent().unwrap()).unwrap().count();
    assert_eq!(files, variants().len());
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
