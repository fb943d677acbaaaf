//! DestinationRules, read (api-surface A9). What cannot be done has no effect, and is named by field.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::RangeInclusive;
use std::time::Duration;

use fairway_core::source::Objects;
use fairway_core::source::istio_destination::{
    ConnectionPool, ConsistentHash, DestinationRule, HttpSettings, LoadBalancer, LocalitySetting, OutlierDetection,
    RetryBudget as WrittenBudget, TcpSettings, Tls as WrittenTls, TrafficPolicy,
};
use fairway_core::source::route::Unread;

use super::{
    Balancer, Balancing, Destinations, Hosts, Keepalive, Key, Locality, Origination, Outliers, OwnCertificate, Policy,
    Pool, RetryBudget, Roots, Rule, Subset, Tls, Used, WarmUp,
};
use crate::age::by_age;
use crate::l7::catalog::Catalog;
use crate::l7::rules::text;
use crate::l7::verdict::{Class, Finding, Verdict};
use crate::translate::Settings;
use crate::translate::service::hostname;

/// Largest ring or table that Envoy takes.
const MAXIMUM_RING: u64 = 8 * 1024 * 1024;
/// See [`MAXIMUM_RING`].
const MAXIMUM_TABLE: u64 = 5_000_011;
/// Repetitions for so many of a hundred requests, and in any case, where nobody says how many; Istio's and Envoy's defaults.
const RETRIES: RetryBudget = RetryBudget { percent: 20.0, least: 3 };
/// Says by how many standard deviations an endpoint may fail more often than the others; Istio's API has no word for it.
const SUCCESS_RATE: &str = "fairway.dev/success-rate-deviations";
/// Most of them; nobody is as far off.
const MAXIMUM_DEVIATIONS: f64 = 100.0;
/// How new endpoints get their share where nobody says; Istio's and Envoy's defaults.
const WARM_UP: WarmUp = WarmUp { window: Duration::ZERO, aggression: 1.0, least_percent: 10.0 };
/// Past it an endpoint has its share as soon as it comes.
const MAXIMUM_AGGRESSION: f64 = 1000.0;
/// Istio's word for the certificate authorities of the proxy's machine.
const SYSTEM_ROOTS: &str = "system";
/// Why TLS of a kind that is not known comes about with nobody.
const MODE: &str = "tls-mode-not-supported";
/// Why TLS with a secret of Kubernetes, or with less than is asked for, comes about with nobody.
const FIELD: &str = "tls-field-not-supported";
/// The only field of TLS that may be left unread, as less is believed without it than is asked for. Any other, be it one that is not known
/// or a misspelt one, may say whom to be or leave fewer to believe: without it more would be done than is asked for.
const WIDENING: &str = "insecureSkipVerify";
/// A field of TLS that is not read, and what does the same.
const CREDENTIAL: (&str, &str) = (
    "credentialName",
    "; mount the Secret into the waypoint's pod (annotation fairway.dev/secrets of its Gateway) and name its files",
);
/// What becomes of what is not encrypted as it is asked for.
const NOTHING: &str = "endpoints outside of the mesh are sent nothing at all";
/// What is said of what is not done.
const NO_EFFECT: &str = "is not supported and has no effect";

/// Reads all of them, the older first.
#[must_use]
pub fn read(objects: &Objects, settings: &Settings) -> Destinations {
    let nothing = Destinations::default();
    let catalog = Catalog { objects, settings, destinations: &nothing };
    let mut destinations = Destinations { root: settings.root_namespace.clone(), ..Destinations::default() };
    for (key, object) in by_age(objects.destination_rules.iter(), |object| &object.metadata) {
        let mut reader =
            Reader { catalog, namespace: &key.namespace, deviations: None, compares: false, findings: Vec::new() };
        reader.deviations = reader.deviations(object);
        if let Some(rule) = reader.rule(object) {
            destinations.hosts.insert(key.clone(), rule.hosts.clone());
            let rules = destinations.rules.entry(key.namespace.clone()).or_default();
            match rules.iter_mut().find(|known| known.hosts == rule.hosts && known.exported == rule.exported) {
                Some(known) => reader.merge(known, rule),
                None => rules.push(rule),
            }
        }
        let generation = object.metadata.generation;
        let verdict = Verdict { generation, findings: reader.findings, ..Verdict::default() };
        destinations.verdicts.insert(key.clone(), verdict);
    }
    destinations
}

