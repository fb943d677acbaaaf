//! The metrics page: text in the format a scraper asks for, compressed if it takes that.
//!
//! Prometheus asks for OpenMetrics first and takes gzip; a person with curl gets the plain text format.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, header};

use super::Metrics;
use crate::io::admin::{Reply, Request, StatusCode, text};

/// Texts shorter than this are not worth compressing: they fit a packet or two.
const MIN_COMPRESSED: usize = 1_400;
/// Room made at once for the compressed page, as a part of its length; more is made when it turns out too small.
const COMPRESSED_SHARE: usize = 8;

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What the `Accept` header asks for: the one with the higher quality, the first of equals, plain text if neither is named
    /// (RFC 9110 §12.5.1).
    #[must_use]
    pub fn asked_for(headers: &HeaderMap) -> Self {
        let mut best = (Self::Text, 0);
        for (name, quality) in items(headers, &header::ACCEPT) {
            let format = match name.as_str() {
                "application/openmetrics-text" => Self::OpenMetrics,
                "text/plain" | "text/*" => Self::Text,
                _ => continue,
            };
            if quality > best.1 {
                best = (format, quality);
            }
        }
        best.0
    }

    /// Value of `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// `text`, which is in Prometheus text format, in this format.
    #[must_use]
    pub fn write(self, text: String) -> String {
        match self {
            Self::Text => text,
            Self::OpenMetrics => open_metrics(&text),
        }
    }
}

/// The page of `metrics` that `request` asks for. Written where it may take long: ten thousand series do.
pub async fn page(metrics: Metrics, request: Request) -> Reply {
    let written = tokio::task::spawn_blocking(move || {
        let format = Format::asked_for(&request.headers);
        let text_of_metrics = format.write(metrics.render());
        reply(format, text_of_metrics, takes_gzip(&request.headers))
    });
    written.await.unwrap_or_else(|error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
}

fn reply(format: Format, page: String, compress: bool) -> Reply {
    let compressed = (compress && page.len() >= MIN_COMPRESSED).then(|| gzip(page.as_bytes())).and_then(Result::ok);
    let is_compressed = compressed.is_some();
    let mut reply = text(StatusCode::OK, compressed.unwrap_or_else(|| page.into_bytes()));
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    if is_compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    reply
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let room = Vec::with_capacity(bytes.len() / COMPRESSED_SHARE);
    let mut encoder = GzEncoder::new(room, Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut named = items(headers, &header::ACCEPT_ENCODING);
    named.any(|(name, quality)| matches!(name.as_str(), "gzip" | "x-gzip") && quality > 0)
}

/// The items of a list header with their qualities in thousandths, 1000 where none is given.
fn items(headers: &HeaderMap, name: &http::HeaderName) -> impl Iterator<Item = (String, u32)> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        (name, quality.map_or(1_000, thousandths))
    })
}

/// A quality such as `0.5` as 500 (RFC 9110 §12.4.2); 0 for what is none.
fn thousandths(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.chars().all(|digit| digit.is_ascii_digit());
    if !matches!(whole, "0" | "1") || fraction.len() > 3 || !is_number(fraction) {
        return 0;
    }
    let padded = format!("{fraction:0<3}");
    let fraction: u32 = padded.parse().unwrap_or(0);
    if whole == "1" { 1_000 } else { fraction }
}

