//! Who is believed about where requests come from. Envoy believes everybody, so this is said where it does not look.

use fairway_proto::envoy::listener::Listener;

use super::super::proxies::Proxies;
use super::metrics::{list, object, text};

/// By this name waypoints find it.
const NAME: &str = "dev.fairway.trusted_proxies";

/// Has the listener say it, where it matters.
pub(super) fn say(listener: &mut Listener, proxies: &Proxies) {
    if proxies.hops > 0 {
        let said = object([("principals", list(proxies.trusted.iter().map(|identity| text(identity))))]);
        listener.metadata.get_or_insert_default().filter_metadata.insert(NAME.to_owned(), said);
    }
}
