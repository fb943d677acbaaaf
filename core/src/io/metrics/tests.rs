//! Tests of `metrics`.

use super::*;

fn value(text: &str, series: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix(series)).map(|rest| rest.trim().to_owned())
}

#[test]
fn counters_gauges_and_histograms_are_rendered_with_help() {
    let metrics = Metrics::new(&[("wait_seconds", &[0.1, 1.0])]);
    metrics.describe("messages_total", "Messages received.");
    let counter = metrics.counter("messages_total", &[("url", "a\"b")]);
    counter.increment(2);
    metrics.counter("messages_total", &[("url", "a\"b")]).increment(1);
    metrics.gauge("open", &[]).set(4.0);
    metrics.histogram("wait_seconds", &[]).record(0.5);

    let text = metrics.render();
    assert!(text.contains("# HELP messages_total Messages received."), "{text}");
    assert_eq!(value(&text, r#"messages_total{url="a\"b"}"#).as_deref(), Some("3"));
    assert_eq!(value(&text, "open ").as_deref(), Some("4"));
    assert_eq!(value(&text, r#"wait_seconds_bucket{le="1"}"#).as_deref(), Some("1"));
}

#[test]
fn two_registries_do_not_share_anything() {
    let first = Metrics::default();
    first.counter("only_here_total", &[]).increment(1);
    assert!(!Metrics::default().render().contains("only_here_total"));
}

#[test]
fn series_above_the_cap_share_one_and_are_counted() {
    let metrics = Metrics::within(&Limits::default().and(&limits::METRIC_SERIES, 2), &[]);
    for pod in ["a", "b", "c", "d", "a"] {
        metrics.counter("permanent_total", &[("pod", pod)]).increment(1);
    }
    let held: Vec<_> = ["a", "b", "c", "d", "a"]
        .map(|pod| {
            let counter = metrics.held_counter("held_total", &[("pod", pod)]);
            counter.increment(1);
            counter
        })
        .into();
    let text = metrics.render();
    for name in ["permanent_total", "held_total"] {
        assert_eq!(value(&text, &format!(r#"{name}{{pod="a"}}"#)).as_deref(), Some("2"), "{text}");
        assert_eq!(value(&text, &format!(r#"{name}{{pod="overflow"}}"#)).as_deref(), Some("2"), "{text}");
        assert_eq!(value(&text, &format!(r#"{name}{{pod="c"}}"#)), None);
        assert_eq!(value(&text, &format!(r#"{DROPPED}{{metric="{name}"}}"#)).as_deref(), Some("2"), "{text}");
    }
    drop(held);
}

#[test]
fn a_series_expires_after_its_last_holder_and_makes_room() {
    let metrics =
        Metrics::within(&Limits::default().and(&limits::METRIC_SERIES, 1).and(&limits::METRIC_SERIES_IDLE, 0), &[]);
    let first = metrics.held_counter("held_total", &[("pod", "a")]);
    first.increment(5);
    for _ in 0..3 {
        let text = metrics.render();
        assert_eq!(value(&text, r#"held_total{pod="a"}"#).as_deref(), Some("5"), "held, so kept");
    }
    drop(first);
    // The recorder compares with what the previous rendering saw, so the series may survive one more.
    let gone = (0..3).any(|_| value(&metrics.render(), r#"held_total{pod="a"}"#).is_none());
    assert!(gone, "{}", metrics.render());

    let second = metrics.held_counter("held_total", &[("pod", "b")]);
    second.increment(1);
    assert_eq!(value(&metrics.render(), r#"held_total{pod="b"}"#).as_deref(), Some("1"));
}
