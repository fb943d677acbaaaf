//! Rules of GRPCRoutes: a method is a path, `/<service>/<method>`.

use fairway_core::source::route::{GrpcMatch, GrpcRule, MethodMatch};

use super::super::model::{Conditions, Forward, Match, Path};
use super::super::verdict::Class;
use super::filters::Place;
use super::{LEFT_OUT, REFUSED, Read, Reader, text};

/// Any service or method.
const ANY: &str = "[^/]+";

impl Reader<'_> {
    /// Reads one rule.
    pub(in super::super) fn grpc(&mut self, at: &str, written: &GrpcRule) -> Read {
        let mut can_do = self.reads_all(at, &written.unread, REFUSED);
        let mut matches = Vec::new();
        for (index, matching) in written.matches.iter().enumerate() {
            let read = self.grpc_match(&format!("{at}.matches[{index}]"), matching);
            matches.extend(read.map(|matching| (index, matching)));
        }
        let has_all = matches.len() == written.matches.len();
        if written.matches.is_empty() {
            matches.extend(self.grpc_match(at, &GrpcMatch::default()).map(|matching| (0, matching)));
        }
        let effects = self.filters(at, &written.filters, Place::Grpc, &[]);
        let backends = self.backends(at, &written.backend_refs);
        let session = self.session(at, written.session_persistence.as_ref());
        can_do &= effects.is_some() && session.is_some();
        let forward = Forward { backends, session: session.flatten(), ..Forward::default() };
        let rule = Self::rule(effects.filter(|_| can_do), forward);
        Read { matches, rule, is_supported: can_do && has_all }
    }

    fn grpc_match(&mut self, at: &str, written: &GrpcMatch) -> Option<Match> {
        let is_read = self.reads_all(at, &written.unread, LEFT_OUT);
        let default = MethodMatch::default();
        let method = written.method.as_ref().unwrap_or(&default);
        if !self.reads_all(&format!("{at}.method"), &method.unread, LEFT_OUT) {
            return None;
        }
        let path = match method_path(method) {
            Ok(path) => path,
            Err((field, wrong)) => {
                self.find(Class::Unsupported, format!("{at}.method.{field}"), format!("{wrong}; {LEFT_OUT}"));
                return None;
            }
        };
        let headers = self.compared(&format!("{at}.headers"), &written.headers, true)?;
        let length = |text: &Option<String>| text.as_deref().map_or(0, str::len);
        let is_exact = usize::from(!matches!(path, Path::Regex(_)));
        let rank = [length(&method.service), length(&method.method), headers.len(), is_exact, 0];
        is_read.then_some(Match { path, method: None, headers, query: Vec::new(), more: Conditions::default(), rank })
    }
}

/// The paths of a method, or which field is wrong and why.
fn method_path(written: &MethodMatch) -> Result<Path, (&'static str, String)> {
    let service = written.service.as_deref().filter(|service| !service.is_empty());
    let method = written.method.as_deref().filter(|method| !method.is_empty());
    match written.kind.as_deref().unwrap_or("Exact") {
        "Exact" => {
            for (field, name) in [("service", service), ("method", method)] {
                if let Some(name) = name.filter(|name| !is_name(name)) {
                    return Err((field, format!("{name:?} is no name of gRPC")));
                }
            }
            Ok(match (service, method) {
                (Some(service), Some(method)) => Path::Exact(format!("/{service}/{method}")),
                (Some(service), None) => Path::Prefix(format!("/{service}")),
                (None, Some(method)) => Path::Regex(format!("/{ANY}/{}", method.replace('.', "\\."))),
                (None, None) => Path::Prefix(String::new()),
            })
        }
        "RegularExpression" => {
            for (field, pattern) in [("service", service), ("method", method)] {
                text::check_pattern(pattern.unwrap_or_default()).map_err(|wrong| (field, wrong))?;
            }
            let (service, method) = (service.unwrap_or(ANY), method.unwrap_or(ANY));
            Ok(Path::Regex(format!("/(?:{service})/(?:{method})")))
        }
        other => Err(("type", format!("{other:?} is not supported"))),
    }
}

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_paths() {
        let written = |kind: &str, service: &str, method: &str| MethodMatch {
            kind: Some(kind.to_owned()),
            service: Some(service.to_owned()),
            method: Some(method.to_owned()),
            ..MethodMatch::default()
        };
        for (kind, service, method, expected) in [
            ("Exact", "a.B", "C", Some(Path::Exact("/a.B/C".to_owned()))),
            ("Exact", "a.B", "", Some(Path::Prefix("/a.B".to_owned()))),
            ("Exact", "", "C", Some(Path::Regex("/[^/]+/C".to_owned()))),
            ("Exact", "", "", Some(Path::Prefix(String::new()))),
            ("Exact", "a/B", "", None),
            ("RegularExpression", "a|b", "", Some(Path::Regex("/(?:a|b)/(?:[^/]+)".to_owned()))),
            ("RegularExpression", "(", "", None),
            ("Glob", "a", "", None),
        ] {
            assert_eq!(method_path(&written(kind, service, method)).ok(), expected, "{kind} {service} {method}");
        }
    }
}
