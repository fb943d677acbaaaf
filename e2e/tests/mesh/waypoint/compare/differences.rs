//! Which differences between the answers of our waypoint and Envoy's are meant, and why; whatever is not listed is a problem,
//! and so is what is listed and no difference any more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

const LIST: &str = include_str!("differences.yaml");
/// In the place of requests' names: all of them, and those that the waypoints have answered themselves.
const EVERY: &str = "every answer";
const OWN: &str = "answers of their own";
/// In the place of values: none, and any that differ.
const NONE: &str = "none";
const SOME: &str = "some";
/// In the place of a field: who has answered, and with which status. If this differs, the rest need not be compared.
const ANSWER: &str = "answer";

/// What came of a request, field by field.
type Outcome = BTreeMap<String, String>;

/// What is to come of our waypoint's requests, by name.
pub(super) type Expected = BTreeMap<String, String>;

/// What came of a request at both waypoints.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Both {
    ours: Outcome,
    envoy: Outcome,
}

/// A difference that is meant.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Difference {
    /// What is different.
    fields: Vec<String>,
    /// For which requests: all, or those that are named.
    rows: Vec<String>,
    ours: String,
    envoy: String,
    why: String,
}

/// All that are meant.
pub(super) fn listed() -> Vec<Difference> {
    serde_saphyr::from_str(LIST).unwrap()
}

