//! What expressions mean, and what is refused.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A request that was answered with this status, if at all.
struct Request {
    code: Option<i64>,
    headers: BTreeMap<&'static str, &'static str>,
}

impl Subject for Request {
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        Some(match attribute {
            Attribute::Method => Value::Text("GET".into()),
            Attribute::Path => Value::Text("/a/b?q=1".into()),
            Attribute::UrlPath => Value::Text("/a/b".into()),
            Attribute::Host => Value::Text("web.shop".into()),
            Attribute::ResponseCode => Value::Number(self.code?),
            Attribute::MutualTls => Value::Truth(true),
            Attribute::RequestSize => Value::Number(i64::MAX),
            Attribute::Peer(End::Source, known) => Value::Text(format!("{known:?}").to_lowercase().into()),
            _ => return None,
        })
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.headers.get(name).map(|value| (*value).into())
    }
}

fn request() -> Request {
    Request { code: Some(404), headers: BTreeMap::from([("x-user", "Ann"), ("user-agent", "curl")]) }
}

#[test]
fn labels_know_both_ends_and_conditions_of_logs_do_not() {
    let rows = [
        ("source.workload.name", Ok(Some("workload"))),
        ("source.workload.namespace + '/' + source.principal", Ok(Some("namespace/principal"))),
        ("filter_state.downstream_peer.name", Ok(Some("pod"))),
        ("filter_state.downstream_peer.app", Ok(Some("service"))),
        ("filter_state.downstream_peer.version.contains('v') ? 'v' : 'other'", Ok(Some("v"))),
        ("filter_state.downstream_peer.cluster", Ok(Some("cluster"))),
        ("filter_state.upstream_peer.app", Ok(None)),
        ("has(destination.workload.name) ? 'known' : 'gone'", Ok(Some("gone"))),
        ("request.host", Ok(Some("web.shop"))),
        ("response.code", Ok(Some("404"))),
        ("source.workload.labels", Err("\"source.workload.labels\" is not known")),
        ("filter_state.downstream_peer", Err("\"filter_state.downstream_peer\" is not known")),
        ("filter_state.downstream_peer.", Err("\"filter_state.downstream_peer\" is not known")),
        ("source.workload.name == 1", Err("needs a text")),
    ];
    for (text, expected) in rows {
        let found = Expression::label(text).map(|read| read.of(&request()).map(|value| value.to_string()));
        match (&found, expected) {
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
            (found, expected) => {
                let found = found.as_ref().map(Option::as_deref).map_err(|_| "");
                assert_eq!(found, expected, "{text}");
            }
        }
        let for_envoy = Expression::value(text);
        assert_eq!(for_envoy.is_ok(), matches!(text, "request.host" | "response.code"), "{text}");
    }
}

