//! The headers a tunnel request carries: who the client is. All but what a waypoint says of its client is for telemetry only
//! (interop §1.2, §1.3; ADR 0043).

use std::net::SocketAddr;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, header};

use crate::addr::canonical;
use crate::facts::Original;
use crate::ident::Identity;
use crate::reason::Reason;
use crate::workload::Workload;

/// `baggage`: a workload describes itself to the other end.
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// `traceparent`: W3C trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// `x-forwarded-client-cert`: a waypoint says whom its client has proved to be, in Envoy's words.
pub const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// `x-forwarded-network`: the network a tunnel through a gateway began in.
pub const FORWARDED_NETWORK: HeaderName = HeaderName::from_static("x-forwarded-network");

/// `proxy-status`: why a proxy refused (RFC 9209).
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Longest baggage we read, in bytes; W3C Baggage §3.3.2 has producers stay under it.
const BAGGAGE_MAX: usize = 8192;

/// What a peer says of itself. Untrusted: good for labels, never for decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`
    pub cluster: Option<String>,
    /// `k8s.namespace.name`
    pub namespace: Option<String>,
    /// `deployment`, `cronjob`, `pod` or `job`, with the workload's name from `k8s.<type>.name`.
    pub workload: Option<(String, String)>,
    /// `service.name`, the canonical name.
    pub service: Option<String>,
    /// `service.version`, the canonical revision.
    pub version: Option<String>,
    /// `cloud.region`
    pub region: Option<String>,
    /// `cloud.availability_zone`
    pub zone: Option<String>,
}

const WORKLOAD_TYPES: [&str; 4] = ["deployment", "cronjob", "pod", "job"];

impl Baggage {
    /// What `workload` says of itself.
    #[must_use]
    pub fn of(workload: &Workload) -> Self {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let kind = workload.workload_type.as_str().to_ascii_lowercase();
        Self {
            cluster: some(&workload.cluster_id),
            namespace: some(workload.namespace()),
            workload: some(&workload.workload_name).map(|name| (kind, name)),
            service: some(&workload.canonical_name),
            version: some(&workload.canonical_revision),
            region: some(&workload.locality.region),
            zone: some(&workload.locality.zone),
        }
    }

    /// Reads every `baggage` line; unknown keys and empty values count as absent.
    #[must_use]
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut baggage = Self::default();
        let lines = headers.get_all(BAGGAGE).iter().filter(|line| line.len() <= BAGGAGE_MAX);
        for member in lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')) {
            let mut parts = member.split('=');
            if let (Some(key), Some(value)) = (parts.next(), parts.next())
                && !value.is_empty()
            {
                baggage.set(key, value);
            }
        }
        baggage
    }

    fn set(&mut self, key: &str, value: &str) {
        let value = value.to_owned();
        match key {
            "k8s.cluster.name" => self.cluster = Some(value),
            "k8s.namespace.name" => self.namespace = Some(value),
            "service.name" => self.service = Some(value),
            "service.version" => self.version = Some(value),
            "cloud.region" => self.region = Some(value),
            "cloud.availability_zone" => self.zone = Some(value),
            other => {
                let kind = other.strip_prefix("k8s.").and_then(|rest| rest.strip_suffix(".name"));
                if let Some(kind) = kind.filter(|kind| WORKLOAD_TYPES.contains(kind)) {
                    self.workload = Some((kind.to_owned(), value));
                }
            }
        }
    }

    /// The header line, or `None` when there is nothing to say or it cannot be said in a header.
    #[must_use]
    pub fn to_value(&self) -> Option<HeaderValue> {
        let workload = self.workload.as_ref().map(|(kind, name)| (format!("k8s.{kind}.name"), name));
        let members = [
            self.cluster.as_ref().map(|value| ("k8s.cluster.name".to_owned(), value)),
            self.namespace.as_ref().map(|value| ("k8s.namespace.name".to_owned(), value)),
            workload,
            self.service.as_ref().map(|value| ("service.name".to_owned(), value)),
            self.version.as_ref().map(|value| ("service.version".to_owned(), value)),
            self.region.as_ref().map(|value| ("cloud.region".to_owned(), value)),
            self.zone.as_ref().map(|value| ("cloud.availability_zone".to_owned(), value)),
        ];
        let line: Vec<_> = members.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        if line.is_empty() {
            return None;
        }
        HeaderValue::try_from(line.join(",")).ok()
    }
}

/// The `forwarded` line: the client's address, and the service it meant when that is known (RFC 7239 §4).
#[must_use]
pub fn forwarded(client: SocketAddr, service: Option<&str>) -> Option<HeaderValue> {
    let line = match service {
        Some(host) => format!("for=\"{client}\";host={host}"),
        None => format!("for=\"{client}\""),
    };
    HeaderValue::try_from(line).ok()
}

