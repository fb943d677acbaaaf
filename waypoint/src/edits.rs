//! What routes change: headers, paths, and where clients are sent.

use http::HeaderMap;
use http::header::Entry;

use crate::config::{Edits, Manner, PathMatch, PathRewrite, Put, Redirect, RedirectPath};
use crate::facts::Head;

/// Changes `headers`.
pub fn apply(edits: &Edits, headers: &mut HeaderMap) {
    for name in &edits.remove {
        headers.remove(name);
    }
    for Put { name, value, manner } in &edits.put {
        match (manner, headers.entry(name)) {
            (Manner::Append, Entry::Occupied(mut entry)) => entry.append(value.clone()),
            (Manner::Overwrite | Manner::OverwriteIfPresent, Entry::Occupied(mut entry)) => {
                drop(entry.insert(value.clone()));
            }
            (Manner::Append | Manner::AddIfAbsent | Manner::Overwrite, Entry::Vacant(entry)) => {
                entry.insert(value.clone());
            }
            (Manner::AddIfAbsent, Entry::Occupied(_)) | (Manner::OverwriteIfPresent, Entry::Vacant(_)) => {}
        }
    }
}

/// The path that `path`, which matched as `matched`, becomes.
#[must_use]
pub fn rewritten(rewrite: &PathRewrite, matched: &PathMatch, path: &str) -> String {
    match rewrite {
        PathRewrite::Matched(new) => in_place_of(matched, new, path),
        PathRewrite::Regex(regex, new) => regex.replace_all(path, new.as_str()).into_owned(),
    }
}

fn in_place_of(matched: &PathMatch, new: &str, path: &str) -> String {
    match matched {
        // It begins so, perhaps in other letters.
        PathMatch::Prefix(prefix) => format!("{new}{}", path.get(prefix.len()..).unwrap_or_default()),
        PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Connect => new.to_owned(),
    }
}

/// Where a client is sent: the value of `location`.
#[must_use]
pub fn location(redirect: &Redirect, matched: &PathMatch, head: &Head<'_>) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let bare = || match head.authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => head.authority,
    };
    let host = match (&redirect.host, redirect.port) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.clone(),
        (None, Some(port)) => format!("{}:{port}", bare()),
        // A port that is usual for the other scheme would be wrong for this one.
        (None, None) if redirect.scheme.is_some() && has_usual_port(head.authority) => bare().to_owned(),
        (None, None) => head.authority.to_owned(),
    };
    let path = match &redirect.path {
        Some(RedirectPath::Full(path)) => path.clone(),
        Some(RedirectPath::Matched(new)) => in_place_of(matched, new, head.path.unwrap_or_default()),
        None => head.path.unwrap_or_default().to_owned(),
    };
    match head.query {
        Some(query) if !path.contains('?') => format!("{scheme}://{host}{path}?{query}"),
        _ => format!("{scheme}://{host}{path}"),
    }
}

fn has_usual_port(authority: &str) -> bool {
    authority.ends_with(":80") || authority.ends_with(":443")
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn headers_are_removed_then_put() {
        let put = |name: &'static str, value: &'static str, manner| Put {
            name: HeaderName::from_static(name),
            value: HeaderValue::from_static(value),
            manner,
        };
        let edits = Edits {
            remove: vec![HeaderName::from_static("gone")],
            put: vec![
                put("more", "2", Manner::Append),
                put("new", "1", Manner::Append),
                put("kept", "2", Manner::AddIfAbsent),
                put("other", "2", Manner::Overwrite),
                put("absent", "2", Manner::OverwriteIfPresent),
                put("gone", "2", Manner::Overwrite),
            ],
        };
        let mut headers = HeaderMap::new();
        for name in ["gone", "more", "kept", "other"] {
            headers.append(name, HeaderValue::from_static("1"));
        }
        apply(&edits, &mut headers);
        let values =
            |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>().join(",");
        let rows = [("gone", "2"), ("more", "1,2"), ("new", "1"), ("kept", "1"), ("other", "2"), ("absent", "")];
        for (name, expected) in rows {
            assert_eq!(values(name), expected, "{name}");
        }
    }

    #[test]
    fn paths_are_rewritten_where_they_matched() {
        let prefix = |text: &str| PathMatch::Prefix(text.to_owned());
        let matched = |text: &str| PathRewrite::Matched(text.to_owned());
        let regex = |text: &str, new: &str| PathRewrite::Regex(regex::Regex::new(text).unwrap(), new.to_owned());
        let rows = [
            (matched("/new/"), prefix("/old/"), "/old/a", "/new/a"),
            (matched("/"), prefix("/old/"), "/old/a/b", "/a/b"),
            (matched("/new"), PathMatch::Exact("/old".into()), "/old", "/new"),
            (regex("^/.*$", "/full"), prefix("/"), "/a/b", "/full"),
            (regex("^/user/([0-9]+)", "/u/${1}"), prefix("/"), "/user/7/x", "/u/7/x"),
        ];
        for (rewrite, matched, path, expected) in rows {
            assert_eq!(rewritten(&rewrite, &matched, path), expected, "{path}");
        }
    }

    #[test]
    fn clients_are_sent_elsewhere() {
        let headers = HeaderMap::new();
        let plain = Redirect { status: http::StatusCode::FOUND, ..Redirect::default() };
        let rows = [
            (plain.clone(), "a.example:8080", "http://a.example:8080/old/x?q=1"),
            (Redirect { scheme: Some("https".into()), ..plain.clone() }, "a.example:80", "https://a.example/old/x?q=1"),
            (Redirect { host: Some("b".into()), ..plain.clone() }, "a:80", "http://b/old/x?q=1"),
            (Redirect { port: Some(8443), ..plain.clone() }, "a:80", "http://a:8443/old/x?q=1"),
            (Redirect { path: Some(RedirectPath::Full("/n".into())), ..plain.clone() }, "a", "http://a/n?q=1"),
            (Redirect { path: Some(RedirectPath::Full("/n?z".into())), ..plain.clone() }, "a", "http://a/n?z"),
            (Redirect { path: Some(RedirectPath::Matched("/new/".into())), ..plain }, "a", "http://a/new/x?q=1"),
        ];
        for (redirect, authority, expected) in rows {
            let head = Head {
                method: "GET",
                authority,
                path: Some("/old/x"),
                query: Some("q=1"),
                headers: &headers,
                claims: None,
            };
            assert_eq!(location(&redirect, &PathMatch::Prefix("/old/".into()), &head), expected);
        }
    }
}