struct Reader<'a> {
    catalog: Catalog<'a>,
    namespace: &'a str,
    /// By how many thousandths of a standard deviation an endpoint may fail more often than the others.
    deviations: Option<u32>,
    /// Whether there is anything that they are about.
    compares: bool,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn find(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.findings.push(Finding { field: field.into(), message: message.into(), class: Class::Different });
    }

    fn notes_unread(&mut self, at: &str, unread: &Unread) {
        for name in unread.keys() {
            self.find(format!("{at}.{name}"), NO_EFFECT);
        }
    }

    fn rule(&mut self, object: &DestinationRule) -> Option<Rule> {
        let spec = &object.spec;
        self.notes_unread("spec", &spec.unread);
        let hosts = match self.hosts(&spec.host) {
            Ok(found) => found,
            Err(wrong) => {
                self.find("spec.host", wrong);
                return None;
            }
        };
        let used =
            spec.traffic_policy.as_ref().map(|policy| self.used("spec.trafficPolicy", policy)).unwrap_or_default();
        let mut subsets = BTreeMap::new();
        for (index, subset) in spec.subsets.iter().enumerate() {
            let at = format!("spec.subsets[{index}]");
            self.notes_unread(&at, &subset.unread);
            if !is_name(&subset.name) {
                self.find(format!("{at}.name"), format!("{:?} is no name; it is left out", subset.name));
                continue;
            }
            if matches!(hosts, Hosts::Below(..)) {
                self.find(at, "needs a host without a star; it is left out");
                continue;
            }
            let policy = subset.traffic_policy.as_ref();
            let used = policy.map(|policy| self.used(&format!("{at}.trafficPolicy"), policy)).unwrap_or_default();
            if subsets.insert(subset.name.clone(), Subset { used, labels: subset.labels.clone() }).is_some() {
                self.find(format!("{at}.name"), format!("{:?} is there before; the last one counts", subset.name));
            }
        }
        if let Hosts::One(name) = &hosts {
            let ports = self.catalog.ports_of_tls(name);
            let parts =
                subsets.iter().map(|(name, subset)| (format!("spec.subsets[{name}].trafficPolicy"), &subset.used));
            let all = std::iter::once(("spec.trafficPolicy".to_owned(), &used)).chain(parts);
            let has_waypoint = self.catalog.asks_for_waypoint(name);
            let is_root = self.namespace == self.catalog.settings.root_namespace;
            let elsewhere = self.catalog.waypoint_elsewhere(name).filter(|it| !is_root && *it != self.namespace);
            for (at, used) in all {
                let mut policies = std::iter::once(&used.policy).chain(used.ports.values());
                if !has_waypoint && policies.any(|policy| matches!(policy.tls, Some(Tls::Begin(_)))) {
                    let message = format!(
                        "{name} has no waypoint: TLS is begun only by clients that route by themselves, and routes that lead there"
                    );
                    self.find(format!("{at}.tls"), message);
                    continue;
                }
                for field in ["clientCertificate", "caCertificates"] {
                    let names_it = |policy: &Policy| match &policy.tls {
                        Some(Tls::Begin(tls)) if field == "clientCertificate" => tls.own.is_some(),
                        Some(Tls::Begin(tls)) => tls.roots.is_some(),
                        _ => false,
                    };
                    let mut policies = std::iter::once(&used.policy).chain(used.ports.values());
                    if let Some(other) = elsewhere
                        && policies.any(names_it)
                    {
                        let message = format!(
                            "files in pods of {other}'s waypoints are for rules of {other} and of the mesh's root namespace: {NOTHING}"
                        );
                        self.find(format!("{at}.tls.{field}"), message);
                    }
                }
                let begins = |port: &&u16| matches!(used.at(**port).tls, Some(Tls::Begin(_)));
                for port in ports.iter().filter(begins) {
                    let message = format!(
                        "clients speak TLS on port {port}, which goes on inside of another TLS; where they do not, its protocol is TCP or HTTP"
                    );
                    self.find(format!("{at}.tls"), message);
                }
            }
        }
        if self.deviations.is_some() && !self.compares {
            self.find(format!("metadata.annotations[{SUCCESS_RATE}]"), "needs outlierDetection; it has no effect");
        }
        let is_for_all = spec.export_to.is_empty() || spec.export_to.iter().any(|to| to == "*");
        let named = || spec.export_to.iter().map(|to| if to == "." { self.namespace } else { to.as_str() }.to_owned());
        Some(Rule { hosts, exported: (!is_for_all).then(|| named().collect()), used, subsets })
    }

    /// What the annotation says.
    fn deviations(&mut self, object: &DestinationRule) -> Option<u32> {
        let written = object.metadata.annotations.as_ref()?.get(SUCCESS_RATE)?;
        let number = written.trim().parse::<f64>().ok().filter(|number| (0.0..=MAXIMUM_DEVIATIONS).contains(number));
        if number.is_none() {
            let message = format!("{written:?} is no number from 0 to {MAXIMUM_DEVIATIONS}; it has no effect");
            self.find(format!("metadata.annotations[{SUCCESS_RATE}]"), message);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within its range")]
        number.map(|number| (number * 1000.0).round() as u32)
    }

    /// Adds what a younger rule for the same says.
    fn merge(&mut self, known: &mut Rule, rule: Rule) {
        if rule.used != Used::default() {
            if known.used == Used::default() {
                known.used = rule.used;
            } else {
                self.find("spec.trafficPolicy", "an older one for the same host comes first; it has no effect");
            }
        }
        for (name, subset) in rule.subsets {
            match known.subsets.entry(name) {
                Entry::Vacant(place) => drop(place.insert(subset)),
                Entry::Occupied(place) => {
                    let message = format!("an older rule for the same host has {:?}; it is left out", place.key());
                    self.find("spec.subsets", message);
                }
            }
        }
    }

    /// Which services are meant.
    fn hosts(&self, host: &str) -> Result<Hosts, String> {
        if let Some(suffix) = host.strip_prefix('*') {
            let is_suffix = suffix.is_empty() || (suffix.starts_with('.') && text::is_host(suffix));
            let hosts = || Hosts::Below(suffix.len(), suffix.to_ascii_lowercase());
            return is_suffix.then(hosts).ok_or_else(|| format!("{host:?} is no part of a name"));
        }
        if !text::is_host(host) {
            return Err(format!("{host:?} is no name"));
        }
        let is_short = !host.contains('.');
        let full =
            if is_short { hostname(host, self.namespace, self.catalog.settings) } else { host.to_ascii_lowercase() };
        let is_there = self.catalog.has(&full);
        is_there.then(|| Hosts::One(full.clone())).ok_or_else(|| format!("there is no {full}; it has no effect"))
    }

    fn used(&mut self, at: &str, written: &TrafficPolicy) -> Used {
        let whole = self.policy(at, written);
        let mut ports = BTreeMap::new();
        for (index, port) in written.port_level_settings.iter().enumerate() {
            let at = format!("{at}.portLevelSettings[{index}]");
            self.notes_unread(&format!("{at}.port"), &port.port.unread);
            let mut policy = self.policy(&at, &port.policy);
            // Ports have none of their own.
            policy.retries = policy.retries.or(whole.retries);
            if port.port.number == 0 || ports.insert(port.port.number, policy).is_some() {
                self.find(format!("{at}.port"), "is missing, or there before; the last one counts");
            }
        }
        Used { policy: whole, ports }
    }

    fn policy(&mut self, at: &str, written: &TrafficPolicy) -> Policy {
        self.notes_unread(at, &written.unread);
        let fails_over = written.load_balancer.as_ref().and_then(|it| it.locality_lb_setting.as_ref());
        let fails_over = fails_over.filter(|it| !it.failover.is_empty() || !it.failover_priority.is_empty());
        if fails_over.is_some() && written.outlier_detection.is_none() {
            let field = format!("{at}.loadBalancer.localityLbSetting");
            let without = "without which nobody fails over; where this policy has none it has no effect";
            self.find(field, format!("needs outlierDetection, {without}"));
        }
        Policy {
            pool: written.connection_pool.as_ref().map(|pool| self.pool(&format!("{at}.connectionPool"), pool)),
            balancing: written.load_balancer.as_ref().map(|it| self.balancing(&format!("{at}.loadBalancer"), it)),
            outliers: written.outlier_detection.as_ref().map(|it| self.outliers(&format!("{at}.outlierDetection"), it)),
            retries: written.retry_budget.as_ref().map(|it| self.retries(&format!("{at}.retryBudget"), it)),
            tls: written.tls.as_ref().map(|tls| self.tls(&format!("{at}.tls"), tls)),
        }
    }

    /// The mesh encrypts by itself, whatever is said; with those outside of it, TLS is begun where it is asked for.
    fn tls(&mut self, at: &str, written: &WrittenTls) -> Tls {
        if written.mode.is_none() && written.unread.keys().any(|name| name != WIDENING) {
            // It may be the mode that is misspelt; what was to be encrypted is not sent in clear text.
            self.can_leave_out(at, &written.unread);
            return Tls::Begin(Origination::with_nobody(FIELD));
        }
        match written.mode.as_deref() {
            None | Some("DISABLE" | "ISTIO_MUTUAL") => {
                self.notes_unread(at, &written.unread);
                let said = [
                    ("sni", written.sni.is_some()),
                    ("subjectAltNames", !written.subject_alt_names.is_empty()),
                    ("caCertificates", written.ca_certificates.is_some()),
                    ("clientCertificate", written.client_certificate.is_some()),
                    ("privateKey", written.private_key.is_some()),
                ];
                for (name, _) in said.into_iter().filter(|(_, is_said)| *is_said) {
                    self.find(format!("{at}.{name}"), "needs the mode SIMPLE or MUTUAL; it has no effect");
                }
                Tls::Off
            }
            Some(mode @ ("SIMPLE" | "MUTUAL")) => Tls::Begin(self.origination(at, mode == "MUTUAL", written)),
            Some(mode) => {
                // What was to be encrypted is not sent in clear text (docs/adr/0035-names-at-waypoints.md).
                self.find(format!("{at}.mode"), format!("{mode} is not supported: {NOTHING}"));
                Tls::Begin(Origination::with_nobody(MODE))
            }
        }
    }

    /// Says what of TLS is not read, and whether the rest can be done without it.
    fn can_leave_out(&mut self, at: &str, unread: &Unread) -> bool {
        for name in unread.keys() {
            let message = match name.as_str() {
                WIDENING => NO_EFFECT.to_owned(),
                name if name == CREDENTIAL.0 => format!("is not supported: {NOTHING}{}", CREDENTIAL.1),
                _ => format!("is not supported: {NOTHING}"),
            };
            self.find(format!("{at}.{name}"), message);
        }
        unread.keys().all(|name| name == WIDENING)
    }

    fn origination(&mut self, at: &str, is_mutual: bool, written: &WrittenTls) -> Origination {
        let mut is_understood = self.can_leave_out(at, &written.unread);
        let is_usable = |name: &String| text::is_host(name);
        for (index, name) in written.subject_alt_names.iter().enumerate().filter(|(_, name)| !is_usable(name)) {
            // Certificates without a name that is wanted are refused, so that no wider one is believed.
            let message = format!("{name:?} is no host's name, which is what is compared; no certificate has it");
            self.find(format!("{at}.subjectAltNames[{index}]"), message);
        }
        if let Some(name) = written.sni.as_ref().filter(|name| !is_usable(name)) {
            self.find(format!("{at}.sni"), format!("{name:?} is no host's name; no connection can be opened"));
        }
        let files = [("clientCertificate", &written.client_certificate), ("privateKey", &written.private_key)];
        let files = files.map(|(field, path)| (field, path.clone().filter(|path| !path.is_empty())));
        let own = match files {
            [(_, Some(chain)), (_, Some(key))] if is_mutual => {
                Some(OwnCertificate { chain, key, namespace: self.namespace.to_owned() })
            }
            files => {
                for (field, path) in files {
                    if is_mutual && path.is_none() {
                        is_understood = false;
                        let message =
                            format!("is missing, a file in the waypoint's pod, which MUTUAL needs: {NOTHING}");
                        self.find(format!("{at}.{field}"), message);
                    } else if !is_mutual && path.is_some() {
                        self.find(format!("{at}.{field}"), "needs the mode MUTUAL; it has no effect");
                    }
                }
                None
            }
        };
        if !is_understood {
            return Origination::with_nobody(FIELD);
        }
        let roots = written.ca_certificates.clone().filter(|roots| !roots.is_empty() && roots != SYSTEM_ROOTS);
        Origination {
            server_name: written.sni.clone().filter(|name| !name.is_empty()),
            names: written.subject_alt_names.clone(),
            roots: roots.map(|file| Roots { file, namespace: self.namespace.to_owned() }),
            own,
        }
    }

    fn pool(&mut self, at: &str, written: &ConnectionPool) -> Pool {
        self.notes_unread(at, &written.unread);
        let (no_tcp, no_http) = (TcpSettings::default(), HttpSettings::default());
        let (tcp, http) = (written.tcp.as_ref().unwrap_or(&no_tcp), written.http.as_ref().unwrap_or(&no_http));
        let (at_tcp, at_http) = (format!("{at}.tcp"), format!("{at}.http"));
        self.notes_unread(&at_tcp, &tcp.unread);
        self.notes_unread(&at_http, &http.unread);
        if let Some(probes) = &tcp.tcp_keepalive {
            self.notes_unread(&format!("{at_tcp}.tcpKeepalive"), &probes.unread);
        }
        let keepalive = tcp.tcp_keepalive.as_ref().map(|written| Keepalive {
            probes: written.probes,
            time: self.time(&format!("{at_tcp}.tcpKeepalive.time"), written.time.as_deref()),
            interval: self.time(&format!("{at_tcp}.tcpKeepalive.interval"), written.interval.as_deref()),
        });
        let some = |bound: Option<u32>| bound.filter(|bound| *bound > 0);
        Pool {
            connect_timeout: self.time(&format!("{at_tcp}.connectTimeout"), tcp.connect_timeout.as_deref()),
            keepalive,
            connections: some(tcp.max_connections),
            waiting: some(http.http1_max_pending_requests),
            requests: some(http.http2_max_requests),
            retries: http.max_retries,
            requests_per_connection: some(http.max_requests_per_connection),
            life: self.time(&format!("{at_tcp}.maxConnectionDuration"), tcp.max_connection_duration.as_deref()),
            idle: self.time(&format!("{at_tcp}.idleTimeout"), tcp.idle_timeout.as_deref()),
            idle_http: self.time(&format!("{at_http}.idleTimeout"), http.idle_timeout.as_deref()),
        }
    }

    fn balancing(&mut self, at: &str, written: &LoadBalancer) -> Balancing {
        self.notes_unread(at, &written.unread);
        let balancer = self.balancer(at, written);
        let warm_up = self.warm_up(at, written);
        let can_weigh = matches!(balancer, None | Some(Balancer::RoundRobin | Balancer::LeastRequest));
        if warm_up.is_some() && !can_weigh {
            self.find(format!("{at}.warmup"), "needs ROUND_ROBIN or LEAST_REQUEST; it has no effect");
        }
        let locality = written.locality_lb_setting.as_ref();
        let locality = locality.and_then(|it| self.locality(&format!("{at}.localityLbSetting"), it));
        Balancing { balancer, warm_up: warm_up.filter(|_| can_weigh), locality }
    }

    fn locality(&mut self, at: &str, written: &LocalitySetting) -> Option<Locality> {
        self.notes_unread(at, &written.unread);
        for (index, distribution) in written.distribute.iter().enumerate() {
            self.notes_unread(&format!("{at}.distribute[{index}]"), &distribution.unread);
        }
        for (index, failover) in written.failover.iter().enumerate() {
            self.notes_unread(&format!("{at}.failover[{index}]"), &failover.unread);
        }
        if written.enabled == Some(false) {
            return Some(Locality::Off);
        }
        let has = [!written.distribute.is_empty(), !written.failover.is_empty(), !written.failover_priority.is_empty()];
        if has.iter().filter(|has| **has).count() > 1 {
            self.find(at, "needs one of distribute, failover and failoverPriority; it has no effect");
            return None;
        }
        if written.distribute.is_empty() {
            return Some(if written.failover_priority.is_empty() {
                Locality::Near(written.failover.iter().map(|it| (it.from.clone(), it.to.clone())).collect())
            } else {
                Locality::Labels(written.failover_priority.clone())
            });
        }
        let mut shares = Vec::new();
        for (index, distribution) in written.distribute.iter().enumerate() {
            if distribution.to.values().map(|share| u64::from(*share)).sum::<u64>() != 100 {
                self.find(format!("{at}.distribute[{index}].to"), "does not add up to 100; it is left out");
                continue;
            }
            let mut to: Vec<_> = distribution.to.iter().map(|(place, share)| (place.clone(), *share)).collect();
            // What says more comes first, and a star says nothing.
            to.sort_by_key(|(place, _)| Reverse(place.split('/').filter(|part| *part != "*").count()));
            shares.push((distribution.from.clone(), to));
        }
        Some(Locality::Shares(shares))
    }

    fn warm_up(&mut self, at: &str, written: &LoadBalancer) -> Option<WarmUp> {
        let Some(warmup) = &written.warmup else {
            let at = format!("{at}.warmupDurationSecs");
            let window = self.time(&at, written.warmup_duration_secs.as_deref())?;
            return Some(WarmUp { window, ..WARM_UP });
        };
        let at = format!("{at}.warmup");
        self.notes_unread(&at, &warmup.unread);
        let mut number = |field: &str, written: Option<f64>, range: RangeInclusive<f64>, usual: f64| {
            let number = written.unwrap_or(usual);
            if range.contains(&number) {
                return number;
            }
            self.find(
                format!("{at}.{field}"),
                format!("is not from {} to {}; {usual} holds", range.start(), range.end()),
            );
            usual
        };
        let least_percent = number("minimumPercent", warmup.minimum_percent, 0.0..=100.0, WARM_UP.least_percent);
        let aggression = number("aggression", warmup.aggression, 1.0..=MAXIMUM_AGGRESSION, WARM_UP.aggression);
        let at = format!("{at}.duration");
        let Some(written) = warmup.duration.as_deref() else {
            self.find(at, "is missing; it has no effect");
            return None;
        };
        if text::seconds(written).is_some_and(|time| time.is_zero()) {
            self.find(&at, "is zero; it has no effect");
        }
        let window = self.time(&at, Some(written))?;
        Some(WarmUp { window, aggression, least_percent })
    }

    fn balancer(&mut self, at: &str, written: &LoadBalancer) -> Option<Balancer> {
        if let Some(hash) = &written.consistent_hash {
            return self.hash(&format!("{at}.consistentHash"), hash);
        }
        match written.simple.as_deref()? {
            "ROUND_ROBIN" => Some(Balancer::RoundRobin),
            "LEAST_REQUEST" | "LEAST_CONN" => Some(Balancer::LeastRequest),
            "RANDOM" => Some(Balancer::Random),
            "UNSPECIFIED" => None,
            other => {
                self.find(format!("{at}.simple"), format!("{other:?} {NO_EFFECT}"));
                None
            }
        }
    }

    fn hash(&mut self, at: &str, written: &ConsistentHash) -> Option<Balancer> {
        self.notes_unread(at, &written.unread);
        let name = |name: &String| text::is_header_name(name).then(|| name.clone());
        let key = match (&written.http_header_name, &written.http_cookie, &written.http_query_parameter_name) {
            (Some(header), None, None) if !written.use_source_ip => {
                name(header).map(|name| Key::Header(name.to_ascii_lowercase()))
            }
            (None, Some(cookie), None) if !written.use_source_ip => {
                self.notes_unread(&format!("{at}.httpCookie"), &cookie.unread);
                let path = cookie.path.clone().filter(|path| text::is_path(path)).unwrap_or_default();
                let ttl = cookie.ttl.as_deref().and_then(|written| {
                    let ttl = text::seconds(written);
                    if ttl.is_none() {
                        self.find(format!("{at}.httpCookie.ttl"), format!("{written:?} is no duration; none is set"));
                    }
                    ttl
                });
                name(&cookie.name).map(|name| Key::Cookie { name, path, ttl })
            }
            (None, None, Some(parameter)) if !written.use_source_ip => name(parameter).map(Key::Parameter),
            (None, None, None) if written.use_source_ip => Some(Key::Source),
            _ => None,
        };
        let Some(key) = key else {
            self.find(at, "needs one of a header, a cookie, a parameter and the source, by a name; it has no effect");
            return None;
        };
        if let Some(ring) = &written.ring_hash {
            self.notes_unread(&format!("{at}.ringHash"), &ring.unread);
        }
        if let Some(table) = &written.maglev {
            self.notes_unread(&format!("{at}.maglev"), &table.unread);
            let size = table.table_size.filter(|size| {
                let can_be = *size <= MAXIMUM_TABLE && is_prime(*size);
                if !can_be {
                    let message = format!("{size} is no prime number up to {MAXIMUM_TABLE}; it has no effect");
                    self.find(format!("{at}.maglev.tableSize"), message);
                }
                can_be
            });
            return Some(Balancer::Table(key, size));
        }
        let size = written.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size).or(written.minimum_ring_size);
        if size.is_some_and(|size| size > MAXIMUM_RING) {
            self.find(format!("{at}.ringHash.minimumRingSize"), format!("is above {MAXIMUM_RING}, which it is"));
        }
        Some(Balancer::Ring(key, size.map(|size| size.min(MAXIMUM_RING))))
    }

    fn outliers(&mut self, at: &str, written: &OutlierDetection) -> Outliers {
        self.notes_unread(at, &written.unread);
        self.compares = true;
        let mut percent = |field: &str, value: Option<u32>| {
            if value.is_some_and(|value| value > 100) {
                self.find(format!("{at}.{field}"), "is above 100, which it is");
            }
            value.map(|value| value.min(100))
        };
        let most = percent("maxEjectionPercent", written.max_ejection_percent);
        let least_left = percent("minHealthPercent", written.min_health_percent).unwrap_or(0);
        Outliers {
            errors: written.consecutive_5xx_errors.or(written.consecutive_errors),
            gateway_errors: written.consecutive_gateway_errors,
            is_split: written.split_external_local_origin_errors,
            local_errors: written.consecutive_local_origin_failures,
            interval: self.time(&format!("{at}.interval"), written.interval.as_deref()),
            time: self.time(&format!("{at}.baseEjectionTime"), written.base_ejection_time.as_deref()),
            most,
            least_left,
            deviations: self.deviations,
        }
    }

    fn retries(&mut self, at: &str, written: &WrittenBudget) -> RetryBudget {
        self.notes_unread(at, &written.unread);
        let percent = written.percent.unwrap_or(RETRIES.percent);
        if !(0.0..=100.0).contains(&percent) {
            self.find(format!("{at}.percent"), format!("is not from 0 to 100; {} holds", RETRIES.percent));
        }
        let percent = if (0.0..=100.0).contains(&percent) { percent } else { RETRIES.percent };
        RetryBudget { percent, least: written.min_retry_concurrency.unwrap_or(RETRIES.least) }
    }

    /// A duration above zero.
    fn time(&mut self, at: &str, written: Option<&str>) -> Option<Duration> {
        let written = written?;
        let time = text::seconds(written);
        if time.is_none() {
            self.find(at, format!("{written:?} is no duration; it has no effect; write for example 1m30s or 250ms"));
        }
        time.filter(|time| !time.is_zero())
    }
}

