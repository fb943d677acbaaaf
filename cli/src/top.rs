//! `fairway top`: live traffic between workloads, from the proxies' own metrics.

mod rates;

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use fairway_lab::render::{Cell, MAX_COLUMNS, Tone, wide_table as table};
use fairway_lab::{Error, Result};

use crate::mesh::{Mesh, Part, Where};
use crate::metrics::{self, Sample};
use crate::output::Format;
use crate::proxy_status;
use rates::{ByPart, Flow, Rates, between, counted};

/// Time between two looks.
const BETWEEN: Duration = Duration::from_secs(2);
/// Looks that a sparkline shows.
const HISTORY: usize = 12;
/// Width of a column of numbers, and of what is between two columns.
const COLUMN: usize = 8;
const GAP: usize = 2;
/// Heights of a sparkline.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Arguments of `top`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only traffic from or to workloads of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// What comes first
    #[arg(long, value_enum, default_value_t = Sort::Bytes)]
    sort: Sort,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// Bytes both ways
    Bytes,
    /// Connections opened
    Connections,
    /// Requests
    Requests,
    /// What was refused or failed
    Failures,
}

/// What one look has found.
#[derive(Debug, Default)]
struct Look {
    /// What each part that answered has counted.
    parts: ByPart,
    /// Parts that did not answer, with the reason.
    silent: BTreeMap<String, String>,
}

