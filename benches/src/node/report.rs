//! The table and the JSON of a run.

use serde_json::{Value, json};

use super::Options;
use super::measure::{Metric, Round};
use super::memory::Memory;
use crate::facts::Facts;
use crate::measured::Measured;
use crate::table::{Table, significant};

/// What numbers are compared to.
const REFERENCE: &str = "haproxy";

/// Everything that was measured.
pub(super) struct Report {
    facts: Facts,
    options: Options,
    paths: Vec<Column>,
}

struct Column {
    name: &'static str,
    rounds: Vec<Round>,
    memory: Option<Memory>,
}

/// One line of the table: each path's rounds.
struct Row {
    name: String,
    unit: &'static str,
    information: bool,
    /// Whether it makes sense to set it in relation to the reference: a percentage already is a relation.
    comparable: bool,
    rounds: Vec<Vec<Measured>>,
}

impl Row {
    fn medians(&self) -> Vec<Measured> {
        self.rounds.iter().map(|rounds| Measured::median(rounds)).collect()
    }
}

impl Report {
    pub(super) fn new(facts: Facts, options: &Options, paths: impl Iterator<Item = &'static str>) -> Self {
        let paths = paths.map(|name| Column { name, rounds: Vec::new(), memory: None }).collect();
        Self { facts, options: options.clone(), paths }
    }

    pub(super) fn memory(&mut self, path: usize, memory: Memory) {
        if let Some(column) = self.paths.get_mut(path) {
            column.memory = Some(memory);
        }
    }

    pub(super) fn round(&mut self, results: Vec<Round>) {
        self.paths.iter_mut().zip(results).for_each(|(column, result)| column.rounds.push(result));
    }

    fn rows(&self) -> Vec<Row> {
        let metric = |metric: Metric| Row {
            name: metric.name().to_owned(),
            unit: metric.unit(),
            information: metric.is_information(),
            comparable: true,
            rounds: self.paths.iter().map(|column| column.values(metric)).collect(),
        };
        let (costs, information): (Vec<Row>, Vec<Row>) =
            Metric::ALL.map(metric).into_iter().partition(|row| !row.information);
        let memory: Vec<_> =
            self.paths.iter().filter_map(|column| Some(column.memory.as_ref()?.rows(&self.options))).collect();
        let memory = memory.first().into_iter().flatten().enumerate().map(|(line, (name, unit, _))| Row {
            name: name.clone(),
            unit,
            information: false,
            comparable: !unit.starts_with('%'),
            rounds: memory.iter().filter_map(|rows| Some(vec![rows.get(line)?.2.clone()])).collect(),
        });
        costs.into_iter().chain(memory).chain(information).collect()
    }

    /// Whether anything was measured at all.
    pub(super) fn has_values(&self) -> bool {
        self.rows().iter().flat_map(|row| &row.rounds).flatten().any(|measured| measured.value().is_some())
    }

    fn reference(&self) -> Option<usize> {
        self.paths.iter().position(|column| column.name == REFERENCE)
    }

    /// Paths that are set in relation to the reference.
    fn is_compared(&self, path: usize) -> bool {
        Some(path) != self.reference()
    }

