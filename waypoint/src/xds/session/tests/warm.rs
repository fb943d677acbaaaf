//! What is in force leads somewhere: whatever waits for an answer leaves what was before it where it is, but not for ever.

use std::collections::BTreeMap;

use fairway_proto::envoy::{http_rbac, rbac};
use proptest::prelude::{Strategy, TestCaseError, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;

const API: &str = "api.shop:80";

/// Routes to several clusters, or to nowhere.
fn routes_to(name: &str, clusters: &BTreeSet<&str>) -> RouteConfiguration {
    let mut table = routes(name, "");
    let each = |cluster: &&str| routes(name, cluster).virtual_hosts.remove(0).routes.remove(0);
    table.virtual_hosts[0].routes = clusters.iter().map(each).collect();
    table
}

fn listener(name: &str) -> DeltaDiscoveryResponse {
    response(Kind::Listener, name, listener_message(name).encode_to_vec())
}

/// A listener that refuses everybody, and has somebody look at everything, if anybody is named.
fn denying(name: &str, processor: Option<&str>) -> DeltaDiscoveryResponse {
    let anybody = rbac::Principal { identifier: Some(rbac::principal::Identifier::Any(true)) };
    let anything = rbac::Permission { rule: Some(rbac::permission::Rule::Any(true)) };
    let policy = rbac::Policy { permissions: vec![anything], principals: vec![anybody] };
    let action = rbac::rbac::Action::Deny.into();
    let rules = rbac::Rbac { action, policies: [("no".to_owned(), policy)].into() };
    let kind = "envoy.extensions.filters.http.rbac.v3.RBAC";
    let config_type = ConfigType::TypedConfig(any(kind, &http_rbac::Rbac { rules: Some(rules), ..Default::default() }));
    let denial = HttpFilter { name: "rbac".into(), config_type: Some(config_type), ..Default::default() };
    let filters = [denial].into_iter().chain(processor.map(seen_by)).collect();
    response(Kind::Listener, name, listener_with(name, filters).encode_to_vec())
}

fn table(name: &str, clusters: &[&str]) -> DeltaDiscoveryResponse {
    response(Kind::Routes, name, routes_to(name, &clusters.iter().copied().collect()).encode_to_vec())
}

fn cluster(name: &str) -> DeltaDiscoveryResponse {
    response(Kind::Cluster, name, eds(name).encode_to_vec())
}

fn endpoints(name: &str) -> DeltaDiscoveryResponse {
    let nobody = endpoint::ClusterLoadAssignment { cluster_name: name.into(), ..Default::default() };
    response(Kind::Endpoints, name, nobody.encode_to_vec())
}

/// Where the routes in force lead.
fn leads(session: &Session, name: &str) -> Vec<String> {
    let table = session.config().routes.get(name);
    let mut clusters: Vec<String> = table.iter().flat_map(|table| table.clusters()).map(str::to_owned).collect();
    clusters.sort();
    clusters
}

fn is_served(session: &Session, name: &str) -> bool {
    session.config().listeners.contains_key(name)
}

fn denies(session: &Session, name: &str) -> bool {
    session.config().listeners.get(name).is_some_and(|listener| !listener.is_open())
}

fn answers(requests: &[DeltaDiscoveryRequest]) -> Vec<&str> {
    requests.iter().map(|request| &*request.response_nonce).filter(|nonce| !nonce.is_empty()).collect()
}

/// A session in which requests for WEB go to `stable`.
fn in_force(now: Instant) -> Session {
    let mut session = session();
    assert!(session.connected(now).is_empty());
    session.want(vec![WEB.into(), API.into()], now);
    for response in [listener(WEB), table(WEB, &["stable"]), cluster("stable")] {
        session.receive(response, now);
        assert!(!is_served(&session, WEB), "a service is served from when its requests lead somewhere");
    }
    session.receive(endpoints("stable"), now);
    assert!(is_served(&session, WEB) && session.config().warming.is_empty());
    session
}

#[test]
fn routes_wait_for_what_they_lead_to_and_nothing_else_does() {
    let now = Instant::now();
    let mut session = in_force(now);
    let turned = session.receive(table(WEB, &["fresh"]), now);
    assert_eq!((leads(&session, WEB), answers(&turned.requests).len()), (vec!["stable".to_owned()], 0));
    assert_eq!(session.config().warming, BTreeSet::from([WEB.to_owned()]));
    // A service that has nothing to do with it, from its first listener to its routes.
    session.receive(listener(API), now);
    session.receive(table(API, &[]), now);
    assert!(is_served(&session, API), "a table waits for another one's cluster");
    // What it led to until now is needed for as long.
    session.receive(removal(Kind::Cluster, "stable"), now);
    session.receive(removal(Kind::Endpoints, "stable"), now);
    let held = session.config();
    assert!(held.clusters.contains_key("stable") && held.endpoints.contains_key("stable"), "still led to");
    session.receive(cluster("fresh"), now);
    assert_eq!(leads(&session, WEB), ["stable"], "nobody knows the new one's endpoints");
    session.receive(endpoints("fresh"), now);
    assert_eq!(leads(&session, WEB), ["fresh"]);
    let held = session.config();
    assert!(!held.clusters.contains_key("stable") && !held.endpoints.contains_key("stable") && held.warming.is_empty());
}

#[test]
fn absence_is_an_answer_and_so_is_what_cannot_be_used() {
    let now = Instant::now();
    let unusable = |kind| response(kind, "fresh", vec![0xff]);
    for (row, answers) in [
        ("no cluster", vec![removal(Kind::Cluster, "fresh")]),
        ("a bad cluster", vec![unusable(Kind::Cluster)]),
        ("no endpoints", vec![cluster("fresh"), removal(Kind::Endpoints, "fresh")]),
        ("bad endpoints", vec![cluster("fresh"), unusable(Kind::Endpoints)]),
    ] {
        let mut session = in_force(now);
        session.receive(table(WEB, &["fresh"]), now);
        for answer in answers {
            assert_eq!(leads(&session, WEB), ["stable"], "{row}");
            session.receive(answer, now);
        }
        assert_eq!(leads(&session, WEB), ["fresh"], "{row}");
    }
}

#[test]
fn what_never_comes_is_waited_for_no_longer_than_the_bound() {
    let now = Instant::now();
    let mut session = in_force(now);
    session.receive(table(WEB, &["fresh"]), now);
    // A newer version has no more time.
    session.receive(table(WEB, &["fresh", "fresher"]), now + BOUNDS.most / 2);
    assert_eq!(session.due(), Some(now + BOUNDS.most));
    session.wake(now + BOUNDS.most - Duration::from_millis(1));
    assert_eq!((leads(&session, WEB), session.expired()), (vec!["stable".to_owned()], 0));
    let woken = session.wake(now + BOUNDS.most);
    assert_eq!((leads(&session, WEB), session.expired()), (vec!["fresh".to_owned(), "fresher".to_owned()], 1));
    assert_eq!((answers(&woken).len(), session.due()), (2, None), "it is in force, whatever it leads to");
}

#[test]
fn nobody_who_could_answer_is_no_reason_to_lead_nowhere() {
    let now = Instant::now();
    let mut session = in_force(now);
    session.receive(table(WEB, &["fresh"]), now);
    session.disconnected(now);
    assert_eq!(session.due(), None);
    let later = now + BOUNDS.most * 100;
    session.wake(later);
    assert_eq!(leads(&session, WEB), ["stable"]);
    // What waits is not said to be there, so that it is told again, and acknowledged when it is in force.
    let again = session.connected(later);
    let versions: Vec<Vec<_>> = again.iter().map(|it| it.initial_resource_versions.keys().collect()).collect();
    assert_eq!(versions, [vec![WEB], vec![], vec!["stable"], vec!["stable"]]);
    assert_eq!(session.due(), Some(later + BOUNDS.most));
    let told = session.receive(table(WEB, &["fresh"]), later);
    assert!(answers(&told.requests).is_empty());
    session.receive(cluster("fresh"), later);
    let last = session.receive(endpoints("fresh"), later);
    assert_eq!((leads(&session, WEB), answers(&last.requests).len()), (vec!["fresh".to_owned()], 3));
}

#[test]
fn a_policy_waits_for_nobody_for_long() {
    let now = Instant::now();
    // Beside routes that wait for ever: at once.
    let mut beside = in_force(now);
    beside.receive(table(WEB, &["fresh"]), now);
    let told = beside.receive(denying(WEB, None), now);
    assert!(denies(&beside, WEB) && answers(&told.requests).len() == 1);
    assert_eq!(leads(&beside, WEB), ["stable"]);

    // With somebody to be asked who never comes: after its own bound, or as soon as nobody is there who could answer.
    let asking = || {
        let mut asking = in_force(now);
        asking.receive(denying(WEB, Some("scanner")), now);
        assert!(!denies(&asking, WEB), "requests would fail where there is nobody to be asked");
        assert_eq!(asking.due(), Some(now + BOUNDS.policy));
        asking
    };
    let mut woken = asking();
    woken.wake(now + BOUNDS.policy);
    let mut left = asking();
    left.disconnected(now);
    assert!(denies(&woken, WEB) && denies(&left, WEB));
    // Who sees requests may refuse them.
    let mut seen = in_force(now);
    let only_seen = listener_with(WEB, vec![seen_by("scanner")]);
    seen.receive(response(Kind::Listener, WEB, only_seen.encode_to_vec()), now);
    assert_eq!(seen.due(), Some(now + BOUNDS.policy));
    // What lets the same pass as before may wait for longer, until something comes that does not.
    let mut session = in_force(now);
    let mut same = listener_with("elsewhere", Vec::new());
    same.name = WEB.into();
    session.receive(response(Kind::Listener, WEB, same.encode_to_vec()), now);
    assert_eq!(session.due(), Some(now + BOUNDS.most));
    session.receive(denying(WEB, Some("scanner")), now + BOUNDS.policy);
    assert!(denies(&session, WEB));
}

#[test]
fn a_policy_of_a_port_of_which_there_was_nothing_to_be_said_does_not_wait_for_long_either() {
    let now = Instant::now();
    let first = |before: Option<DeltaDiscoveryResponse>| {
        let mut session = session();
        let _nothing_yet = session.connected(now);
        session.want(vec![WEB.into()], now);
        before.into_iter().for_each(|before| drop(session.receive(before, now)));
        session.receive(denying(WEB, None), now);
        session
    };
    // Everybody passed.
    let mut open = first(Some(removal(Kind::Listener, WEB)));
    assert_eq!(open.due(), Some(now + BOUNDS.policy), "its routes are not known");
    open.wake(now + BOUNDS.policy);
    assert!(denies(&open, WEB) && open.config().absent.is_empty());
    // Where nothing was known nobody passes anyway.
    assert_eq!(first(None).due(), Some(now + BOUNDS.most));
}

#[test]
fn answers_of_one_type_keep_their_order_and_no_more_are_kept_back_than_a_server_bears() {
    let now = Instant::now();
    let mut session = in_force(now);
    session.receive(listener(API), now);
    let mut given: Vec<String> = Vec::new();
    let mut tell = |session: &mut Session, response: DeltaDiscoveryResponse, nonce: usize| {
        let told = session.receive(DeltaDiscoveryResponse { nonce: nonce.to_string(), ..response }, now);
        given.extend(answers(&told.requests).into_iter().filter(|nonce| *nonce != "n").map(str::to_owned));
        given.clone()
    };
    assert!(tell(&mut session, table(WEB, &["fresh"]), 0).is_empty());
    let second = tell(&mut session, table(API, &["stable"]), 1);
    assert!(leads(&session, API) == ["stable"] && second.is_empty(), "the newest stands for what was before it");
    for more in 2..MOST_WITHHELD {
        assert!(tell(&mut session, table(API, &["stable"]), more).is_empty());
    }
    let given = tell(&mut session, table(API, &["stable"]), MOST_WITHHELD);
    let all: Vec<String> = (0..=MOST_WITHHELD).map(|nonce| nonce.to_string()).collect();
    assert_eq!(given, all, "with the one that waits those behind it are free");
    assert_eq!(leads(&session, WEB), ["stable"]);
}

/// What a control plane has, as far as this is about it.
#[derive(Clone, Debug, Default)]
struct World {
    tables: BTreeMap<&'static str, BTreeSet<&'static str>>,
    clusters: BTreeSet<&'static str>,
}

#[derive(Clone, Debug)]
enum Event {
    /// Routes lead elsewhere, or are gone.
    Turn(&'static str, Option<BTreeSet<&'static str>>),
    /// A cluster comes or goes.
    Toggle(&'static str),
    /// One of the answers that are due arrives.
    Arrive(prop::sample::Index),
}

fn index() -> impl Strategy<Value = prop::sample::Index> {
    proptest::prelude::any::<prop::sample::Index>()
}

fn event() -> impl Strategy<Value = Event> {
    let cluster = || prop::sample::select(vec!["a", "b", "c"]);
    let table = prop::sample::select(vec![WEB, API]);
    prop_oneof![
        1 => (table, prop::option::weighted(0.9, prop::collection::btree_set(cluster(), 0..3)))
            .prop_map(|(name, clusters)| Event::Turn(name, clusters)),
        1 => cluster().prop_map(Event::Toggle),
        4 => index().prop_map(Event::Arrive),
    ]
}

/// A control plane that answers in any order.
#[derive(Default)]
struct Server {
    world: World,
    subscribed: BTreeSet<(&'static str, String)>,
    due: BTreeSet<(&'static str, String)>,
    answered: BTreeSet<(&'static str, String)>,
    /// Responses that are not acknowledged.
    open: usize,
}

fn kind_of(url: &str) -> Kind {
    KINDS.into_iter().find(|kind| kind.url() == url).unwrap()
}

impl Server {
    fn hear(&mut self, requests: &[DeltaDiscoveryRequest]) {
        for request in requests {
            let url = kind_of(&request.type_url).url();
            self.open -= usize::from(!request.response_nonce.is_empty());
            for name in &request.resource_names_unsubscribe {
                let resource = (url, name.clone());
                self.subscribed.remove(&resource);
                self.due.remove(&resource);
                self.answered.remove(&resource);
            }
            for name in &request.resource_names_subscribe {
                self.subscribed.insert((url, name.clone()));
                self.due.insert((url, name.clone()));
            }
        }
    }

    fn changed(&mut self, kind: Kind, name: &str) {
        let resource = (kind.url(), name.to_owned());
        if self.subscribed.contains(&resource) {
            self.due.insert(resource);
        }
    }

    fn change(&mut self, event: Event) {
        match event {
            Event::Turn(name, Some(clusters)) => {
                self.world.tables.insert(name, clusters);
                self.changed(Kind::Routes, name);
            }
            Event::Turn(name, None) => {
                self.world.tables.remove(name);
                self.changed(Kind::Routes, name);
            }
            Event::Toggle(name) => {
                if !self.world.clusters.remove(name) {
                    self.world.clusters.insert(name);
                }
                self.changed(Kind::Cluster, name);
                self.changed(Kind::Endpoints, name);
            }
            Event::Arrive(_) => {}
        }
    }

    fn next(&mut self, which: &prop::sample::Index) -> Option<DeltaDiscoveryResponse> {
        let all: Vec<_> = self.due.iter().cloned().collect();
        if all.is_empty() {
            return None;
        }
        let (url, name) = which.get(&all).clone();
        self.due.remove(&(url, name.clone()));
        self.answered.insert((url, name.clone()));
        self.open += 1;
        let has = self.world.clusters.contains(&*name);
        let response = match kind_of(url) {
            Kind::Listener => listener(&name),
            Kind::Routes => match self.world.tables.get(&*name) {
                Some(clusters) => response(Kind::Routes, &name, routes_to(&name, clusters).encode_to_vec()),
                None => removal(Kind::Routes, &name),
            },
            Kind::Cluster if has => cluster(&name),
            Kind::Endpoints if has => endpoints(&name),
            kind => removal(kind, &name),
        };
        Some(DeltaDiscoveryResponse { nonce: "n".into(), ..response })
    }

    fn has_answered(&self, kind: Kind, name: &str) -> bool {
        self.answered.contains(&(kind.url(), name.to_owned()))
    }

    /// Nothing that is in force leads to what was not answered, and nothing is taken away that is led to in spite of what comes.
    fn leads_somewhere(&self, before: &Config, config: &Config) -> Result<(), TestCaseError> {
        for listener in config.listeners.values() {
            prop_assert!(self.has_answered(Kind::Routes, listener.routes().unwrap()));
        }
        for (name, table) in &config.routes {
            for cluster in table.clusters() {
                prop_assert!(self.has_answered(Kind::Cluster, cluster), "{name} leads to {cluster}: not answered");
                let is_there = config.clusters.contains_key(cluster);
                prop_assert!(!is_there || self.has_answered(Kind::Endpoints, cluster), "{cluster}: who is in it?");
                let was_there = before.clusters.contains_key(cluster) && config.warming.contains(name);
                prop_assert!(is_there || !was_there, "{name} leads to {cluster}, and to something else soon");
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn in_whatever_order_it_comes_what_is_in_force_leads_somewhere(
        events in prop::collection::vec(event(), 0..60),
        rest in prop::collection::vec(index(), 60),
    ) {
        let now = Instant::now();
        let (mut session, mut server) = (session(), Server::default());
        let _nothing_yet = session.connected(now);
        server.hear(&session.want(vec![WEB.into(), API.into()], now));
        for event in events.into_iter().chain(rest.into_iter().map(Event::Arrive)) {
            if let Event::Arrive(which) = &event {
                let Some(response) = server.next(which) else { continue };
                let before = session.config().clone();
                let requests = session.receive(response, now).requests;
                server.leads_somewhere(&before, session.config())?;
                server.hear(&requests);
            } else {
                server.change(event);
            }
        }
        prop_assert!(server.due.is_empty() && server.open == 0, "{} responses are not acknowledged", server.open);
        let config = session.config();
        prop_assert!(config.warming.is_empty() && config.listeners.len() == 2, "{:?}", config.warming);
        let mut named = BTreeSet::new();
        for name in [WEB, API] {
            let wanted = server.world.tables.get(name);
            prop_assert_eq!(config.routes.contains_key(name), wanted.is_some());
            let wanted: Vec<String> = wanted.into_iter().flatten().map(|it| (*it).to_owned()).collect();
            prop_assert_eq!(leads(&session, name), wanted.clone());
            named.extend(wanted);
        }
        let expected: BTreeSet<String> = named.into_iter().filter(|it| server.world.clusters.contains(&**it)).collect();
        prop_assert_eq!(config.clusters.keys().cloned().collect::<BTreeSet<_>>(), expected.clone());
        prop_assert_eq!(config.endpoints.keys().cloned().collect::<BTreeSet<_>>(), expected);
    }
}

#[test]
fn whoever_was_dialled_is_not_waited_for() {
    use fairway_proto::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
    let (mut session, now) = (in_force(Instant::now()), Instant::now());
    let received = session.receive(table(WEB, &["dialled"]), now);
    assert_eq!(asked(&received.requests), [("Cluster", vec!["dialled"], vec![])]);
    let mut message = eds("dialled");
    message.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
    message.lb_policy = LbPolicy::ClusterProvided.into();
    let received = session.receive(response(Kind::Cluster, "dialled", message.encode_to_vec()), now);
    let is_asked =
        asked(&received.requests).iter().any(|(kind, more, _)| *kind == "ClusterLoadAssignment" && !more.is_empty());
    assert!(!is_asked, "nobody tells of its endpoints: {:?}", asked(&received.requests));
    assert_eq!((leads(&session, WEB), session.expired()), (vec!["dialled".to_owned()], 0));
}