/// Looks twice and prints the difference; with `--watch`, again and again.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut mesh = arguments.place.mesh()?;
    let mut before = look(&mesh)?;
    let mut began = Instant::now();
    let mut history: BTreeMap<Flow, VecDeque<f64>> = BTreeMap::new();
    loop {
        sleep(BETWEEN.saturating_sub(began.elapsed()));
        if !before.silent.is_empty() {
            // Whoever does not answer may have been replaced, or be gone for good.
            mesh = arguments.place.mesh().unwrap_or(mesh);
        }
        let now = look(&mesh)?;
        let took = began.elapsed();
        began = Instant::now();
        let mut rates = between(&before.parts, &now.parts, took);
        rates.retain(|it| arguments.namespace.as_deref().is_none_or(|name| it.flow.is_of(name)));
        rates.sort_by(|left, right| sort_key(arguments.sort, right).total_cmp(&sort_key(arguments.sort, left)));
        remember(&mut history, &rates);
        arguments.format.print(&rates, |colour| shown(&rates, &history, colour))?;
        // It takes two answers to say anything of a part.
        let once = before.silent.iter().filter(|(part, _)| !now.silent.contains_key(*part));
        for (part, why) in now.silent.iter().chain(once) {
            fairway_lab::complain!("not asked: {part}: {why}");
        }
        before = now;
        if !arguments.format.is_watched() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn sort_key(sort: Sort, rates: &Rates) -> f64 {
    match sort {
        Sort::Bytes => rates.sent_bytes + rates.received_bytes,
        Sort::Connections => rates.opened,
        Sort::Requests => rates.requests,
        Sort::Failures => rates.failed + rates.requests * (1.0 - rates.success.unwrap_or(1.0)),
    }
}

/// What all proxies have counted. One that cannot be asked is named: what the others see is worth showing.
fn look(mesh: &Mesh) -> Result<Look> {
    let mut look = Look::default();
    let proxies = match proxy_status::proxies(mesh) {
        Ok(proxies) => proxies,
        Err(error) => {
            look.silent.insert("waypoints".to_owned(), first_line(&error));
            Vec::new()
        }
    };
    let nodes = mesh.status.nodes.iter().map(|node| Part::Proxy(&node.name));
    let waypoints = proxies.iter().filter(|proxy| proxy.kind == "waypoint").map(|proxy| {
        let (pod, namespace) = proxy.name.rsplit_once('.').unwrap_or((&proxy.name, ""));
        Part::Waypoint(namespace, pod)
    });
    let mut last = None;
    for part in nodes.chain(waypoints) {
        match mesh.metrics(part) {
            Ok(page) => {
                let samples = metrics::read(&page).filter(|sample| sample.name.starts_with("istio_"));
                look.parts.insert(part.name(), counted(&samples.collect::<Vec<Sample>>()));
            }
            Err(error) => {
                look.silent.insert(part.name(), first_line(&error));
                last = Some(error);
            }
        }
    }
    match last {
        Some(error) if look.parts.is_empty() => Err(error),
        _ => Ok(look),
    }
}

fn first_line(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn remember(history: &mut BTreeMap<Flow, VecDeque<f64>>, rates: &[Rates]) {
    for it in rates {
        let past = history.entry(it.flow.clone()).or_default();
        past.push_back(it.sent_bytes + it.received_bytes);
        while past.len() > HISTORY {
            past.pop_front();
        }
    }
    history.retain(|flow, _| rates.iter().any(|it| it.flow == *flow));
}

/// The past of one row, in bars as high as its highest.
fn sparkline(past: &VecDeque<f64>) -> String {
    let highest = past.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| {
        let top = BARS.len() - 1;
        // A share of the highest, so it lies within the bars.
        let place =
            (0..=top).rev().find(|place| *value >= highest * f64::from(u8::try_from(*place).unwrap_or(0)) / 8.0);
        if highest > 0.0 { BARS[place.unwrap_or(0)] } else { BARS[0] }
    };
    past.iter().map(bar).collect()
}

fn shown(rates: &[Rates], history: &BTreeMap<Flow, VecDeque<f64>>, colour: bool) -> String {
    if rates.is_empty() {
        return "no traffic in the mesh\n".to_owned();
    }
    // What nobody has takes no place.
    let has_failures = rates.iter().any(|it| it.failed > 0.0);
    let has_requests = rates.iter().any(|it| it.requests > 0.0);
    let has_past = history.values().any(|past| past.len() > 1);
    let mut header = vec!["FROM", "TO", "CONN/S", "SENT/S", "RECV/S"];
    header.extend(has_failures.then_some("FAIL/S"));
    header.extend(has_requests.then_some(["REQ/S", "OK", "P99"]).into_iter().flatten());
    let taken = COLUMN * header.len().saturating_sub(2) + if has_past { HISTORY } else { 0 };
    let room = MAX_COLUMNS.saturating_sub(taken) / 2;
    header.extend(has_past.then_some("TREND"));
    let row = |it: &Rates| -> Vec<Cell> {
        let end = |name: &str| Cell::from(shortened(name, room.saturating_sub(GAP)));
        let mut row = vec![
            end(&it.flow.source),
            end(&it.flow.destination),
            number(it.opened).into(),
            bytes(it.sent_bytes).into(),
            bytes(it.received_bytes).into(),
        ];
        if has_failures {
            row.push(if it.failed > 0.0 { Cell::toned(number(it.failed), Tone::Bad) } else { "-".into() });
        }
        if has_requests {
            row.push(number(it.requests).into());
            row.push(match it.success {
                Some(share) if share < 1.0 => Cell::toned(format!("{:.1}%", share * 100.0), Tone::Bad),
                Some(_) => Cell::toned("100%", Tone::Good),
                None => "-".into(),
            });
            row.push(it.p99.map_or_else(|| "-".to_owned(), duration).into());
        }
        if has_past {
            row.push(history.get(&it.flow).map(sparkline).unwrap_or_default().into());
        }
        row
    };
    table(&header, &rates.iter().map(row).collect::<Vec<_>>(), colour)
}

/// The name of an end in so many characters: of a service without the cluster's own part, and the end of what is too long.
fn shortened(name: &str, room: usize) -> String {
    let name = name.split_once(".svc.").map_or(name, |(name, _)| name);
    let length = name.chars().count();
    if length <= room {
        return name.to_owned();
    }
    let end: String = name.chars().skip((length + 1).saturating_sub(room)).collect();
    format!("…{end}")
}

fn number(value: f64) -> String {
    match value {
        0.0 => "-".to_owned(),
        value if value < 10.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn duration(millis: f64) -> String {
    if millis < 10_000.0 { format!("{millis:.0}ms") } else { format!("{:.0}s", millis / 1000.0) }
}

fn bytes(value: f64) -> String {
    const UNITS: [(&str, f64); 3] = [("G", 1e9), ("M", 1e6), ("k", 1e3)];
    match UNITS.into_iter().find(|(_, size)| value >= *size) {
        Some((unit, size)) => format!("{:.1}{unit}", value / size),
        None if value < 0.5 => "-".to_owned(),
        None => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_shown_in_words_that_fit() {
        for (value, expected) in [(0.0, "-"), (0.51, "0.5"), (12.4, "12")] {
            assert_eq!(number(value), expected);
        }
        for (value, expected) in [(0.0, "-"), (12.0, "12"), (1500.0, "1.5k"), (2.5e6, "2.5M"), (3e9, "3.0G")] {
            assert_eq!(bytes(value), expected);
        }
        assert_eq!(sparkline(&[0.0, 1.0, 4.0, 8.0].into()), "▁▂▅█");
        assert_eq!(sparkline(&[0.0, 0.0].into()), "▁▁");
    }

    #[test]
    fn what_was_is_forgotten_in_time() {
        let flow = |name: &str| Flow { source: name.to_owned(), destination: "to".to_owned() };
        let rates = |name: &str| Rates { sent_bytes: 1.0, ..Rates::none(flow(name)) };
        let mut history = BTreeMap::new();
        for _ in 0..HISTORY + 3 {
            remember(&mut history, &[rates("a")]);
        }
        assert_eq!(history[&flow("a")].len(), HISTORY);
        remember(&mut history, &[rates("b")]);
        assert!(!history.contains_key(&flow("a")));
    }

    #[test]
    fn all_there_is_to_show_fits() {
        let flow = Flow {
            source: "a-namespace-with-a-name/a-workload-with-a-long-name".to_owned(),
            destination: "service-with-a-long-name.a-namespace.svc.cluster.local".to_owned(),
        };
        let rates = Rates {
            opened: 12345.0,
            failed: 1.0,
            sent_bytes: 999e6,
            received_bytes: 999e3,
            requests: 12345.0,
            success: Some(0.999),
            p99: Some(3_600_000.0),
            ..Rates::none(flow.clone())
        };
        let history = BTreeMap::from([(flow, VecDeque::from(vec![1.0; HISTORY]))]);
        let text = shown(std::slice::from_ref(&rates), &history, false);
        assert!(text.lines().all(|line| line.chars().count() <= MAX_COLUMNS), "{text}");
        assert!(text.contains("99.9%") && text.trim_end().ends_with('█'), "{text}");
        let text = shown(&[Rates { failed: 0.0, requests: 0.0, ..rates }], &BTreeMap::new(), false);
        assert!(!text.contains("REQ/S") && text.contains("service-with-a-long-name.a-namespace"), "{text}");
        assert_eq!((shortened("shop/web", 8), shortened("shop/web", 5)), ("shop/web".to_owned(), "…/web".to_owned()));
    }
}