/// The `x-forwarded-client-cert` line: `client` has proved to `by` who it is. Identities have no character that would need quotes.
#[must_use]
pub fn client_certificate(by: &Identity, client: &Identity) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("By={by};URI={client}")).ok()
}

/// The client that `by` says it speaks for: who it is by [`client_certificate`], and where by [`forwarded`]. What is not written
/// just as these write it, is missing, or comes more than once says nothing. Whether `by` is to be believed is not decided here.
#[must_use]
pub fn original(headers: &HeaderMap, by: &Identity) -> Option<Original> {
    let (said, client) = only(headers, &CLIENT_CERTIFICATE)?.strip_prefix("By=")?.split_once(";URI=")?;
    let (address, rest) = only(headers, &header::FORWARDED)?.strip_prefix("for=\"")?.split_once('"')?;
    if said != by.as_str() || !(rest.is_empty() || rest.starts_with(';')) {
        return None;
    }
    Some(Original { identity: client.parse().ok()?, address: canonical(address.parse().ok()?) })
}

/// The text of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next()?.to_str().ok()?;
    lines.next().is_none().then_some(line)
}

/// The service named by a `forwarded` line.
#[must_use]
pub fn forwarded_host(headers: &HeaderMap) -> Option<&str> {
    let line = headers.get(header::FORWARDED)?.to_str().ok()?;
    let host = line.split(';').find_map(|part| part.trim().strip_prefix("host="))?;
    Some(host.trim_matches('"')).filter(|host| !host.is_empty())
}

/// The `proxy-status` line of an answer of our own (RFC 9209 §2): the nearest standard error type of a refusal, and our own
/// reason as its details. Names of policies stay at home.
#[must_use]
pub fn proxy_status(reason: Reason) -> Option<HeaderValue> {
    let line = match reason {
        // Somebody has to say it, and nothing went wrong.
        Reason::RouteAnswered => format!("fairway; details=\"{}\"", reason.label()),
        reason => format!("fairway; error={}; details=\"{}\"", reason.proxy_error(), reason.label()),
    };
    HeaderValue::try_from(line).ok()
}

/// The reason in a `proxy-status` line, where the peer is a proxy of ours. Proxies of others have words of their own.
#[must_use]
pub fn proxy_status_reason(headers: &HeaderMap) -> Option<Reason> {
    let line = headers.get(PROXY_STATUS)?.to_str().ok()?;
    let mut parameters = line.split(';').map(str::trim);
    if parameters.next() != Some("fairway") {
        return None;
    }
    let details = parameters.find_map(|parameter| parameter.strip_prefix("details="))?;
    Reason::from_label(details.trim_matches('"'))
}

