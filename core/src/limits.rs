//! Every bound of the proxies in one table: name, unit, default, range and the reason for it.

mod values;

use std::{ops::RangeInclusive, time::Duration};

pub use self::values::{Conflict, Limits};

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Thousandths of a second.
    Milliseconds,
    /// Eight bits each.
    Bytes,
    /// Things.
    Count,
}

impl Unit {
    /// The unit as the reference page prints it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Bytes => "bytes",
            Self::Count => "count",
        }
    }
}

/// One bound.
#[derive(Debug, PartialEq, Eq)]
pub struct Limit {
    /// Place in [`ALL`].
    index: usize,
    /// Stable name, in snake case.
    pub name: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// What holds unless it is set.
    pub default: u64,
    /// The smallest value that can be set.
    pub minimum: u64,
    /// The largest value that can be set.
    pub maximum: u64,
    /// Environment variable that sets it, in a proxy; none when it is fixed by a contract, or the agent's.
    pub variable: Option<&'static str>,
    /// Why there is such a bound, and why this value.
    pub why: &'static str,
}

/// A value outside a limit's range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value}; it must be {minimum} to {maximum} {unit}", unit = .unit.as_str())]
pub struct OutOfRange {
    /// The limit.
    pub name: &'static str,
    /// The value given.
    pub value: u64,
    /// The smallest value that can be set.
    pub minimum: u64,
    /// The largest value that can be set.
    pub maximum: u64,
    /// What it counts.
    pub unit: Unit,
}

