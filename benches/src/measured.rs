//! A number that was measured, or the reason why there is none.

use serde::{Serialize, Serializer};

/// A measured number, or why it was not measured. Nothing is ever filled in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Measured {
    /// What was measured.
    Value(f64),
    /// Why it was not.
    Missing(String),
}

impl Measured {
    /// A number that is missing for a reason, which is put on one line.
    pub(crate) fn missing(why: impl AsRef<str>) -> Self {
        Self::Missing(why.as_ref().lines().map(str::trim).collect::<Vec<_>>().join("; "))
    }

    /// The quotient; missing when nothing was counted, as the quotient would then be noise.
    pub(crate) fn per(total: f64, count: f64, counted: &str) -> Self {
        if count > 0.0 && total.is_finite() {
            Self::Value(total / count)
        } else {
            Self::Missing(format!("no {counted} in the measured time"))
        }
    }

    pub(crate) fn value(&self) -> Option<f64> {
        match self {
            Self::Value(value) => Some(*value),
            Self::Missing(_) => None,
        }
    }

    /// The same number in another unit.
    pub(crate) fn times(self, factor: f64) -> Self {
        match self {
            Self::Value(value) => Self::Value(value * factor),
            missing @ Self::Missing(_) => missing,
        }
    }

    /// The median of several rounds. One missing round does not void the others, but no round at all is missing.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let mut values: Vec<f64> = rounds.iter().filter_map(Self::value).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match (values.get(middle), values.get(middle.wrapping_sub(1))) {
            (Some(upper), Some(lower)) if values.len().is_multiple_of(2) => Self::Value(f64::midpoint(*lower, *upper)),
            (Some(only), _) => Self::Value(*only),
            (None, _) => rounds.first().cloned().unwrap_or_else(|| Self::missing("no round was run")),
        }
    }

    /// Half the distance between the smallest and the largest round, relative to the median.
    pub(crate) fn spread(rounds: &[Self]) -> Option<f64> {
        let values: Vec<f64> = rounds.iter().filter_map(Self::value).collect();
        let median = Self::median(rounds).value().filter(|median| *median > 0.0 && values.len() > 1)?;
        let largest = values.iter().copied().fold(f64::MIN, f64::max);
        let smallest = values.iter().copied().fold(f64::MAX, f64::min);
        Some((largest - smallest) / 2.0 / median)
    }

    /// This number in relation to a reference.
    pub(crate) fn ratio(&self, reference: &Self) -> Option<f64> {
        Some(self.value()? / reference.value().filter(|reference| *reference > 0.0)?)
    }
}

impl Serialize for Measured {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => serializer.serialize_f64(*value),
            Self::Missing(why) => serializer.serialize_str(&format!("n/a: {why}")),
        }
    }
}

/// A count as a number to calculate with; exact up to 2^53, which no count here comes near.
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(values: &[f64]) -> Vec<Measured> {
        values.iter().copied().map(Measured::Value).collect()
    }

    #[test]
    fn medians_of_odd_and_even_rounds() {
        assert_eq!(Measured::median(&values(&[9.0, 1.0, 2.0])), Measured::Value(2.0));
        assert_eq!(Measured::median(&values(&[4.0, 1.0, 2.0, 100.0])), Measured::Value(3.0));
        assert_eq!(Measured::median(&values(&[4.0])), Measured::Value(4.0));
    }

    #[test]
    fn what_was_not_measured_keeps_its_reason() {
        let missing = Measured::missing("no mesh");
        assert_eq!(Measured::median(&[missing.clone(), missing.clone()]), missing);
        assert_eq!(missing.clone().times(2.0), missing);
        assert_eq!(missing.ratio(&Measured::Value(1.0)), None);
        assert_eq!(serde_json::to_string(&missing).unwrap(), "\"n/a: no mesh\"");
        assert!(matches!(Measured::median(&[]), Measured::Missing(_)));
        assert!(matches!(Measured::per(1.0, 0.0, "requests"), Measured::Missing(_)));
    }

    #[test]
    fn a_missing_round_does_not_count_as_zero() {
        let rounds = [Measured::Value(2.0), Measured::missing("cut"), Measured::Value(4.0)];
        assert_eq!(Measured::median(&rounds), Measured::Value(3.0));
    }

    #[test]
    fn spread_and_ratio() {
        assert_eq!(Measured::spread(&values(&[9.0, 10.0, 11.0])), Some(0.1));
        assert_eq!(Measured::spread(&values(&[9.0])), None);
        assert_eq!(Measured::Value(1.0).ratio(&Measured::Value(4.0)), Some(0.25));
        assert_eq!(Measured::Value(1.0).ratio(&Measured::Value(0.0)), None);
    }
}
