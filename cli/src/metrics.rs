//! Reads metrics as Prometheus' text format has them (version 0.0.4): one sample a line.

use std::collections::BTreeMap;

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Sample {
    /// Value of a label; empty when it has none.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// Samples of a page. Lines that are none are left out.
pub(crate) fn read(page: &str) -> impl Iterator<Item = Sample> {
    page.lines().filter(|line| !line.starts_with('#')).filter_map(sample)
}

/// The value of the only series of this name, or the first.
pub(crate) fn value(page: &str, name: &str) -> Option<f64> {
    read(page).find(|sample| sample.name == name).map(|sample| sample.value)
}

fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    let mut rest = rest.trim_start();
    if let Some(inside) = rest.strip_prefix('{') {
        let mut inside = inside.trim_start_matches([',', ' ']);
        while !inside.starts_with('}') {
            let (label, after) = inside.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.trim().to_owned(), value);
            inside = after.trim_start_matches([',', ' ']);
        }
        rest = inside.get(1..)?;
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(index + 1..)?)),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let page = "# HELP up is it\n# TYPE up gauge\nup 1\nrequests_total{code=\"200\",path=\"a\\\"b,}\\\\\"} 3.5e2 1700000000\n\
                    odd{\nno_value{a=\"b\"}\nends NaN\n";
        let samples: Vec<Sample> = read(page).collect();
        assert_eq!(samples.len(), 3, "{samples:?}");
        assert_eq!((samples[0].name.as_str(), samples[0].value), ("up", 1.0));
        assert_eq!((samples[1].label("code"), samples[1].label("path")), ("200", "a\"b,}\\"));
        assert_eq!((samples[1].value, samples[1].label("none")), (350.0, ""));
        assert!(samples[2].value.is_nan());
        assert_eq!((value(page, "up"), value(page, "down")), (Some(1.0), None));
    }

    proptest! {
        #[test]
        fn whatever_is_in_a_label_is_read_back(value in ".{0,40}", number in 0_u32..1_000_000) {
            let written = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            // Lines end with a line feed alone; a carriage return is a character like any other, but not to `str::lines`.
            prop_assume!(!value.contains('\r'));
            let page = format!("some_total{{first=\"{written}\",second=\"x\"}} {number}\n");
            let samples: Vec<Sample> = read(&page).collect();
            prop_assert_eq!(samples.len(), 1, "{}", page);
            prop_assert_eq!((samples[0].label("first"), samples[0].label("second")), (value.as_str(), "x"));
            prop_assert_eq!(samples[0].value, f64::from(number));
        }

        #[test]
        fn what_is_no_page_does_no_harm(page in any::<String>()) {
            prop_assert!(read(&page).count() <= page.lines().count());
        }
    }
}
