//! Policy reaches connections that are open between ours and theirs, and only those it means.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::mesh::labs::say;
use held::Held;

#[path = "../../policy_live/held.rs"]
mod held;

/// Who dials whose server.
const PAIRS: [(&str, &str); 4] = [("ours", "ours"), ("ours", "theirs"), ("theirs", "ours"), ("theirs", "theirs")];

#[test]
fn a_deny_cuts_open_connections_between_ours_and_theirs() {
    let Some(lab) = super::mixed("live") else { return };
    for (client, server) in PAIRS {
        let pod = format!("mixed/{client}-client");
        let address = format!("{server}-server.mixed:7000");
        let mut denied = Held::open(&lab, &pod, &address, 10, 0);
        let other = if client == "ours" { "mixed/theirs-client" } else { "mixed/ours-client" };
        let mut spared = Held::open(&lab, other, &address, 5, 0);
        let mut elsewhere = Held::open(&lab, "street/ours-visitor", &address, 5, 0);
        denied.assert_works();
        let manifest = deny(client);
        let applied = Instant::now();
        lab.apply(&manifest).unwrap();
        let by = format!("mixed/deny-{client}");
        // Theirs tells of a cut like of an end (CANCEL, interop §1.8), so what the application sees of it is an end. What we cut
        // is told to them as a reset; whether their application sees one is theirs to decide.
        let both_ours = (client, server) == ("ours", "ours");
        let ends = if both_ours { denied.assert_cut(applied, &by) } else { denied.ends() };
        let hows: BTreeSet<&str> = ends.iter().map(|end| end.how.as_str()).collect();
        let last = ends.iter().map(|end| end.when.duration_since(applied).as_millis()).max();
        say(&format!("{client} to {server}: all cut after {} ms, seen as {hows:?}", last.unwrap_or_default()));
        assert_eq!(ends.iter().map(|end| end.id).collect::<BTreeSet<u64>>().len(), 10, "{ends:?}");
        elsewhere.assert_works();
        spared.assert_works();
        lab.delete(&manifest).unwrap();
        super::reachable(&lab, &pod, server);
    }
}

fn deny(client: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: deny-{client}, namespace: mixed}}\n\
         spec: {{action: DENY, rules: [{{from: [{{source: {{principals: [cluster.local/ns/mixed/sa/{client}-client]}}}}]}}]}}\n"
    )
}