/// A fresh W3C trace context from random bits, not sampled.
#[must_use]
pub fn traceparent(trace: u128, span: u64) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("00-{trace:032x}-{span:016x}-00")).ok()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::identity;

    fn one(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn baggage_goes_both_ways() {
        let baggage = Baggage {
            cluster: Some("Kubernetes".into()),
            namespace: Some("shop".into()),
            workload: Some(("deployment".into(), "cart".into())),
            service: Some("cart".into()),
            version: Some("v1".into()),
            region: Some("r1".into()),
            zone: Some("z1".into()),
        };
        let value = baggage.to_value().unwrap();
        let wanted = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,service.name=cart,\
                      service.version=v1,cloud.region=r1,cloud.availability_zone=z1";
        assert_eq!(value, wanted);
        assert_eq!(Baggage::parse(&HeaderMap::from_iter([(BAGGAGE, value)])), baggage);
    }

    #[test]
    fn odd_baggage_is_tolerated() {
        let odd =
            Baggage::parse(&one(BAGGAGE, "k8s.namespace.name=a=b,,=,x,service.name=,k8s.evil.name=y, k8s.job.name=z"));
        assert_eq!(odd, Baggage { namespace: Some("a".into()), ..Baggage::default() });
        let long = format!("k8s.namespace.name={}", "a".repeat(BAGGAGE_MAX));
        assert_eq!(Baggage::parse(&one(BAGGAGE, &long)), Baggage::default());
        assert_eq!(Baggage::default().to_value(), None);
    }

    #[test]
    fn forwarded_names_client_and_service() {
        let client = "[fd00::1]:7".parse().unwrap();
        let line = forwarded(client, Some("cart.shop.svc.cluster.local")).unwrap();
        assert_eq!(line, "for=\"[fd00::1]:7\";host=cart.shop.svc.cluster.local");
        let headers = HeaderMap::from_iter([(header::FORWARDED, line)]);
        assert_eq!(forwarded_host(&headers), Some("cart.shop.svc.cluster.local"));
        assert_eq!(
            forwarded_host(&HeaderMap::from_iter([(header::FORWARDED, forwarded(client, None).unwrap())])),
            None
        );
    }

    fn spoken_for(client: &str, address: &str) -> HeaderMap {
        let (by, client) = (identity("shop", "way"), client.parse().unwrap());
        let address = forwarded(address.parse().unwrap(), Some("cart.shop.svc.cluster.local"));
        HeaderMap::from_iter([
            (CLIENT_CERTIFICATE, client_certificate(&by, &client).unwrap()),
            (header::FORWARDED, address.unwrap()),
        ])
    }

    #[test]
    fn whom_a_waypoint_speaks_for_is_said_in_one_way_only() {
        let way = identity("shop", "way");
        let client = "spiffe://cluster.local/ns/shop/sa/client";
        let said = spoken_for(client, "10.0.0.1:7");
        let line = "By=spiffe://cluster.local/ns/shop/sa/way;URI=spiffe://cluster.local/ns/shop/sa/client";
        assert_eq!(said[CLIENT_CERTIFICATE], line);
        let expected = Original { identity: client.parse().unwrap(), address: "10.0.0.1:7".parse().unwrap() };
        assert_eq!(original(&said, &way), Some(expected));
        assert_eq!(original(&said, &identity("shop", "client")), None, "who says it is not who came");
        let with = |name: HeaderName, value: &str| {
            let mut headers = said.clone();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            headers
        };
        for value in [
            "",
            "URI=spiffe://cluster.local/ns/shop/sa/client",
            "By=spiffe://cluster.local/ns/shop/sa/way",
            "By=spiffe://cluster.local/ns/shop/sa/way;URI=",
            "By=spiffe://cluster.local/ns/shop/sa/way;URI=spiffe://cluster.local/ns/shop",
            "By=spiffe://cluster.local/ns/shop/sa/way;Hash=00;URI=spiffe://cluster.local/ns/shop/sa/client",
            "By=spiffe://cluster.local/ns/shop/sa/way;URI=\"spiffe://cluster.local/ns/shop/sa/client\"",
            &format!("{line};URI=spiffe://cluster.local/ns/shop/sa/admin"),
            &format!("{line},{line}"),
            &format!(" x{line}"),
        ] {
            assert_eq!(original(&with(CLIENT_CERTIFICATE, value), &way), None, "{value}");
        }
        for value in ["", "for=10.0.0.1", "for=\"10.0.0.1\"", "for=\"10.0.0.1:7\"x", "for=\"10.0.0.1:7", "host=a"] {
            assert_eq!(original(&with(header::FORWARDED, value), &way), None, "{value}");
        }
        for name in [CLIENT_CERTIFICATE, header::FORWARDED] {
            let mut twice = said.clone();
            twice.append(&name, said[&name].clone());
            assert_eq!(original(&twice, &way), None, "{name} twice");
            let mut without = said.clone();
            without.remove(&name);
            assert_eq!(original(&without, &way), None, "without {name}");
        }
    }

    proptest! {
        #[test]
        fn whom_a_waypoint_speaks_for_goes_both_ways(
            domain in "[a-z0-9._-]{1,20}", namespace in "[A-Za-z0-9._-]{1,20}", account in "[A-Za-z0-9._-]{1,20}",
            ip: IpAddr, port: u16,
        ) {
            let client = Identity::new(&domain, &namespace, &account);
            prop_assume!(client.is_ok());
            let (client, address) = (client.unwrap(), SocketAddr::new(ip, port));
            let said = spoken_for(client.as_str(), &address.to_string());
            let expected = Original { identity: client, address: canonical(address) };
            prop_assert_eq!(original(&said, &identity("shop", "way")), Some(expected));
        }
    }

    #[test]
    fn a_refusal_says_why_in_standard_words_and_in_ours() {
        let line = proxy_status(Reason::PolicyDenied).unwrap();
        assert_eq!(line, "fairway; error=http_request_denied; details=\"policy_denied\"");
        for reason in Reason::ALL.iter().copied() {
            let headers = HeaderMap::from_iter([(PROXY_STATUS, proxy_status(reason).unwrap())]);
            assert_eq!(proxy_status_reason(&headers), Some(reason));
        }
        for foreign in
            ["envoy; error=connection_refused", "fairway; error=x", "fairway; details=\"no such reason\"", ""]
        {
            assert_eq!(proxy_status_reason(&one(PROXY_STATUS, foreign)), None, "{foreign}");
        }
    }

    #[test]
    fn trace_context_has_the_right_shape() {
        assert_eq!(traceparent(1, 2).unwrap(), "00-00000000000000000000000000000001-0000000000000002-00");
    }
}
