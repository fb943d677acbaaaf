//! B3, in one header and in several (OpenZipkin's B3 Propagation).

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Parent, Trace};

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// In which forms a client has said it, which are those that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Forms {
    single: bool,
    several: bool,
    /// Its traces have names of 64 bits.
    is_short: bool,
    /// Everybody is asked to tell about it.
    is_debug: bool,
}

impl Forms {
    /// Of a trace whose name was said in another form, which is told in full.
    pub(super) fn named_elsewhere(self) -> Self {
        Self { is_short: false, ..self }
    }
}

/// What is said of whether a request is told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    No,
    Yes,
    Debug,
}

impl Decision {
    fn read(text: &str) -> Option<Self> {
        match text {
            "0" | "false" => Some(Self::No),
            "1" | "true" => Some(Self::Yes),
            "d" => Some(Self::Debug),
            _ => None,
        }
    }
}

/// Of each name the only value that there is.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next()?.to_str().ok()?;
    lines.next().is_none().then_some(line)
}

/// Which forms are there, and what they say; the single header counts before the several.
pub(super) fn read(headers: &HeaderMap) -> (Forms, Option<Parent>) {
    let single = headers.contains_key(SINGLE);
    let several = [TRACE, SPAN, SAMPLED, FLAGS].iter().any(|name| headers.contains_key(name));
    let read = only(headers, &SINGLE).and_then(one).or_else(|| many(headers));
    let is_short = read.is_some_and(|read| read.is_short);
    let is_debug = read.is_some_and(|read| read.decision == Some(Decision::Debug));
    let parent =
        read.map(|read| Parent { ids: read.ids, is_sampled: read.decision.map(|decision| decision != Decision::No) });
    (Forms { single, several, is_short, is_debug }, parent)
}

#[derive(Clone, Copy)]
struct Read {
    ids: Option<(u128, u64)>,
    is_short: bool,
    decision: Option<Decision>,
}

/// `TRACE-SPAN[-DECISION[-PARENT]]`, or a decision alone.
fn one(text: &str) -> Option<Read> {
    if let Some(decision) = Decision::read(text) {
        return Some(Read { ids: None, is_short: false, decision: Some(decision) });
    }
    let mut fields = text.split('-');
    let (ids, is_short) = ids(fields.next()?, fields.next()?)?;
    let decision = fields.next().map(|text| Decision::read(text).ok_or(()));
    let parent = fields.next().map(|text| number(text).ok_or(()));
    let is_valid = !matches!(decision, Some(Err(()))) && !matches!(parent, Some(Err(()))) && fields.next().is_none();
    is_valid.then(|| Read { ids: Some(ids), is_short, decision: decision.and_then(Result::ok) })
}

fn many(headers: &HeaderMap) -> Option<Read> {
    let debug = only(headers, &FLAGS).filter(|flags| *flags == "1").map(|_| Decision::Debug);
    let decision = debug.or_else(|| only(headers, &SAMPLED).and_then(Decision::read));
    match (only(headers, &TRACE), only(headers, &SPAN)) {
        (Some(trace), Some(span)) => {
            let (ids, is_short) = ids(trace, span)?;
            Some(Read { ids: Some(ids), is_short, decision })
        }
        _ => decision.map(|decision| Read { ids: None, is_short: false, decision: Some(decision) }),
    }
}

fn ids(trace: &str, span: &str) -> Option<((u128, u64), bool)> {
    let is_short = trace.len() == 16;
    let trace = match trace.split_at_checked(16) {
        Some((low, "")) => u128::from(number(low)?),
        Some((high, low)) => u128::from(number(high)?) << 64 | u128::from(number(low)?),
        None => return None,
    };
    let span = number(span).filter(|span| *span != 0 && trace != 0)?;
    Some(((trace, span), is_short))
}

fn number(text: &str) -> Option<u64> {
    let is_whole = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| is_whole)
}

/// In the place of what the client has said.
pub(super) fn write(trace: &Trace, headers: &mut HeaderMap) {
    let forms = trace.b3;
    for name in [SINGLE, TRACE, SPAN, PARENT, SAMPLED, FLAGS] {
        headers.remove(name);
    }
    let name = format!("{:032x}", trace.trace);
    let name = if forms.is_short { name.get(16..).unwrap_or_default().to_owned() } else { name };
    let (span, parent) = (format!("{:016x}", trace.span), trace.parent.map(|parent| format!("{parent:016x}")));
    let is_debug = forms.is_debug && trace.is_sampled;
    let decision = match (is_debug, trace.is_sampled) {
        (true, _) => "d",
        (false, true) => "1",
        (false, false) => "0",
    };
    let mut lines = Vec::new();
    if forms.single {
        let parent = parent.as_ref().map(|parent| format!("-{parent}")).unwrap_or_default();
        lines.push((SINGLE, format!("{name}-{span}-{decision}{parent}")));
    }
    if forms.several {
        lines.extend([(TRACE, name), (SPAN, span)]);
        lines.extend(parent.map(|parent| (PARENT, parent)));
        // To be debugged is to be told about (B3, "Debug Flag").
        lines.push(if is_debug { (FLAGS, "1".to_owned()) } else { (SAMPLED, decision.to_owned()) });
    }
    headers.extend(lines.into_iter().filter_map(|(name, line)| Some((name, HeaderValue::try_from(line).ok()?))));
}
