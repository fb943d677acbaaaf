//! What VirtualServices do with connections (api-surface A8.3), for one port of one service.

use fairway_core::source::ObjectKey;
use fairway_core::source::istio_traffic::TrafficStream;

use super::super::catalog::Unit;
use super::super::model::{Stream, Target};
use super::{LEFT_OUT, Reader};

impl Reader<'_> {
    /// Reads one rule of `route`, as it is for connections to `target`; nothing where none of its matches is for that.
    pub(in super::super) fn traffic_stream(
        &mut self,
        route: &ObjectKey,
        at: &str,
        is_tls: bool,
        written: &TrafficStream,
        target: &Target,
    ) -> Option<Stream> {
        let can_do = self.reads_all(at, &written.unread, "connections are closed");
        let mut servers = Vec::new();
        let mut is_meant = written.matches.is_empty() && !is_tls;
        for (index, matching) in written.matches.iter().enumerate() {
            let at = format!("{at}.match[{index}]");
            let mut unread = matching.unread.clone();
            unread.retain(|name, _| name != "gateways");
            let is_here = matching.port.is_none_or(|port| port == target.port);
            if !self.reads_all(&at, &unread, LEFT_OUT) || !is_here {
                continue;
            }
            for (place, name) in matching.sni_hosts.iter().enumerate().filter(|_| is_tls) {
                servers.extend(self.server(&format!("{at}.sniHosts[{place}]"), name));
            }
            is_meant |= !is_tls || !servers.is_empty();
        }
        let mut shares = Vec::new();
        let is_single = written.route.len() == 1;
        for (index, share) in written.route.iter().enumerate() {
            let at = format!("{at}.route[{index}].destination");
            let closed = "its share of connections is closed";
            let found = self.destination(&at, &share.destination, target, Unit::Connection, closed);
            let weight = if is_single && share.weight == 0 { 1 } else { share.weight };
            shares.extend((weight > 0).then_some((weight, found)));
        }
        if shares.is_empty() || !can_do {
            shares = vec![(1, None)];
        }
        is_meant.then(|| Stream { route: route.clone(), name: String::new(), servers, shares })
    }
}