#[test]
fn conditions_hold_as_in_cel() {
    let rows = [
        ("response.code >= 400", true),
        ("response.code == 404 && request.method != 'POST'", true),
        ("response.code < 400 || response.code >= 500", false),
        ("!(response.code < 400)", true),
        ("request.url_path == \"/a/b\" && request.path.endsWith('q=1')", true),
        ("request.url_path.startsWith('/a') && !request.url_path.contains('c')", true),
        ("request.headers['X-User'] == 'Ann'", true),
        ("request.headers[':method'] == 'GET'", true),
        ("request.useragent == 'curl'", true),
        ("'x-user' in request.headers && !('x-other' in request.headers)", true),
        ("has(request.headers.x_user)", false),
        ("has(request.headers['x-user']) && has(response.code)", true),
        ("response.code in [403, 404]", true),
        ("request.method in ['PUT', 'POST',]", false),
        ("request.method in []", false),
        ("connection.mtls", true),
        ("connection.mtls == false", false),
        ("size(request.method) == 3", true),
        ("string(response.code) + 'x' == '404x'", true),
        ("response.code + 1 == 405", true),
        ("(response.code > 499 ? 'bad' : response.code > 399 ? 'client' : 'good') == 'client'", true),
        ("'b' > 'a' && 'B' < 'a' && -1 < 0", true),
        ("true || false && false", true),
        ("'\\'\\\\\\n' == \"'\\\\\\n\"", true),
        // What there is not is an error, which is no yes; but what one side decides, it decides.
        ("request.headers['x-other'] == 'a'", false),
        ("request.headers['x-other'] != 'a'", false),
        ("!(request.headers['x-other'] == 'a')", false),
        ("request.headers['x-other'] == 'a' || connection.mtls", true),
        ("connection.mtls || request.headers['x-other'] == 'a'", true),
        ("!(request.headers['x-other'] == 'a' && response.code == 1)", true),
        ("request.headers['x-other'] in ['a', 'b']", false),
        ("'Ann' in [request.headers['x-other'], request.headers['x-user']]", true),
        ("!('Bob' in [request.headers['x-other']])", false),
        ("request.size + 1 > 0", false),
        ("response.grpc_status == 0", false),
    ];
    for (text, expected) in rows {
        let read = Expression::condition(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(read.holds(&request()), expected, "{text}");
    }
    let left = Request { code: None, headers: BTreeMap::new() };
    assert!(!Expression::condition("response.code < 400").unwrap().holds(&left));
    assert!(Expression::condition("!has(response.code)").unwrap().holds(&left));
}

#[test]
fn values_are_said() {
    let rows = [
        ("request.host", Some("web.shop")),
        ("'fixed'", Some("fixed")),
        ("response.code", Some("404")),
        ("connection.mtls", Some("true")),
        ("request.headers['x-user'] + '/' + request.method", Some("Ann/GET")),
        ("request.headers['x-other']", None),
        ("'x-other' in request.headers ? request.headers['x-other'] : 'none'", Some("none")),
    ];
    for (text, expected) in rows {
        let read = Expression::value(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(read.of(&request()).map(|value| value.to_string()).as_deref(), expected, "{text}");
    }
    let read = Expression::value("request.id == 'a' || request.headers.b == request.query").unwrap();
    assert_eq!(read.headers(), ["x-request-id", "b"]);
    assert!(read.asks_for(Attribute::Query) && !read.asks_for(Attribute::Path));
}

#[test]
fn what_is_not_understood_is_named() {
    let rows = [
        ("", "something is missing (at character 0)"),
        ("response.code", "is a number, and not a condition"),
        ("response.code == '404'", "\"==\" needs a number here, and this is a text (at character 14)"),
        ("response.code && true", "\"&&\" needs a truth value here, and this is a number"),
        ("response.kode == 1", "\"response.kode\" is not known (at character 0)"),
        ("response.code == 404.0", "only whole numbers"),
        ("response.code == 0x10", "only whole numbers"),
        ("response.code == 404u", "only whole numbers"),
        ("response.code == 99999999999999999999", "too large"),
        ("response.code - 1 == 3", "'-' is not supported"),
        ("request.method.matches('G.*')", "\"matches\" is not supported"),
        ("request.method == r'a'", "texts that begin with r"),
        ("request.method == '''a'''", "three quotes"),
        ("request.method == 'a", "no end"),
        ("request.method == '\\x41'", "of escapes"),
        ("request.headers['a b'] == ''", "no name of a header"),
        ("request.headers[request.method] == ''", "in quotes"),
        ("request.headers == ''", "one is asked for"),
        ("'a' in request.header", "behind \"in\""),
        ("request.method in request.headers", "behind \"in\""),
        ("response.code in ['a']", "\"in\" needs a number"),
        ("has('a')", "has() is for attributes"),
        ("size(1) == 1", "\"size\" needs a text"),
        ("true + true", "\"+\" is for"),
        ("true ? 1 : 'a'", "\":\" needs a number"),
        ("(true", "\")\" is missing"),
        ("true true", "\"true\" is not understood here (at character 5)"),
        ("1 == 1 == true", "needs parentheses"),
        ("metadata.filter_metadata['a'] == 'b'", "\"metadata.filter_metadata\" is not known"),
        ("int('1') == 1", "\"int\" is not known"),
    ];
    for (text, expected) in rows {
        let error = Expression::condition(text).map(|read| read.text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    for deep in [format!("{}true", "!".repeat(2000)), format!("{}true{}", "(".repeat(2000), ")".repeat(2000))] {
        assert!(Expression::condition(&deep).unwrap_err().to_string().contains("too deeply"));
    }
    let long = vec!["true"; 1000].join("||");
    assert!(Expression::condition(&long).unwrap_err().to_string().contains("longer"));
    assert!(Expression::condition(&vec!["true"; 600].join("||")).unwrap().holds(&request()));
}

proptest! {
    #[test]
    fn no_text_breaks_the_reader(text in "\\PC{0,80}") {
        if let Ok(read) = Expression::value(&text) {
            let _value = read.of(&request());
        }
    }

    #[test]
    fn nor_does_what_looks_like_an_expression(
        words in prop::collection::vec(prop::sample::select(vec![
            "request.method", "response.code", "'a'", "1", "true", "==", "&&", "||", "!", "in", "[", "]", "(", ")", ",", ".",
            "?", ":", "+", "has(", "size(", "string(", "startsWith(", "request.headers", "['x-user']",
        ]), 0..14),
    ) {
        if let Ok(read) = Expression::value(&words.join(" ")) {
            let kind = read.of(&request()).map(|value| match value {
                Value::Truth(_) => Kind::Truth,
                Value::Number(_) => Kind::Number,
                Value::Text(_) => Kind::Text,
            });
            // What is there is of the kind that was foreseen.
            prop_assert!(kind.is_none_or(|kind| kind == read.kind));
        }
    }
}