/// Status and server, or how the connection ended without an answer.
fn answer(outcome: &Outcome) -> String {
    let parts = ["status", "end"].iter().find_map(|name| outcome.get(*name)).into_iter().chain(server(outcome));
    parts.map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// The server that has answered, unless it was the waypoint itself.
fn server(outcome: &Outcome) -> Option<&String> {
    outcome.get("header x-by").or_else(|| outcome.get("trailer x-by"))
}

/// What differs: fields, with ours and Envoy's values.
fn differing(both: &Both) -> Vec<(&str, Option<&str>, Option<&str>)> {
    let names: BTreeSet<&String> = both.ours.keys().chain(both.envoy.keys()).collect();
    let values = names.iter().map(|name| (name.as_str(), both.ours.get(*name), both.envoy.get(*name)));
    let values = values.filter(|(_, ours, envoy)| ours != envoy);
    values.map(|(name, ours, envoy)| (name, ours.map(String::as_str), envoy.map(String::as_str))).collect()
}

impl Difference {
    fn is_about(&self, row: &str, both: &Both) -> bool {
        let is_own = || server(&both.ours).is_none() && server(&both.envoy).is_none();
        self.rows.iter().any(|name| name == row || name == EVERY || (name == OWN && is_own()))
    }

    fn allows(&self, field: &str, ours: Option<&str>, envoy: Option<&str>) -> bool {
        let is = |wanted: &str, found: Option<&str>| match wanted {
            NONE => found.is_none(),
            SOME => found.is_some(),
            wanted => found == Some(wanted),
        };
        self.fields.iter().any(|name| name == field) && is(&self.ours, ours) && is(&self.envoy, envoy)
    }
}

/// The requests to which ours does not answer as expected, or Envoy otherwise.
pub(super) fn answered_differently(found: &BTreeMap<String, Both>, expected: &Expected) -> Vec<String> {
    let wanted = |name: &str| expected.get(name).map_or("nothing", String::as_str);
    let different =
        found.iter().filter(|(name, both)| answer(&both.ours) != wanted(name) || answer(&both.envoy) != wanted(name));
    different
        .map(|(name, both)| format!("{name}: {} != {} != {}", wanted(name), answer(&both.ours), answer(&both.envoy)))
        .collect()
}

/// What is not as expected and listed.
pub(super) fn problems(found: &BTreeMap<String, Both>, expected: &Expected, listed: &[Difference]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut unused: BTreeSet<(usize, &str, &str)> = BTreeSet::new();
    for (index, difference) in listed.iter().enumerate() {
        let rows = difference.rows.iter().map(String::as_str);
        unused.extend(rows.flat_map(|row| difference.fields.iter().map(move |field| (index, row, field.as_str()))));
    }
    for (row, wanted) in expected {
        let Some(both) = found.get(row) else {
            problems.push(format!("{row}: was not asked"));
            continue;
        };
        let (ours, envoy) = (answer(&both.ours), answer(&both.envoy));
        if ours != *wanted {
            problems.push(format!("{row}: ours is to answer {wanted:?}, and answers {ours:?}: {:?}", both.ours));
        }
        let different =
            if ours == envoy { differing(both) } else { vec![(ANSWER, Some(ours.as_str()), Some(envoy.as_str()))] };
        for (field, ours, envoy) in different {
            let is_meant =
                |difference: &&Difference| difference.is_about(row, both) && difference.allows(field, ours, envoy);
            let mut is_listed = false;
            for (index, _) in listed.iter().enumerate().filter(|(_, difference)| is_meant(difference)) {
                is_listed = true;
                for name in [row.as_str(), EVERY, OWN] {
                    unused.remove(&(index, name, field));
                }
            }
            if !is_listed {
                problems.push(format!("{row}: {field}: {ours:?}, and Envoy's {envoy:?}"));
            }
        }
    }
    let unused = unused.into_iter().map(|(_, row, field)| format!("{row}: {field} does not differ any more as listed"));
    problems.extend(unused);
    problems
}

/// The list as people read it.
fn page(listed: &[Difference]) -> String {
    let cell = |text: &str| text.trim().replace('\n', " ").replace('|', "\\|");
    let code = |text: &str| if matches!(text, NONE | SOME) { text.to_owned() } else { format!("`{}`", cell(text)) };
    let line = |difference: &Difference| {
        let fields: Vec<String> = difference.fields.iter().map(|field| format!("`{}`", cell(field))).collect();
        format!(
            "| {} | {} | {} | {} | {} |\n",
            cell(&difference.rows.join(", ")),
            fields.join(", "),
            code(&difference.ours),
            code(&difference.envoy),
            cell(&difference.why)
        )
    };
    let head = "| Requests | Field | Fairway | Envoy | Why |\n|---|---|---|---|---|\n";
    format!("{}{head}{}", include_str!("page.md"), listed.iter().map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(fields: &[(&str, &str)]) -> Outcome {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn found(ours: &[(&str, &str)], envoy: &[(&str, &str)]) -> BTreeMap<String, Both> {
        [("row".to_owned(), Both { ours: outcome(ours), envoy: outcome(envoy) })].into()
    }

    fn difference(field: &str, row: &str, ours: &str, envoy: &str) -> Difference {
        let [field, row, ours, envoy] = [field, row, ours, envoy].map(str::to_owned);
        Difference { fields: vec![field], rows: vec![row], ours, envoy, why: "so".to_owned() }
    }

    #[test]
    fn what_is_not_listed_is_a_problem_and_so_is_what_is_listed_and_the_same() {
        type Fields<'a> = &'a [(&'a str, &'a str)];
        let good = ("status", "200");
        let served = [good, ("header x-by", "one"), ("body", "a")];
        let rows: [(&str, Fields<'_>, Fields<'_>, Vec<Difference>, usize); 10] = [
            ("the same", &[good], &[good], vec![], 0),
            ("not listed", &[good], &[good, ("body", "a")], vec![], 1),
            ("listed", &[good], &[good, ("body", "a")], vec![difference("body", "row", NONE, SOME)], 0),
            ("everywhere", &[good], &[good, ("body", "a")], vec![difference("body", EVERY, NONE, "a")], 0),
            ("another value", &[good], &[good, ("body", "b")], vec![difference("body", "row", NONE, "a")], 2),
            ("no longer", &[good], &[good], vec![difference("body", "row", NONE, SOME)], 1),
            ("nobody's", &[good], &[good, ("body", "a")], vec![difference("body", OWN, NONE, SOME)], 0),
            ("a server's", &served[..2], &served, vec![difference("body", OWN, NONE, SOME)], 2),
            ("answers", &[good], &[("status", "404"), ("body", "a")], vec![difference(ANSWER, "row", "200", "404")], 0),
            ("not as expected", &[("end", "closed")], &[("end", "closed")], vec![], 1),
        ];
        for (name, ours, envoy, listed, count) in rows {
            let wanted = if server(&outcome(ours)).is_some() { "200 one" } else { "200" };
            let expected = [("row".to_owned(), wanted.to_owned())].into();
            let problems = problems(&found(ours, envoy), &expected, &listed);
            assert_eq!(problems.len(), count, "{name}: {problems:?}");
        }
        assert_eq!(problems(&BTreeMap::new(), &[("row".to_owned(), "200".to_owned())].into(), &[]).len(), 1);
    }

    /// `UPDATE_GOLDEN=1` writes it.
    #[test]
    fn the_page_is_the_list() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/envoy-differences.md");
        let page = page(&listed());
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), page, "run with UPDATE_GOLDEN=1");
    }
}
