//! Filters of rules and backends. One that is not understood is never skipped.

use fairway_core::source::route::{
    Filter, HeaderModifier, Mirror as WrittenMirror, PathModifier, Redirect as Written, Rewrite,
};

use super::super::catalog::Unit;
use super::super::model::{Cors, Edits, Match, Mirror, NewPath, Path, Redirect};
use super::super::verdict::Class;
use super::{ALL, REFUSED, Reader, text};

/// Where filters are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Place {
    /// In a rule of an HTTPRoute.
    Http,
    /// In a rule of a GRPCRoute.
    Grpc,
    /// In a backend of either.
    Backend,
}

/// What filters do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in super::super) struct Effects {
    pub(super) request: Edits,
    pub(super) response: Edits,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) redirect: Option<Redirect>,
    pub(super) host: Option<String>,
    pub(super) path: Option<NewPath>,
    pub(super) cors: Option<Cors>,
}

impl Effects {
    /// Whether requests go back with another address.
    pub(super) fn redirects(&self) -> bool {
        self.redirect.is_some()
    }
}

impl Reader<'_> {
    /// What filters do, or nothing when one of them cannot be done.
    pub(super) fn filters(&mut self, at: &str, filters: &[Filter], place: Place, matches: &[Match]) -> Option<Effects> {
        let mut effects = Effects::default();
        let mut is_supported = true;
        let mut seen: Vec<&str> = Vec::new();
        for (index, filter) in filters.iter().enumerate() {
            let at = format!("{at}.filters[{index}]");
            let kind = filter.kind.as_str();
            if seen.contains(&kind) && kind != "RequestMirror" {
                self.unsupported(format!("{at}.type"), &format!("{kind} may be there once"));
                is_supported = false;
                continue;
            }
            seen.push(kind);
            is_supported &= self.filter(&at, filter, place, matches, &mut effects).is_some();
        }
        if effects.redirect.is_some() && (effects.host.is_some() || effects.path.is_some()) {
            self.unsupported(format!("{at}.filters"), "RequestRedirect and URLRewrite exclude each other");
            is_supported = false;
        }
        is_supported.then_some(effects)
    }

    fn filter(
        &mut self,
        at: &str,
        filter: &Filter,
        place: Place,
        matches: &[Match],
        effects: &mut Effects,
    ) -> Option<()> {
        match (filter.kind.as_str(), place) {
            ("RequestHeaderModifier", _) => {
                let at = format!("{at}.requestHeaderModifier");
                effects.request = self.edits(&at, filter.request_header_modifier.as_ref())?;
            }
            ("ResponseHeaderModifier", _) => {
                let at = format!("{at}.responseHeaderModifier");
                effects.response = self.edits(&at, filter.response_header_modifier.as_ref())?;
            }
            ("RequestMirror", Place::Http | Place::Grpc) => {
                let mirror = self.mirror(&format!("{at}.requestMirror"), filter.request_mirror.as_ref())?;
                effects.mirrors.extend(mirror);
            }
            ("RequestRedirect", Place::Http) => {
                let at = format!("{at}.requestRedirect");
                effects.redirect = Some(self.redirect(&at, filter.request_redirect.as_ref(), matches)?);
            }
            ("URLRewrite", Place::Http) => {
                let at = format!("{at}.urlRewrite");
                (effects.host, effects.path) = self.rewrite(&at, filter.url_rewrite.as_ref(), matches)?;
            }
            ("CORS", Place::Http) => {
                effects.cors = Some(self.cors_filter(&format!("{at}.cors"), filter.cors.as_ref())?);
            }
            (other, _) => {
                self.unsupported(format!("{at}.type"), &format!("{other:?} is not supported here"));
                return None;
            }
        }
        Some(())
    }

    pub(super) fn missing<T>(&mut self, at: &str, written: Option<T>) -> Option<T> {
        if written.is_none() {
            self.unsupported(at.to_owned(), "is missing");
        }
        written
    }

    pub(super) fn edits(&mut self, at: &str, modifier: Option<&HeaderModifier>) -> Option<Edits> {
        let modifier = self.missing(at, modifier)?;
        let mut is_read = self.reads_all(at, &modifier.unread, REFUSED);
        for (list, headers) in [("set", &modifier.set), ("add", &modifier.add)] {
            for (index, header) in headers.iter().enumerate() {
                is_read &= self.reads_all(&format!("{at}.{list}[{index}]"), &header.unread, REFUSED);
            }
        }
        if !is_read {
            return None;
        }
        let mut edits = Edits::default();
        let mut names: Vec<String> = Vec::new();
        let mut check = |reader: &mut Self, field: String, name: &str, value: &str| {
            let name = name.to_ascii_lowercase();
            let wrong = if !text::is_header_name(&name) {
                Some("is no name of a header")
            } else if name == "host" {
                Some("cannot be changed as a header; use URLRewrite")
            } else if names.contains(&name) {
                Some("is named before")
            } else if !text::is_clean(value) {
                Some("has a value that no header has")
            } else {
                None
            };
            if let Some(wrong) = wrong {
                reader.unsupported(field, &format!("{name:?} {wrong}"));
                return None;
            }
            names.push(name.clone());
            Some((name, value.to_owned()))
        };
        for (index, header) in modifier.set.iter().enumerate() {
            edits.set.push(check(self, format!("{at}.set[{index}]"), &header.name, &header.value)?);
        }
        for (index, header) in modifier.add.iter().enumerate() {
            edits.add.push(check(self, format!("{at}.add[{index}]"), &header.name, &header.value)?);
        }
        for (index, name) in modifier.remove.iter().enumerate() {
            edits.remove.push(check(self, format!("{at}.remove[{index}]"), name, "")?.0);
        }
        Some(edits)
    }

    /// A mirror; one whose backend cannot be found is left out, and requests go on.
    fn mirror(&mut self, at: &str, mirror: Option<&WrittenMirror>) -> Option<Option<Mirror>> {
        let mirror = self.missing(at, mirror)?;
        let is_read = self.reads_all(at, &mirror.unread, REFUSED);
        if !self.reads_all(&format!("{at}.backendRef"), &mirror.backend_ref.unread, REFUSED) || !is_read {
            return None;
        }
        if let Some(fraction) = &mirror.fraction
            && !self.reads_all(&format!("{at}.fraction"), &fraction.unread, REFUSED)
        {
            return None;
        }
        let per_million = match (mirror.percent, &mirror.fraction) {
            (None, None) => Some(ALL),
            (Some(percent), None) if percent <= 100 => Some(percent * 10_000),
            (None, Some(fraction)) => {
                let denominator = u64::from(fraction.denominator.unwrap_or(100));
                let scaled = (u64::from(fraction.numerator) * u64::from(ALL)).checked_div(denominator);
                scaled.and_then(|scaled| u32::try_from(scaled).ok()).filter(|scaled| *scaled <= ALL)
            }
            _ => None,
        };
        let Some(per_million) = per_million else {
            self.unsupported(at.to_owned(), "needs either percent, up to 100, or fraction, up to 1");
            return None;
        };
        match self.catalog.backend(self.namespace, &mirror.backend_ref, Unit::Request, &self.referrer) {
            Ok(target) => Some(Some(Mirror { target, per_million })),
            Err((reason, message)) => {
                let message = format!("{message}; nothing is mirrored there");
                self.find(Class::Reference(reason), format!("{at}.backendRef"), message);
                Some(None)
            }
        }
    }

    fn redirect(&mut self, at: &str, redirect: Option<&Written>, matches: &[Match]) -> Option<Redirect> {
        let redirect = self.missing(at, redirect)?;
        if !self.reads_all(at, &redirect.unread, REFUSED) {
            return None;
        }
        let status = redirect.status_code.unwrap_or(302);
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            self.unsupported(format!("{at}.statusCode"), &format!("{status} is no redirection"));
            return None;
        }
        if redirect.scheme.as_deref().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
            self.unsupported(format!("{at}.scheme"), "must be http or https");
            return None;
        }
        let host = self.host(at, redirect.hostname.as_deref())?;
        let path = self.new_path(at, redirect.path.as_ref(), matches)?;
        Some(Redirect { scheme: redirect.scheme.clone(), host, path, port: redirect.port, status })
    }

    fn rewrite(
        &mut self,
        at: &str,
        rewrite: Option<&Rewrite>,
        matches: &[Match],
    ) -> Option<(Option<String>, Option<NewPath>)> {
        let rewrite = self.missing(at, rewrite)?;
        if !self.reads_all(at, &rewrite.unread, REFUSED) {
            return None;
        }
        let host = self.host(at, rewrite.hostname.as_deref())?;
        let path = self.new_path(at, rewrite.path.as_ref(), matches)?;
        Some((host, path))
    }

    fn host(&mut self, at: &str, host: Option<&str>) -> Option<Option<String>> {
        if host.is_some_and(|host| !text::is_host(host)) {
            self.unsupported(format!("{at}.hostname"), "is no name of a host");
            return None;
        }
        Some(host.map(str::to_owned))
    }

    fn new_path(&mut self, at: &str, path: Option<&PathModifier>, matches: &[Match]) -> Option<Option<NewPath>> {
        let at = format!("{at}.path");
        let Some(path) = path else { return Some(None) };
        if !self.reads_all(&at, &path.unread, REFUSED) {
            return None;
        }
        match (path.kind.as_str(), &path.replace_full_path, &path.replace_prefix_match) {
            ("ReplaceFullPath", Some(full), None) if text::is_path(full) => Some(Some(NewPath::Full(full.clone()))),
            ("ReplacePrefixMatch", None, Some(prefix)) if prefix.is_empty() || text::is_path(prefix) => {
                if matches.iter().any(|matching| !matches!(matching.path, Path::Prefix(_))) {
                    self.unsupported(at, "ReplacePrefixMatch needs matches of type PathPrefix");
                    return None;
                }
                Some(Some(NewPath::Prefix(prefix.trim_end_matches('/').to_owned())))
            }
            _ => {
                self.unsupported(at, "needs a type and the path that belongs to it");
                None
            }
        }
    }
}