    pub(super) fn text(&self) -> String {
        let mut footnotes = Vec::new();
        let mut table = Table::default();
        let mut header = vec!["measure".to_owned(), "unit".to_owned()];
        for (number, column) in self.paths.iter().enumerate() {
            header.push(column.name.to_owned());
            header.extend(self.is_compared(number).then(|| format!("/{REFERENCE}")));
        }
        header.push("spread".to_owned());
        table.row(header);
        for row in self.rows() {
            let medians = row.medians();
            let reference = self.reference().filter(|_| row.comparable).and_then(|number| medians.get(number));
            let mut cells =
                vec![if row.information { format!("  ({})", row.name) } else { row.name.clone() }, row.unit.to_owned()];
            for (number, median) in medians.iter().enumerate() {
                cells.push(cell(median, &mut footnotes));
                if self.is_compared(number) {
                    let ratio = reference.and_then(|reference| median.ratio(reference));
                    cells.push(ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
                }
            }
            let spread = row.rounds.iter().filter_map(|rounds| Measured::spread(rounds)).reduce(f64::max);
            cells.push(spread.map_or_else(String::new, |spread| format!("±{:.0} %", spread * 100.0)));
            table.row(cells);
        }
        let notes = footnotes.iter().enumerate().map(|(number, why)| format!("n/a [{}]: {why}\n", number + 1));
        format!("{}\n{}\n{}{}", self.origin(), table.render(), notes.collect::<String>(), self.failures())
    }

    /// Where the numbers come from, and how they were taken.
    fn origin(&self) -> String {
        let Facts { processors, kernel, profile, haproxy, ztunnel, peer_ztunnel } = &self.facts;
        let peer = peer_ztunnel.as_ref().map(|peer| format!("\npeer:    {peer}")).unwrap_or_default();
        let threads: Vec<String> = self
            .paths
            .iter()
            .filter_map(|column| Some(format!("{} {}", column.name, column.memory.as_ref()?.threads.value()?)))
            .collect();
        let held: Vec<String> = self
            .paths
            .iter()
            .filter_map(|column| Some((column.name, column.memory.as_ref()?.held)))
            .filter(|(_, held)| *held > 0)
            .map(|(name, held)| format!("{name} {held}"))
            .collect();
        let pinned =
            if self.options.pin { "; proxies pinned to the first processor, the rest to the last" } else { "" };
        format!(
            "machine: {processors}, {kernel}\nbuild:   {profile}\nhaproxy: {haproxy}\nztunnel: {ztunnel}{peer}\n\
             threads: {} that relay in every proxy (haproxy nbthread, ZTUNNEL_WORKER_THREADS); threads in all: {}{pinned}\n\
             method:  client pod on node-1 -> [proxy on node-1 -> proxy on node-2] -> server pod on node-2; medians of {} interleaved \
             round(s) of {} s a load, spread = largest half range of any path's rounds.\n\
             \x20        CPU = utime + stime of both proxies during the load (kernel work done on their behalf included); memory: once, before \
             any load, the larger of the two proxies; idle connections held: {}; haproxy relays plain TCP, the mesh mutual TLS.\n",
            self.options.threads,
            threads.join(", "),
            self.options.rounds(),
            self.options.seconds(),
            held.join(", "),
        )
    }

    fn failures(&self) -> String {
        let of = |column: &Column| {
            let name = column.name;
            column
                .rounds
                .iter()
                .flat_map(|round| &round.failures)
                .map(|text| format!("{name}: {text}\n"))
                .collect::<String>()
        };
        self.paths.iter().map(of).collect()
    }

    pub(super) fn json(&self) -> Value {
        let rows = self.rows().into_iter().map(|row| {
            let medians = row.medians();
            let reference = self.reference().filter(|_| row.comparable).and_then(|number| medians.get(number));
            let paths = self.paths.iter().zip(medians.iter().zip(&row.rounds)).map(|(column, (median, rounds))| {
                let ratio = reference.and_then(|reference| median.ratio(reference));
                (column.name.to_owned(), json!({ "median": median, "toHaproxy": ratio, "rounds": rounds }))
            });
            let paths: serde_json::Map<String, Value> = paths.collect();
            json!({ "measure": row.name, "unit": row.unit, "information": row.information, "paths": paths })
        });
        let held: serde_json::Map<String, Value> = self
            .paths
            .iter()
            .filter_map(|column| Some((column.name.to_owned(), json!(column.memory.as_ref()?.held))))
            .collect();
        json!({
            "facts": self.facts,
            "options": {
                "rounds": self.options.rounds(),
                "seconds": self.options.seconds(),
                "threads": self.options.threads,
                "idleConnections": self.options.idle_connections,
                "settleSeconds": self.options.settle_seconds(),
                "pinned": self.options.pin,
            },
            "idleConnectionsHeld": held,
            "measures": rows.collect::<Vec<Value>>(),
        })
    }
}

impl Column {
    fn values(&self, metric: Metric) -> Vec<Measured> {
        let missing = || Measured::missing("not measured");
        self.rounds.iter().map(|round| round.values.get(&metric).cloned().unwrap_or_else(missing)).collect()
    }
}

/// The number, or a reference to the note that says why there is none.
fn cell(measured: &Measured, footnotes: &mut Vec<String>) -> String {
    match measured {
        Measured::Value(value) => significant(*value),
        Measured::Missing(why) => {
            let known = footnotes.iter().position(|note| note == why);
            let number = known.unwrap_or_else(|| {
                footnotes.push(why.clone());
                footnotes.len() - 1
            });
            format!("n/a [{}]", number + 1)
        }
    }
}

#[cfg(test)]
mod tests;
