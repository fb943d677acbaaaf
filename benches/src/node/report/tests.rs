//! The table of a made-up run.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Parsed {
    #[command(flatten)]
    options: Options,
}

fn report() -> Report {
    let facts = Facts {
        processors: "2 x fast".into(),
        kernel: "Linux 1".into(),
        profile: "release build",
        haproxy: "HAProxy 9".into(),
        ztunnel: "ztunnel 1".into(),
        peer_ztunnel: None,
    };
    let options = Parsed::parse_from(["bench", "--rounds", "2"]).options;
    let mut report = Report::new(facts, &options, ["none", "haproxy", "fairway"].into_iter());
    for number in [1.0, 3.0] {
        let round = |value: Measured| Round {
            values: Metric::ALL.map(|metric| (metric, value.clone())).into(),
            failures: Vec::new(),
        };
        let missing = Measured::missing("there is no proxy");
        report.round(vec![round(missing), round(Measured::Value(number * 2.0)), round(Measured::Value(number))]);
    }
    let memory = |value: Measured| Memory {
        idle: value.clone(),
        per_connection: value.clone(),
        after: value.clone(),
        threads: value,
        held: 10,
    };
    report.memory(0, memory(Measured::missing("there is no proxy")));
    report.memory(1, memory(Measured::Value(4.0)));
    report.memory(2, memory(Measured::Value(3.0)));
    report
}

#[test]
fn the_table_has_medians_ratios_and_reasons() {
    let text = report().text();
    let line = |start: &str| {
        text.lines().find(|line| line.starts_with(start)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("measure"), "measure unit none /haproxy haproxy fairway /haproxy spread");
    assert_eq!(line("CPU per GB, 1"), "CPU per GB, 1 stream CPU-s n/a [1] - 4.00 2.00 0.50 ±50 %");
    assert_eq!(line("RSS idle"), "RSS idle, a proxy MB n/a [1] - 4.00 3.00 0.75");
    assert_eq!(line("n/a [1]"), "n/a [1]: there is no proxy");
    assert_eq!(text.matches("n/a [1]:").count(), 1);
    assert!(text.contains("  (requests)") && text.contains("2 that relay in every proxy"), "{text}");
}

#[test]
fn json_keeps_every_round() {
    let json = report().json();
    let first = &json["measures"][0]["paths"];
    assert_eq!(first["fairway"], json!({ "median": 2.0, "toHaproxy": 0.5, "rounds": [1.0, 3.0] }));
    assert_eq!(first["none"]["median"], "n/a: there is no proxy");
    assert_eq!(json["facts"]["kernel"], "Linux 1");
}
