//! Policies that decide nothing: requests and connections go on as without them, and are counted.

use std::sync::Arc;

use fairway_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::metrics::lines;
use super::streams::{chain, named};
use super::{reason_of, told, web};
use crate::config::{Chain, Listener, Opaque, Permission, Policy, Principal, Purpose, Rules, Silent, Text, Verdict};
use crate::testing::{PATIENCE, Served, get, route_to};

fn rules(verdict: Verdict, name: &str, permission: Permission) -> Rules {
    let policy = Policy { name: name.to_owned(), permissions: vec![permission], principals: vec![Principal::Any] };
    Rules { verdict, policies: vec![policy] }
}

fn path(text: &str) -> Permission {
    Permission::Path(Text::Prefix(text.to_owned()))
}

/// The value of the series of this metric with these labels; 0 without one.
fn count(served: &Served, metric: &str, labels: &str) -> u64 {
    let page = served.metrics.render();
    let line = page.lines().find(|line| line.starts_with(&format!("{metric}{{{labels}}} ")));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

const AUDITED: &str = "fairway_policy_audit_matches_total";
const TRIED: &str = "fairway_policy_dry_run_matches_total";

#[tokio::test]
async fn requests_are_answered_as_without_them_and_counted() {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    let deny = rules(Verdict::Deny, "shop/no-admin/0", path("/admin"));
    served.http(80, vec![deny], vec![route_to(&web(80))], &[endpoint]);
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
        http.silent = vec![
            Silent { purpose: Purpose::Audit, rules: rules(Verdict::Deny, "shop/audit/0", path("/a")) },
            Silent { purpose: Purpose::DryRun, rules: rules(Verdict::Deny, "shop/tried/0", path("/tried")) },
            Silent { purpose: Purpose::DryRun, rules: rules(Verdict::Allow, "shop/open/0", path("/a")) },
        ];
    }
    served.publish();
    let (audit, deny, allow, none) = (
        "policy=\"shop/audit\"",
        "policy=\"shop/tried\",action=\"deny\"",
        "policy=\"shop/open\",action=\"allow\"",
        "policy=\"none\",action=\"deny\"",
    );
    // Path, the status, and how many there have been of each.
    let rows = [
        ("/other", 200, [0, 0, 0, 1]),
        ("/a", 200, [1, 0, 1, 1]),
        ("/tried", 200, [1, 1, 1, 2]),
        // What is refused is told of all the same.
        ("/admin", 403, [2, 1, 2, 2]),
    ];
    for (path, status, expected) in rows {
        let (response, _) = served.send(80, false, get(path, &[])).await;
        let reason = (status == 403).then_some(Reason::PolicyDenied);
        assert_eq!((response.status().as_u16(), reason_of(&response)), (status, reason), "{path}");
        let counted = [(AUDITED, audit), (TRIED, deny), (TRIED, allow), (TRIED, none)];
        assert_eq!(counted.map(|(metric, labels)| count(&served, metric, labels)), expected, "{path}");
    }
    // Further requests of one connection count what it has at hand.
    let mut stream = served.dial("10.96.0.1:80").await;
    let asked =
        "GET /tried HTTP/1.1\r\nhost: a\r\n\r\n".repeat(2) + "GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(asked.as_bytes()).await.unwrap();
    timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    let counted = [(AUDITED, audit), (TRIED, deny), (TRIED, allow), (TRIED, none)];
    assert_eq!(counted.map(|(metric, labels)| count(&served, metric, labels)), [3, 3, 3, 4]);
}

#[tokio::test]
async fn connections_are_carried_as_without_them_and_counted_when_they_end() {
    let mut served = Served::start().await;
    let silent = vec![
        Silent { purpose: Purpose::Audit, rules: rules(Verdict::Deny, "shop/audit/0", Permission::Port(82)) },
        Silent { purpose: Purpose::DryRun, rules: rules(Verdict::Deny, "shop/tried/0", Permission::Any) },
    ];
    let logs = lines("%RESPONSE_FLAGS%\n");
    let others = Some(Arc::new(Chain { silent, logs, ..(*chain("a", vec![], None)).clone() }));
    let clusters = [("a", named("a").await)];
    served.opaque(Opaque { others, ..Opaque::default() }, &clusters);
    let mut stream = served.dial("10.96.0.1:82").await;
    let work = async {
        assert_eq!(stream.read_u8().await.unwrap(), b'a');
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        drop(stream);
        // Told when it has ended, and counted by then.
        served.logged.lines(1).await
    };
    timeout(PATIENCE, work).await.unwrap();
    let counted = [(AUDITED, "policy=\"shop/audit\""), (TRIED, "policy=\"shop/tried\",action=\"deny\"")];
    assert_eq!(counted.map(|(metric, labels)| count(&served, metric, labels)), [1, 1]);
}
