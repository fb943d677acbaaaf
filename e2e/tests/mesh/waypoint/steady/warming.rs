//! Routes are turned to services that the waypoint has never used, and no request fails for it.

use super::Steady;

/// Services that nobody has used yet.
const TURNS: usize = 4;

fn service(number: usize, of: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: fresh-{number}, namespace: shop}}\n\
         spec: {{selector: {{app: {of}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n"
    )
}

/// Requests go to these services, with these weights.
fn route(backends: &[(usize, u32)]) -> String {
    let one = |(number, weight): &(usize, u32)| format!("{{name: fresh-{number}, port: 80, weight: {weight}}}");
    let backends: Vec<String> = backends.iter().map(one).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: turn, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: web, port: 80}}]\n  rules: [{{backendRefs: [{}]}}]\n",
        backends.join(", ")
    )
}

#[test]
fn no_request_fails_while_routes_are_turned_to_what_was_not_used_before() {
    let Some(steady) = Steady::up("warming") else { return };
    let lab = &steady.lab;
    // Pods by turns, so that who answers says which routes are in force.
    let pod = |number: usize| if number.is_multiple_of(2) { "other" } else { "web" };
    for number in 0..TURNS {
        lab.apply(&format!("{}---\n{}", service(number, pod(number)), route(&[(number, 1)]))).unwrap();
        steady.comes_from(&[pod(number)]);
    }
    // Several at once, with shares that change; all of them but the last are new.
    let last = TURNS - 1;
    let more: Vec<String> = (TURNS..TURNS + 2).map(|number| service(number, pod(number))).collect();
    lab.apply(&format!("{}---\n{}", more.join("---\n"), route(&[(last, 1), (TURNS, 1), (TURNS + 1, 1)]))).unwrap();
    steady.comes_from(&["web", "other"]);
    lab.apply(&route(&[(last, 0), (TURNS, 9), (TURNS + 1, 1)])).unwrap();
    steady.comes_from(&["web", "other"]);
    // Backends go, from the route and altogether.
    lab.apply(&route(&[(TURNS, 1)])).unwrap();
    for gone in (0..TURNS).chain([TURNS + 1]) {
        lab.delete(&service(gone, pod(gone))).unwrap();
    }
    steady.comes_from(&[pod(TURNS)]);
    lab.delete(&route(&[(TURNS, 1)])).unwrap();
    lab.delete(&service(TURNS, pod(TURNS))).unwrap();
    steady.comes_from(&["web"]);
}