impl Limit {
    /// The default as a duration; meant for limits in milliseconds.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        Duration::from_millis(self.default)
    }

    /// The default as a size or number of things in memory.
    #[must_use]
    pub fn size(&self) -> usize {
        usize::try_from(self.default).unwrap_or(usize::MAX)
    }

    /// The default as a number that fits HTTP/2 settings.
    #[must_use]
    pub fn number(&self) -> u32 {
        u32::try_from(self.default).unwrap_or(u32::MAX)
    }

    /// Takes a value that was set, if it is in range.
    ///
    /// # Errors
    /// [`OutOfRange`] names the limit and the range.
    pub fn check(&self, value: u64) -> Result<u64, OutOfRange> {
        let Self { name, unit, minimum, maximum, .. } = *self;
        if (minimum..=maximum).contains(&value) {
            Ok(value)
        } else {
            Err(OutOfRange { name, value, minimum, maximum, unit })
        }
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// The lower end of a range, in a form that constants can use.
const fn low(range: &RangeInclusive<u64>) -> u64 {
    *range.start()
}

/// The upper end of a range, in a form that constants can use.
const fn high(range: &RangeInclusive<u64>) -> u64 {
    *range.end()
}

macro_rules! limits {
    ($($(#[doc = $why:literal])+ $constant:ident, $name:literal, $unit:ident, $default:expr, $range:expr, $variable:expr;)+) => {
        $(
            $(#[doc = $why])+
            pub const $constant: Limit = Limit {
                index: Position::$constant as usize, name: $name, unit: Unit::$unit, default: $default, minimum: low(&$range), maximum: high(&$range),
                variable: $variable, why: concat!($($why,)+).trim_ascii(),
            };
            // A default outside its own range does not compile.
            const _: () = assert!($constant.minimum <= $constant.default && $constant.default <= $constant.maximum);
        )+
        /// The limits' places in [`ALL`].
        #[expect(non_camel_case_types, reason = "named like the constants")]
        enum Position { $($constant,)+ }
        /// Every limit, in the order of the reference page.
        pub const ALL: &[&Limit] = &[$(&$constant,)+];
    };
}

limits! {
    /// Connecting to an application, a tunnel or a plain destination; the same as Istio's, so that mixed meshes fail alike.
    CONNECT_TIMEOUT, "connect_timeout", Milliseconds, 10 * SECOND, 100..=10 * MINUTE, Some("CONNECT_TIMEOUT");
    /// A TLS handshake costs two round trips; a peer that needs longer is stuck or hostile.
    TLS_HANDSHAKE_TIMEOUT, "tls_handshake_timeout", Milliseconds, 10 * SECOND, 100..=10 * MINUTE, Some("TLS_HANDSHAKE_TIMEOUT");
    /// The first frames of a tunnel; past it the peer holds memory and gives nothing.
    HTTP2_HANDSHAKE_TIMEOUT, "http2_handshake_timeout", Milliseconds, 10 * SECOND, 100..=10 * MINUTE, Some("HTTP2_HANDSHAKE_TIMEOUT");
    /// The answer to a CONNECT, which the peer gives only after connecting to its application: its connect timeout and some travel.
    CONNECT_RESPONSE_TIMEOUT, "connect_response_timeout", Milliseconds, 15 * SECOND, 100..=10 * MINUTE, Some("CONNECT_RESPONSE_TIMEOUT");
    /// A new pod's traffic may arrive before the controller has announced the pod; it waits this long and is refused then.
    WORKLOAD_WAIT, "workload_wait", Milliseconds, 5 * SECOND, 0..=MINUTE, Some("WORKLOAD_WAIT");
    /// A connection waits this long for the workload's first certificate.
    CERTIFICATE_WAIT, "certificate_wait", Milliseconds, 10 * SECOND, 0..=MINUTE, Some("CERTIFICATE_WAIT");

    /// Streams of one pooled tunnel; another tunnel is dialled beyond, so that one lost packet delays no more than these.
    POOL_MAX_STREAMS, "pool_max_streams_per_connection", Count, 100, 1..=65_535, Some("POOL_MAX_STREAMS_PER_CONNECTION");
    /// An unused tunnel is closed after this, so that idle pairs of pods cost nothing.
    POOL_IDLE_TIMEOUT, "pool_unused_release_timeout", Milliseconds, 5 * MINUTE, SECOND..=24 * HOUR, Some("POOL_UNUSED_RELEASE_TIMEOUT");
    /// Tunnels one pod may hold open; a fan-out beyond this waits for a free one and is refused in the end.
    POOL_MAX_CONNECTIONS, "pool_max_connections", Count, 4_096, 1..=1_000_000, Some("POOL_MAX_CONNECTIONS");

    /// A tunnel without streams that has been silent this long is asked for a sign of life together with its next request.
    POOL_TRUST, "pool_trust", Milliseconds, 2 * SECOND, 1..=HOUR, Some("POOL_TRUST");
    /// A tunnel that answers neither its next request nor a PING in this time is left, and the request goes to a new one; a lost packet is repeated well before.
    POOL_PROBE_TIMEOUT, "pool_probe_timeout", Milliseconds, 2 * SECOND, 1..=MINUTE, Some("POOL_PROBE_TIMEOUT");
    /// A PING that takes this much longer than the quickest one stands in a queue, and new streams would too; they get another tunnel.
    POOL_QUEUEING_DELAY, "pool_queueing_delay", Milliseconds, 100, 1..=MINUTE, Some("POOL_QUEUEING_DELAY");
    /// A tunnel in use is asked this often for how long its queue is, when streams are opened on it.
    POOL_QUEUEING_CHECK, "pool_queueing_check", Milliseconds, SECOND, 1..=MINUTE, Some("POOL_QUEUEING_CHECK");
    /// A tunnel that refused a stream, or whose window was used up when one was opened, is asked again after this.
    POOL_CROWDED, "pool_crowded", Milliseconds, 5 * SECOND, 1..=MINUTE, Some("POOL_CROWDED");
    /// Tunnels to one peer because of queueing; more would only share the same slow link.
    POOL_SPREAD, "pool_spread", Count, 4, 1..=1_024, Some("POOL_SPREAD");
    /// Bytes under way between a tunnel and the one inside it, each way; one per connection to another network.
    NESTED_BUFFER, "nested_buffer", Bytes, 64 * KIB, 16 * KIB..=MIB, Some("NESTED_BUFFER");
    /// Streams a peer may open on one tunnel to us; twice what a peer's pool uses.
    MAX_CONCURRENT_STREAMS, "max_concurrent_streams", Count, 200, 1..=65_535, Some("HTTP2_MAX_CONCURRENT_STREAMS");
    /// Bytes one stream of a new tunnel may have in flight to us: what a path within a data centre holds, 10 Gbit/s for 0.2 ms.
    STREAM_WINDOW_START, "http2_stream_window_start", Bytes, 256 * KIB, 65_535..=2_147_483_647, Some("HTTP2_STREAM_WINDOW_START");
    /// Bytes all streams of a new tunnel may have in flight to us; a few stalled streams must not stop the others.
    CONNECTION_WINDOW_START, "http2_connection_window_start", Bytes, MIB, 65_535..=2_147_483_647, Some("HTTP2_CONNECTION_WINDOW_START");
    /// Bytes that all tunnels of the node together may have in flight to us, first windows aside: half of what a node proxy is commonly allowed.
    RECEIVE_BUDGET, "receive_budget", Bytes, 256 * MIB, MIB..=1024 * 1024 * MIB, Some("RECEIVE_BUDGET");
    /// Bytes one stream may have in flight to us once it has used up less: the bandwidth-delay product of a fast link.
    STREAM_WINDOW, "http2_stream_window_size", Bytes, 4 * MIB, 65_535..=2_147_483_647, Some("HTTP2_STREAM_WINDOW_SIZE");
    /// Bytes all streams of one tunnel may have in flight to us at most.
    CONNECTION_WINDOW, "http2_connection_window_size", Bytes, 16 * MIB, 65_535..=2_147_483_647, Some("HTTP2_CONNECTION_WINDOW_SIZE");
    /// The largest frame; large ones save system calls, RFC 9113 §4.2 gives the range.
    FRAME_SIZE, "http2_frame_size", Bytes, MIB, 16_384..=16_777_215, Some("HTTP2_FRAME_SIZE");
    /// Header bytes a client may send with one CONNECT; baggage is the largest of them.
    SERVER_HEADER_LIST, "server_header_list_size", Bytes, 64 * KIB, KIB..=MIB, Some("SERVER_HEADER_LIST_SIZE");
    /// Header bytes a server may send with one answer.
    CLIENT_HEADER_LIST, "client_header_list_size", Bytes, 16 * KIB, KIB..=MIB, Some("CLIENT_HEADER_LIST_SIZE");
    /// Bytes a server buffers for one stream before the application's socket is not read any more.
    SERVER_SEND_BUFFER, "server_send_buffer", Bytes, 400 * KIB, 16 * KIB..=64 * MIB, Some("SERVER_SEND_BUFFER");
    /// Bytes a client buffers for one stream before the application's socket is not read any more.
    CLIENT_SEND_BUFFER, "client_send_buffer", Bytes, 4 * MIB, 16 * KIB..=64 * MIB, Some("CLIENT_SEND_BUFFER");
    /// Streams we ended early that one tunnel still knows, some 500 bytes each: 130 aborted downloads a second for as long as each is remembered. Bytes on their way to one that is forgotten count as the peer's error.
    RESET_STREAMS, "http2_reset_streams", Count, 4_096, 200..=65_535, Some("HTTP2_RESET_STREAMS");
    /// A stream we ended early is known this long, which what is on its way to it takes at worst: retransmissions and full buffers on a bad path.
    RESET_STREAM_MEMORY, "http2_reset_stream_memory", Milliseconds, 30 * SECOND, SECOND..=MINUTE, Some("HTTP2_RESET_STREAM_MEMORY");
    /// Frames for streams that are forgotten, and other errors of the peer, over a tunnel's whole life; beyond, the peer is broken or hostile. High, because a tunnel shared by all connections of two pods lives for weeks.
    STREAM_ERRORS, "http2_stream_errors", Count, 100_000, 1_024..=100_000_000, Some("HTTP2_STREAM_ERRORS");
    /// Requests the peer has given up before we looked at them, at once; a few full sets of streams, as when a client with many connections dies.
    ABANDONED_REQUESTS, "http2_abandoned_requests", Count, 1_000, 20..=65_535, Some("HTTP2_ABANDONED_REQUESTS");
    /// What small frames may cost beyond their bytes while the application has not read them; each of less than 256 bytes counts for what it lacks. 130,000 writes of one byte on a tunnel.
    SMALL_FRAMES, "http2_small_frame_budget", Bytes, 32 * MIB, 25_600..=1024 * MIB, Some("HTTP2_SMALL_FRAME_BUDGET");
    /// A tunnel that is silent this long is asked with a PING whether it still lives.
    PING_INTERVAL, "http2_ping_interval", Milliseconds, 10 * SECOND, SECOND..=HOUR, Some("HTTP2_PING_INTERVAL");
    /// A tunnel that does not answer a PING in this time is dead.
    PING_TIMEOUT, "http2_ping_timeout", Milliseconds, 20 * SECOND, SECOND..=HOUR, Some("HTTP2_PING_TIMEOUT");

    /// TCP keepalive starts after this much silence; a little less than the usual state timeout of a firewall.
    KEEPALIVE_TIME, "keepalive_time", Milliseconds, 180 * SECOND, SECOND..=9 * HOUR, Some("KEEPALIVE_TIME");
    /// Time between two TCP keepalive probes.
    KEEPALIVE_INTERVAL, "keepalive_interval", Milliseconds, 180 * SECOND, SECOND..=9 * HOUR, Some("KEEPALIVE_INTERVAL");
    /// Unanswered TCP keepalive probes after which the connection is dead.
    KEEPALIVE_RETRIES, "keepalive_retries", Count, 9, 1..=127, Some("KEEPALIVE_RETRIES");

    /// The copy buffer a connection begins with; most connections are idle, and this is what they cost.
    COPY_BUFFER_SMALL, "copy_buffer_small", Bytes, KIB, 256..=MIB, Some("COPY_BUFFER_SMALL");
    /// The copy buffer after [`COPY_GROW_MEDIUM`] bytes: one TLS record.
    COPY_BUFFER_MEDIUM, "copy_buffer_medium", Bytes, 16 * KIB, KIB..=MIB, Some("COPY_BUFFER_MEDIUM");
    /// The copy buffer after [`COPY_GROW_LARGE`] bytes: bulk transfers save system calls.
    COPY_BUFFER_LARGE, "copy_buffer_large", Bytes, 256 * KIB, KIB..=16 * MIB, Some("COPY_BUFFER_LARGE");
    /// Bytes moved before the copy buffer first grows.
    COPY_GROW_MEDIUM, "copy_grow_medium", Bytes, 128 * KIB, KIB..=MIB, Some("COPY_GROW_MEDIUM");
    /// Bytes moved before the copy buffer grows to its largest.
    COPY_GROW_LARGE, "copy_grow_large", Bytes, 10 * MIB, KIB..=1024 * MIB, Some("COPY_GROW_LARGE");

    /// Frames of one turn of a tunnel that are sent together: as much as fits into one TLS record (RFC 8446 §5.1).
    GATHERED_WRITES, "gathered_writes", Bytes, 16 * KIB, 16 * KIB..=16 * KIB, None;
    /// What is asked of a tunnel's socket when more came than its reader had room for.
    READ_AHEAD_SMALL, "read_ahead_small", Bytes, 8 * KIB, KIB..=MIB, Some("READ_AHEAD_SMALL");
    /// The most that is asked of a tunnel's socket at once; held only while it is being worked off.
    READ_AHEAD_LARGE, "read_ahead_large", Bytes, 128 * KIB, KIB..=16 * MIB, Some("READ_AHEAD_LARGE");
    /// When one side of a connection breaks off, what it had said before is delivered to the other within this time; then the other is told. On a working path it takes one round trip.
    COPY_FLUSH, "copy_flush", Milliseconds, SECOND, 0..=MINUTE, Some("COPY_FLUSH");
    /// Bytes one direction may copy before other connections of its worker thread get their turn: some 100 µs of work.
    COPY_YIELD, "copy_yield", Bytes, 512 * KIB, 16 * KIB..=64 * MIB, Some("COPY_YIELD");

    /// Connections one pod may have through each of the proxy's listeners at once; keeps one pod from using up the node's file descriptors.
    CONNECTIONS_PER_POD, "connections_per_pod", Count, 65_536, 1..=10_000_000, Some("MAX_CONNECTIONS_PER_POD");
    /// Handshakes one pod may have under way at once; they cost the most and prove nothing about the peer yet.
    HANDSHAKES_PER_POD, "handshakes_per_pod", Count, 1_024, 1..=1_000_000, Some("MAX_HANDSHAKES_PER_POD");
    /// Handshakes one source may have under way with one pod at once: an eighth of all, so that a stranger who says nothing keeps nobody else out. As many as a full node of pods begins together.
    HANDSHAKES_PER_SOURCE, "handshakes_per_source", Count, 128, 1..=1_000_000, Some("MAX_HANDSHAKES_PER_SOURCE");
    /// Connections that have ended and are told of to who watches them, such as `fairway tap`, some 1 KiB each; beyond, the oldest are left out, and numbers tell how many. Kept only while somebody looks: what ends between two looks, at 16,000 a second.
    CONNECTIONS_ENDED, "connections_ended", Count, 4_096, 0..=1_000_000, Some("CONNECTIONS_ENDED");
    /// When so many connections, and at least half of all, have ended, the proxy gives free memory back to the node: some megabytes, which are worth a walk through the heap.
    MEMORY_RETURN_CROWD, "memory_return_connections", Count, 1_000, 1..=10_000_000, Some("MEMORY_RETURN_CONNECTIONS");
    /// Percent of the memory this process may have (memory.max of its cgroup) from which on new connections are refused, so that open ones live; the rest is for those to grow. At 100 none is refused, and the kernel ends the process.
    MEMORY_SHED, "memory_shed_percent", Count, 90, 50..=100, Some("MEMORY_SHED_PERCENT");
    /// Open connections get this long to end when the proxy shuts down.
    DRAIN_DEADLINE, "connection_termination_deadline", Milliseconds, 5 * SECOND, 0..=24 * HOUR, Some("CONNECTION_TERMINATION_DEADLINE");
    /// A policy change cuts the connections it denies within this at worst, and within a quarter of it usually.
    POLICY_ENFORCEMENT, "policy_enforcement", Milliseconds, SECOND, SECOND..=SECOND, None;

    /// Addresses in one answer of the DNS proxy; with IPv6 some 56 KiB of the 64 a DNS message may have.
    DNS_ANSWER_ADDRESSES, "dns_answer_addresses", Count, 2_000, 2_000..=2_000, None;
    /// Clients may keep what the DNS proxy answers itself for so long; short, because endpoints come and go, and the same as Istio's.
    DNS_ANSWER_TTL, "dns_answer_ttl", Milliseconds, 30 * SECOND, 30 * SECOND..=30 * SECOND, None;
    /// DNS queries one pod may have under way to resolvers at once, each with a socket of its own; more are answered with a failure.
    DNS_QUERIES_PER_POD, "dns_queries_per_pod", Count, 256, 1..=65_535, Some("MAX_DNS_QUERIES_PER_POD");
    /// DNS connections over TCP one pod may have open at once; few programs use one at all.
    DNS_CONNECTIONS_PER_POD, "dns_connections_per_pod", Count, 128, 1..=65_535, Some("MAX_DNS_CONNECTIONS_PER_POD");
    /// A DNS connection over TCP on which nothing is asked is closed after this, as Istio's proxy does.
    DNS_IDLE_TIMEOUT, "dns_idle_timeout", Milliseconds, 5 * SECOND, SECOND..=MINUTE, Some("DNS_IDLE_TIMEOUT");
    /// A resolver that has not answered after this is asked again, or the next one is, while its answer is still welcome.
    DNS_RETRY, "dns_retry", Milliseconds, SECOND, 10..=MINUTE, Some("DNS_RETRY");
    /// Times a query is sent on at most, to all resolvers together.
    DNS_ATTEMPTS, "dns_attempts", Count, 4, 1..=16, Some("DNS_ATTEMPTS");
    /// Resolvers have this long to answer a query; a little less than the five seconds after which most clients ask again.
    DNS_TIMEOUT, "dns_timeout", Milliseconds, 4_500, 100..=MINUTE, Some("DNS_TIMEOUT");
    /// A question of a pod that is not known yet waits this long to be answered from the mesh, and is passed on then.
    DNS_WORKLOAD_WAIT, "dns_workload_wait", Milliseconds, SECOND, 0..=5 * SECOND, Some("DNS_WORKLOAD_WAIT");
    /// Hostnames of endpoints whose addresses are remembered; beyond, node proxies forget those that expire soonest, and waypoints refuse requests to those that came last.
    DNS_CACHE_ENTRIES, "dns_cache_entries", Count, 1_024, 1..=1_000_000, Some("DNS_CACHE_ENTRIES");
    /// The addresses of an endpoint's hostname are used no longer than this, whatever the name's own time to live.
    DNS_CACHE_MAXIMUM, "dns_cache_maximum", Milliseconds, MINUTE, SECOND..=HOUR, Some("DNS_CACHE_MAXIMUM");
    /// They are used at least this long, so that a time to live of 0 does not make every connection wait for a resolver.
    DNS_CACHE_MINIMUM, "dns_cache_minimum", Milliseconds, SECOND, 0..=MINUTE, Some("DNS_CACHE_MINIMUM");

    /// When nobody can say what addresses a name has, those of before are used for so long past their time: longer than resolvers are usually away, and shorter than addresses usually take to become somebody else's.
    DNS_CACHE_STALE, "dns_cache_stale", Milliseconds, 10 * MINUTE, 0..=24 * HOUR, Some("DNS_CACHE_STALE");

    /// One message of the node agent; its sender and Istio's proxy agree on this.
    ZDS_MESSAGE, "zds_message", Bytes, 1_024, 1_024..=1_024, None;
    /// The node agent gives up on an answer after this.
    ZDS_ACKNOWLEDGE_TIMEOUT, "zds_acknowledge_timeout", Milliseconds, 5 * SECOND, 5 * SECOND..=5 * SECOND, None;

    /// A waypoint that is told to stop takes new connections for so long, until everybody has heard that it goes, and leaves unused ones over HTTP/1.1 for as long again; half of the drain's deadline at most. The same as Istio's `terminationDrainDuration`.
    DRAIN_NOTICE, "drain_notice", Milliseconds, 5 * SECOND, 0..=10 * MINUTE, Some("DRAIN_NOTICE");
    /// A file of certificates or of a key that a waypoint speaks TLS to servers outside with; four times the roots of a whole distribution.
    TLS_FILE, "tls_file", Bytes, MIB, 16 * KIB..=64 * MIB, Some("TLS_FILE_SIZE");

    /// One message of the configuration stream; a whole mesh of 100,000 workloads must fit.
    XDS_MESSAGE, "xds_message", Bytes, 200 * MIB, 4 * MIB..=2048 * MIB, Some("XDS_MAX_MESSAGE_SIZE");
    /// The first pause before the configuration stream is dialled again.
    XDS_BACKOFF_MINIMUM, "xds_backoff_minimum", Milliseconds, 50, 1..=MINUTE, Some("XDS_BACKOFF_MINIMUM");
    /// The longest pause before the configuration stream is dialled again; doubled up to here.
    XDS_BACKOFF_MAXIMUM, "xds_backoff_maximum", Milliseconds, 15 * SECOND, 1..=HOUR, Some("XDS_BACKOFF_MAXIMUM");
    /// Pages of one answer are published together, but no later than this after the last publication: a quarter of [`POLICY_ENFORCEMENT`].
    XDS_PUBLISH_DELAY, "xds_publish_delay", Milliseconds, 250, 250..=250, None;
    /// A waypoint keeps what is in force for so long while the control plane has not answered what new routes, clusters and listeners lead to, and goes on without it then; time without a control plane does not count. Envoy's `initial_fetch_timeout`.
    XDS_WARMING, "xds_warming", Milliseconds, 15 * SECOND, 0..=HOUR, Some("XDS_WARMING");
    /// A listener that lets others pass than the one in force waits no longer than this for what it leads to: a policy must not wait for a cluster that never comes, and has to hold within [`POLICY_ENFORCEMENT`].
    XDS_POLICY_WARMING, "xds_policy_warming", Milliseconds, 250, 0..=SECOND, Some("XDS_POLICY_WARMING");
    /// A connection to an unknown destination waits this long for the control plane to say what it is, where names are asked for one by one.
    XDS_DEMAND_WAIT, "xds_demand_wait", Milliseconds, 5 * SECOND, 10..=MINUTE, Some("XDS_DEMAND_WAIT");
    /// Names asked for that the control plane has not answered; beyond, it does not keep up and more questions would not help.
    XDS_DEMAND_OUTSTANDING, "xds_demand_outstanding", Count, 1_024, 1_024..=1_024, None;
    /// Names remembered as not existing, some 100 bytes each: destinations outside the mesh that pods talk to.
    XDS_DEMAND_ABSENT, "xds_demand_absent", Count, 8_192, 8_192..=8_192, None;
    /// That a name does not exist is believed for this long where the control plane does not tell when it comes to be, as Istio's does not of addresses.
    XDS_DEMAND_RECHECK, "xds_demand_recheck", Milliseconds, SECOND, SECOND..=SECOND, None;
    /// Changes waiting to be written to disk, some 100 bytes each where they are removals; with more the file is given up, since the disk has long refused.
    XDS_STORE_BACKLOG, "xds_store_backlog", Count, 1_000_000, 1_000_000..=1_000_000, None;
    /// The last good configuration is written to disk no more often than this; what changed since may be lost with the process.
    XDS_STORE_INTERVAL, "xds_store_interval", Milliseconds, 10 * SECOND, 100..=HOUR, Some("XDS_STORE_INTERVAL");
    /// A keepalive on control-plane streams this often; dead controllers are noticed within two.
    CONTROL_KEEPALIVE, "control_plane_keepalive", Milliseconds, 30 * SECOND, SECOND..=HOUR, Some("CONTROL_PLANE_KEEPALIVE");

    /// Lifetime asked for certificates; half of it is a day's outage nobody notices.
    CERTIFICATE_LIFETIME, "certificate_lifetime", Milliseconds, 24 * HOUR, MINUTE..=8_760 * HOUR, Some("SECRET_TTL");
    /// A wait for renewal looks at the clock this often: a machine that was suspended does not notice the time that passed otherwise.
    CERTIFICATE_CLOCK_CHECK, "certificate_clock_check", Milliseconds, 5 * MINUTE, SECOND..=HOUR, Some("CERTIFICATE_CLOCK_CHECK");
    /// When the trust bundle changes, workloads that it leaves out renew spread over this time, so that the certificate service is not flooded.
    CERTIFICATE_SPREAD, "certificate_spread", Milliseconds, 30 * SECOND, 1..=HOUR, Some("CERTIFICATE_SPREAD");
    /// Streams that are open when one of their tunnel's certificates expires may go on for this long; then they are cut. New ones get a tunnel with new certificates at once. A day, so that a connection that an application keeps for ever is cut every other day with certificates of a day, at a time that differs from pod to pod.
    TUNNEL_OVERTIME, "tunnel_overtime", Milliseconds, 24 * HOUR, 0..=8_760 * HOUR, Some("TUNNEL_OVERTIME");
    /// The file of revocation lists is looked at this often.
    REVOCATION_CHECK, "revocation_check", Milliseconds, 2 * SECOND, 100..=HOUR, Some("REVOCATION_CHECK");
    /// The largest file of revocation lists: some 400,000 certificates.
    REVOCATION_LIST, "revocation_list", Bytes, 16 * MIB, KIB..=1024 * MIB, Some("REVOCATION_LIST");
    /// Series one metric may have; beyond, one series stands for the rest. A node with 250 pods, each talking to 40 others, stays below it; at about 1 KiB a series it bounds a metric to some 10 MiB.
    METRIC_SERIES, "metric_series", Count, 10_000, 1..=10_000_000, Some("FAIRWAY_METRIC_SERIES");
    /// How long a series whose workload has gone stays in the metrics: long enough for several scrapes to see its last value.
    METRIC_SERIES_IDLE, "metric_series_idle", Milliseconds, 15 * MINUTE, 0..=24 * HOUR, Some("FAIRWAY_METRIC_SERIES_IDLE");
    /// Combinations of values that labels of a Telemetry's own may have at one port of a service; beyond, those that come anew have `overflow` for their values. At about 1 KiB a series and eight metrics it bounds a port to some 4 MiB, and leaves others their share of `metric_series`.
    METRIC_LABEL_VALUES, "metric_label_values", Count, 500, 1..=1_000_000, Some("FAIRWAY_METRIC_LABEL_VALUES");
    /// Bytes of the value of a label of a Telemetry's own, which may be a path that a client chose; the rest is left out. Longer than names and most paths.
    METRIC_LABEL_LENGTH, "metric_label_length", Bytes, 256, 1..=64 * KIB, Some("FAIRWAY_METRIC_LABEL_LENGTH");
    /// Bytes of log lines that wait to be written; beyond, lines are lost and counted, as traffic does not wait for who reads the log. Some 3,000 lines.
    LOG_WAITING, "log_waiting", Bytes, MIB, KIB..=1024 * MIB, Some("LOG_WAITING");
    /// Certificates requested at once; a restarted node must not flood the certificate service.
    CERTIFICATE_REQUESTS, "certificate_requests", Count, 8, 1..=1_024, Some("CERTIFICATE_REQUESTS");
    /// The first pause before a failed certificate request is repeated.
    CERTIFICATE_BACKOFF_MINIMUM, "certificate_backoff_minimum", Milliseconds, SECOND, 1..=HOUR, Some("CERTIFICATE_BACKOFF_MINIMUM");
    /// The longest pause before a failed certificate request is repeated; doubled up to here.
    CERTIFICATE_BACKOFF_MAXIMUM, "certificate_backoff_maximum", Milliseconds, MINUTE, 1..=HOUR, Some("CERTIFICATE_BACKOFF_MAXIMUM");

    /// Values that a waypoint counts requests by at once, over all rate limits, some 100 bytes each; beyond, those that come anew share one bucket for each limit. More than the clients of most services.
    RATE_LIMIT_BUCKETS, "rate_limit_buckets", Count, 65_536, 1..=10_000_000, Some("RATE_LIMIT_BUCKETS");
    /// Bytes of a request's body that an authorizer is shown at most, whatever its provider asks for; they are held in memory until it has answered.
    AUTHORIZER_BODY, "authorizer_body", Bytes, MIB, 0..=64 * MIB, Some("AUTHORIZER_BODY");
    /// Bytes of the answer of an authorizer, a rate limiter or a collector; a page that says why, or where to log in, fits.
    AUTHORIZER_ANSWER, "authorizer_answer", Bytes, 64 * KIB, KIB..=16 * MIB, Some("AUTHORIZER_ANSWER");
    /// Bytes of a body that an external processor sees at once, of a request or an answer; they are held in memory until it has answered. Longer ones have to be shown piece by piece.
    PROCESSOR_BODY, "processor_body", Bytes, MIB, 0..=64 * MIB, Some("PROCESSOR_BODY");
    /// Bytes of one message of an external processor; as much as gRPC itself takes, so that a body of the usual bound fits with its headers.
    PROCESSOR_MESSAGE, "processor_message", Bytes, 4 * MIB, KIB..=128 * MIB, Some("PROCESSOR_MESSAGE");
    /// Longest time without a byte on a connection through a waypoint that went on as something else, such as WebSocket, where its DestinationRule says nothing (`tcp.idleTimeout`); as long as Istio's TCP connections last. Applications that are silent for longer send pings.
    UPGRADED_IDLE, "upgraded_idle", Milliseconds, HOUR, SECOND..=7 * 24 * HOUR, Some("UPGRADED_IDLE");
    /// Longest time in which nothing of a request or its answer moves, where its route says nothing (`idle_timeout`); 0 is never. An hour, as for connections that nobody looks into: calls that wait for news are silent for long, and Istio's proxies have no bound; Envoy's own is 5 minutes.
    STREAM_IDLE, "stream_idle", Milliseconds, HOUR, 0..=7 * 24 * HOUR, Some("STREAM_IDLE");
    /// A client has so long for the head of a request once it has begun one, over HTTP/1.1; as long as most servers give. A head is small: who needs longer keeps a connection busy on purpose.
    REQUEST_HEAD_TIMEOUT, "request_head_timeout", Milliseconds, MINUTE, 100..=HOUR, Some("REQUEST_HEAD_TIMEOUT");
    /// A connection of a client over HTTP/1.1 may wait so long for its next request; as long as with Envoy.
    CLIENT_IDLE, "client_idle", Milliseconds, HOUR, SECOND..=7 * 24 * HOUR, Some("CLIENT_IDLE");
    /// Bytes of the head of a request, or of all its headers over HTTP/2: what Envoy allows.
    REQUEST_HEAD, "request_head", Bytes, 60 * KIB, 8 * KIB..=MIB, Some("REQUEST_HEAD");
    /// Headers of a request: what Envoy allows. More than a hundred cost a little with each request.
    REQUEST_HEADERS, "request_headers", Count, 100, 1..=10_000, Some("REQUEST_HEADERS");
    /// Bytes of the head of an answer, or of all its headers over HTTP/2: what Envoy allows.
    ANSWER_HEAD, "answer_head", Bytes, 60 * KIB, 8 * KIB..=MIB, Some("ANSWER_HEAD");
    /// Headers of an answer over HTTP/1.1: what Envoy allows. More than a hundred cost a little with each request.
    ANSWER_HEADERS, "answer_headers", Count, 100, 1..=10_000, Some("ANSWER_HEADERS");
    /// Requests that one client may have under way on one connection over HTTP/2; it waits with those beyond. As many as Envoy advises for servers.
    CLIENT_STREAMS, "client_streams", Count, 100, 1..=65_535, Some("CLIENT_STREAMS");
    /// Bytes of one request or answer over HTTP/2 that may be on their way to a waypoint, inside a tunnel: the bandwidth-delay product within a data centre.
    HTTP_STREAM_WINDOW, "http_stream_window", Bytes, 256 * KIB, 65_535..=2_147_483_647, Some("HTTP_STREAM_WINDOW");
    /// Bytes of all requests or answers of one connection over HTTP/2 that may be on their way to a waypoint; a few stalled ones must not stop the others.
    HTTP_CONNECTION_WINDOW, "http_connection_window", Bytes, MIB, 65_535..=2_147_483_647, Some("HTTP_CONNECTION_WINDOW");
    /// Connections of one client to one endpoint over HTTP/1.1 that wait for its next request; those beyond are closed. More than programs commonly have open.
    IDLE_UPSTREAMS, "idle_upstreams", Count, 64, 0..=65_535, Some("IDLE_UPSTREAMS");
    /// Bytes of a request's body that are kept so that it can be sent again or copied; what is longer is sent once. A message of most APIs fits.
    REPLAY_BODY, "replay_body", Bytes, 64 * KIB, 0..=64 * MIB, Some("REPLAY_BODY");
    /// A client has so long for a body, or its beginning, that an authorizer or an external processor sees at once; nothing is sent on before.
    SHOWN_BODY_TIMEOUT, "shown_body_timeout", Milliseconds, 5 * MINUTE, SECOND..=HOUR, Some("SHOWN_BODY_TIMEOUT");
    /// A client of TLS has so long to say which name it means, where routes go by that; Envoy's bound.
    CLIENT_HELLO_TIMEOUT, "client_hello_timeout", Milliseconds, 15 * SECOND, 100..=10 * MINUTE, Some("CLIENT_HELLO_TIMEOUT");
    /// A copy of a request that goes to a mirror may take so long where its route has no timeout; nobody waits for it.
    MIRROR_TIMEOUT, "mirror_timeout", Milliseconds, MINUTE, 100..=HOUR, Some("MIRROR_TIMEOUT");
    /// Spans that wait to be sorted by collectors, and those that wait for one collector, some 1 KiB each; beyond, they are lost rather than waited for. As many as OpenTelemetry's own exporters keep.
    SPAN_QUEUE, "span_queue", Count, 2_048, 1..=1_000_000, Some("SPAN_QUEUE");
    /// A collector takes spans by then, or they are lost; as long as OpenTelemetry's own exporters wait.
    SPAN_EXPORT_TIMEOUT, "span_export_timeout", Milliseconds, 10 * SECOND, 100..=10 * MINUTE, Some("SPAN_EXPORT_TIMEOUT");
    /// Lines of access logs that wait to be written, some 512 bytes each, and records that wait for one collector; beyond, they are lost rather than waited for. What a busy waypoint logs in about a second.
    ACCESS_LOG_QUEUE, "access_log_queue", Count, 8_192, 1..=1_000_000, Some("ACCESS_LOG_QUEUE");
    /// Requests that a waypoint shows at `/requests`, the oldest of those under way, some 1 KiB each; how many more there are is told. Those that hang are among them.
    REQUESTS_SHOWN, "requests_shown", Count, 1_000, 1..=100_000, Some("REQUESTS_SHOWN");
    /// Admin requests are small; anything larger is a mistake.
    ADMIN_REQUEST, "admin_request", Bytes, 64 * KIB, KIB..=MIB, Some("ADMIN_REQUEST");
    /// Admin connections at once; dumps of a large mesh cost memory.
    ADMIN_CONNECTIONS, "admin_connections", Count, 64, 1..=65_535, Some("ADMIN_CONNECTIONS");

    /// The CNI plugin waits this long for the agent, and with it the runtime for the pod; less than a kubelet waits for the runtime.
    PLUGIN_PATIENCE, "cni_plugin_patience", Milliseconds, 10 * SECOND, 100..=2 * MINUTE, None;
    /// The agent answers the plugin by then, so that the runtime hears what is in the way instead of a mere timeout.
    CAPTURE_WAIT, "cni_capture_wait", Milliseconds, 8 * SECOND, SECOND..=2 * MINUTE, None;
    /// The agent may hear of a pod from the runtime before it hears of it from its source; it waits this long to see it.
    UNSEEN_POD_WAIT, "cni_unseen_pod_wait", Milliseconds, 2 * SECOND, 0..=MINUTE, None;
    /// Calls of the plugin the agent has open at once; more than a node has pods.
    PLUGIN_CALLS, "cni_plugin_calls", Count, 1_024, 1..=65_535, None;
    /// One call of the plugin: names and addresses of a pod.
    PLUGIN_REQUEST, "cni_plugin_request", Bytes, 64 * KIB, KIB..=MIB, None;
    /// A program that writes or reads a pod's rules takes milliseconds; one that takes this long hangs, and is killed.
    RULE_PROGRAM_TIMEOUT, "rule_program_timeout", Milliseconds, 5 * SECOND, 100..=MINUTE, None;
    /// Connections that were open when their pod was enrolled, or when it left, may go on this long; then they are cut.
    ESTABLISHED_GRACE, "established_grace", Milliseconds, 30 * MINUTE, 0..=24 * HOUR, None;
}

/// What must not be larger than what. Defaults that break one do not compile; values that do are not accepted.
pub const RELATIONS: &[(&Limit, &Limit)] = &[
    (&STREAM_WINDOW, &CONNECTION_WINDOW),
    (&HTTP_STREAM_WINDOW, &HTTP_CONNECTION_WINDOW),
    (&STREAM_WINDOW_START, &STREAM_WINDOW),
    (&STREAM_WINDOW_START, &CONNECTION_WINDOW_START),
    (&CONNECTION_WINDOW_START, &CONNECTION_WINDOW),
    (&POOL_MAX_STREAMS, &MAX_CONCURRENT_STREAMS),
    (&MAX_CONCURRENT_STREAMS, &RESET_STREAMS),
    (&MAX_CONCURRENT_STREAMS, &ABANDONED_REQUESTS),
    (&PING_TIMEOUT, &RESET_STREAM_MEMORY),
    (&CONNECTION_WINDOW, &SMALL_FRAMES),
    (&CONNECT_TIMEOUT, &CONNECT_RESPONSE_TIMEOUT),
    (&POOL_PROBE_TIMEOUT, &CONNECT_RESPONSE_TIMEOUT),
    (&PING_INTERVAL, &PING_TIMEOUT),
    (&COPY_BUFFER_SMALL, &COPY_BUFFER_MEDIUM),
    (&COPY_BUFFER_MEDIUM, &COPY_BUFFER_LARGE),
    (&COPY_GROW_MEDIUM, &COPY_GROW_LARGE),
    (&HANDSHAKES_PER_SOURCE, &HANDSHAKES_PER_POD),
    (&DNS_RETRY, &DNS_TIMEOUT),
    (&DNS_CACHE_MINIMUM, &DNS_CACHE_MAXIMUM),
    (&XDS_BACKOFF_MINIMUM, &XDS_BACKOFF_MAXIMUM),
    (&XDS_POLICY_WARMING, &XDS_WARMING),
    (&CERTIFICATE_BACKOFF_MINIMUM, &CERTIFICATE_BACKOFF_MAXIMUM),
];

const _: () = {
    assert!(HANDSHAKES_PER_SOURCE.default * 8 <= HANDSHAKES_PER_POD.default);
    assert!(XDS_PUBLISH_DELAY.default * 4 <= POLICY_ENFORCEMENT.default);
    assert!(XDS_POLICY_WARMING.default * 4 <= POLICY_ENFORCEMENT.default);
    let mut index = 0;
    while index < RELATIONS.len() {
        let (smaller, larger) = RELATIONS[index];
        assert!(smaller.default <= larger.default);
        index += 1;
    }
    assert!(UNSEEN_POD_WAIT.default < CAPTURE_WAIT.default && CAPTURE_WAIT.default < PLUGIN_PATIENCE.default);
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_variables_are_unique() {
        let names: HashSet<_> = ALL.iter().map(|limit| limit.name).collect();
        assert_eq!(names.len(), ALL.len());
        let variables: Vec<_> = ALL.iter().filter_map(|limit| limit.variable).collect();
        assert_eq!(variables.iter().collect::<HashSet<_>>().len(), variables.len());
    }

    /// Whoever sees a value that does not suit him can change it, unless somebody else relies on it.
    #[test]
    fn every_limit_has_a_knob_or_one_possible_value() {
        // The agent has flags of its own for those of its limits that can be set.
        let agents = [
            PLUGIN_PATIENCE,
            CAPTURE_WAIT,
            UNSEEN_POD_WAIT,
            PLUGIN_CALLS,
            PLUGIN_REQUEST,
            RULE_PROGRAM_TIMEOUT,
            ESTABLISHED_GRACE,
        ]
        .map(|limit| limit.name);
        for limit in ALL.iter().filter(|limit| !agents.contains(&limit.name)) {
            assert_eq!(limit.variable.is_none(), limit.minimum == limit.maximum, "{}", limit.name);
        }
    }

    #[test]
    fn every_limit_says_why() {
        for limit in ALL {
            assert!(
                limit.why.len() > 20 && limit.why.ends_with('.') && limit.why == limit.why.trim(),
                "{}",
                limit.name
            );
        }
    }

    #[test]
    fn values_out_of_range_are_named() {
        assert_eq!(FRAME_SIZE.check(16_384), Ok(16_384));
        let error = FRAME_SIZE.check(16_383).unwrap_err();
        assert_eq!(error.to_string(), "http2_frame_size is 16383; it must be 16384 to 16777215 bytes");
        assert!(POOL_MAX_STREAMS.check(0).is_err());
    }

    #[test]
    fn defaults_in_their_units() {
        assert_eq!(CONNECT_TIMEOUT.duration(), Duration::from_secs(10));
        assert_eq!(SERVER_HEADER_LIST.number(), 65_536);
        assert_eq!(ZDS_MESSAGE.size(), 1024);
    }
}