/// OpenMetrics 1.0: a counter's family has no `_total`, empty lines do not exist, and an end mark shows that nothing is missing.
fn open_metrics(text: &str) -> String {
    let mut page = String::with_capacity(text.len() + 16);
    // The recorder writes HELP before TYPE, and only TYPE says whether the name is a counter's.
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) {
            let (family, kind) = match (name.strip_suffix("_total"), kind) {
                // Also one that is kept as a gauge, because it counts fractions.
                (Some(family), _) => (family, "counter"),
                // A counter whose samples do not end in _total is none to OpenMetrics.
                (None, "counter") => (name, "unknown"),
                (None, kind) => (name, kind),
            };
            if let Some((_, words)) = help.take().filter(|(described, _)| *described == name) {
                let words = words.replace('"', "\\\"");
                page.extend(["# HELP ", family, " ", &words, "\n"]);
            }
            page.extend(["# TYPE ", family, " ", kind, "\n"]);
        } else {
            page.extend([line, "\n"]);
        }
    }
    page.push_str("# EOF\n");
    page
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn headers(accept: &str, encoding: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(encoding).unwrap());
        headers
    }

    #[test]
    fn the_format_with_the_highest_quality_is_written() {
        let rows = [
            // What Prometheus 2 and 3 send.
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
            ("text/plain; q=0.9, application/openmetrics-text; q=0.1", Format::Text),
            ("Application/OpenMetrics-Text", Format::OpenMetrics),
            ("text/plain, application/openmetrics-text", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=2", Format::Text),
            ("*/*", Format::Text),
            ("application/json", Format::Text),
        ];
        for (accept, expected) in rows {
            assert_eq!(Format::asked_for(&headers(accept, "")), expected, "{accept}");
        }
        assert_eq!(Format::asked_for(&HeaderMap::new()), Format::Text);
    }

    #[test]
    fn gzip_is_used_for_those_who_take_it() {
        for (encoding, expected) in
            [("gzip", true), ("deflate, gzip;q=0.5", true), ("gzip;q=0", false), ("br", false), ("", false)]
        {
            assert_eq!(takes_gzip(&headers("", encoding)), expected, "{encoding}");
        }
        let text = "a_total 1\n".repeat(1_000);
        let compressed = gzip(text.as_bytes()).unwrap();
        assert!(compressed.len() < text.len() / 10, "{}", compressed.len());
        let mut back = String::new();
        flate2::read::GzDecoder::new(compressed.as_slice()).read_to_string(&mut back).unwrap();
        assert_eq!(back, text);
        let short = reply(Format::Text, "a_total 1\n".to_owned(), true);
        assert!(!short.headers().contains_key(header::CONTENT_ENCODING), "too short to be worth it");
        let long = reply(Format::OpenMetrics, text, true);
        assert_eq!(long.headers()[header::CONTENT_ENCODING], "gzip");
        assert_eq!(long.headers()[header::CONTENT_TYPE], Format::OpenMetrics.content_type());
    }

    #[test]
    fn open_metrics_differs_in_counters_empty_lines_and_the_end() {
        let text = "# HELP a_total Counts \"a\".\n# TYPE a_total counter\na_total{x=\"1\"} 2\n\n\
                    # TYPE b gauge\nb 1\n\n# HELP odd Old.\n# TYPE odd counter\nodd 3\n\
                    # TYPE busy_total gauge\nbusy_total 0.5\n";
        let expected = "# HELP a Counts \\\"a\\\".\n# TYPE a counter\na_total{x=\"1\"} 2\n# TYPE b gauge\nb 1\n\
                        # HELP odd Old.\n# TYPE odd unknown\nodd 3\n\
                        # TYPE busy counter\nbusy_total 0.5\n# EOF\n";
        assert_eq!(open_metrics(text), expected);
    }

    #[test]
    fn the_registry_writes_what_open_metrics_allows() {
        let metrics = Metrics::new(&[("seconds", &[0.1, 1.0])]);
        metrics.describe("messages_total", "Messages.");
        metrics.counter("messages_total", &[("url", "x")]).increment(1);
        metrics.histogram("seconds", &[]).record(0.5);
        metrics.held_counter("held_total", &[("pod", "a")]).increment(1);
        let page = Format::OpenMetrics.write(metrics.render());
        assert!(
            page.contains("# HELP messages Messages.\n# TYPE messages counter\nmessages_total{url=\"x\"} 1\n"),
            "{page}"
        );
        assert!(page.contains("# TYPE held counter\nheld_total{pod=\"a\"} 1\n"), "{page}");
        assert!(page.contains("# TYPE seconds histogram\n"), "{page}");
        assert!(page.ends_with("# EOF\n") && !page.contains("\n\n"), "{page}");
        let families: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let unique: std::collections::BTreeSet<&&str> = families.iter().collect();
        assert_eq!(families.len(), unique.len(), "a family is declared once: {families:?}");
    }
}