/// Whether routes and names of clusters can have it.
fn is_name(name: &str) -> bool {
    text::is_host(name) && name.len() <= 63
}

/// Up to [`MAXIMUM_TABLE`] this divides some thousand times.
fn is_prime(number: u64) -> bool {
    let divisors = 2..=number.isqrt();
    number >= 2 && divisors.into_iter().all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_a_prime_number_of_places() {
        for prime in [2, 3, 65537, 5_000_011] {
            assert!(is_prime(prime), "{prime}");
        }
        for other in [0, 1, 4, 65536, 65535] {
            assert!(!is_prime(other), "{other}");
        }
    }

    #[test]
    fn tls_that_is_not_understood_comes_about_with_nobody() {
        let (objects, settings, destinations) = (Objects::default(), Settings::default(), Destinations::default());
        let catalog = Catalog { objects: &objects, settings: &settings, destinations: &destinations };
        let begun = || Tls::Begin(Origination::default());
        let nobody = |why: &str| Tls::Begin(Origination::with_nobody(why));
        for (text, expected) in [
            (r#"{"mode": "SIMPLE"}"#, begun()),
            (r#"{"mode": "SIMPLE", "insecureSkipVerify": true}"#, begun()),
            (r#"{"mode": "SIMPLE", "caCertificate": "/roots.pem"}"#, nobody(FIELD)),
            (r#"{"mode": "SIMPLE", "subjectAltName": ["a.example"]}"#, nobody(FIELD)),
            (r#"{"mode": "SIMPLE", "caCrl": "/crl.pem", "insecureSkipVerify": true}"#, nobody(FIELD)),
            (r#"{"mode": "MUTUAL", "credentialName": "c"}"#, nobody(FIELD)),
            (r#"{"mode": "SIMPEL"}"#, nobody(MODE)),
            (r#"{"mod": "MUTUAL"}"#, nobody(FIELD)),
            (r#"{"Mode": "SIMPLE", "sni": "a.example"}"#, nobody(FIELD)),
            (r#"{"insecureSkipVerify": true}"#, Tls::Off),
            (r#"{"mode": "DISABLE", "caCertificate": "/roots.pem"}"#, Tls::Off),
            ("{}", Tls::Off),
        ] {
            let written: WrittenTls = serde_json::from_str(text).unwrap();
            let mut reader =
                Reader { catalog, namespace: "shop", deviations: None, compares: false, findings: Vec::new() };
            assert_eq!(reader.tls("tls", &written), expected, "{text}");
            for name in written.unread.keys() {
                let field = format!("tls.{name}");
                assert!(reader.findings.iter().any(|finding| finding.field == field), "{text}: {field} is not told");
            }
        }
    }
}
