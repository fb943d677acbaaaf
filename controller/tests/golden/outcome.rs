//! What HTTP clients are told, in readable form.

use fairway_controller::l7::Client;
use fairway_controller::state::Published;
use fairway_controller::world::ResourceType;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Map, Value, json};

use super::lint;

/// A line of this says for which clients resources are written down, each `NAMESPACE[/grpc|/waypoint=NAME][@REGION.ZONE][#POD]`.
const CLIENTS: &str = "# clients:";
/// A line of this says of which types, instead of routes alone.
const TYPES: &str = "# types:";

fn words<'a>(input: &'a str, line: &str) -> Vec<&'a str> {
    let found = input.lines().find_map(|text| text.strip_prefix(line));
    found.into_iter().flat_map(str::split_whitespace).collect()
}

fn client(text: &str) -> Client {
    let (text, pod) = text.split_once('#').unwrap_or((text, ""));
    let (text, place) = text.split_once('@').unwrap_or((text, ""));
    let (region, zone) = place.split_once('.').unwrap_or_default();
    let (namespace, kind) = text.split_once('/').unwrap_or((text, ""));
    Client {
        namespace: namespace.to_owned(),
        locality: [region.to_owned(), zone.to_owned(), String::new()],
        pod: pod.to_owned(),
        is_grpc: kind == "grpc",
        gateway: kind.strip_prefix("waypoint=").map(|name| (namespace.to_owned(), name.to_owned())),
        ..Client::default()
    }
}

fn readable(pool: &DescriptorPool, kind: ResourceType, body: &[u8]) -> Value {
    let name = kind.type_url().rsplit('/').next().unwrap();
    let message = DynamicMessage::decode(pool.get_message_by_name(name).unwrap(), body).unwrap();
    let options = SerializeOptions::new().stringify_64_bit_integers(false);
    let mut value = message.serialize_with_options(serde_json::value::Serializer, &options).unwrap();
    if let Some(value) = value.as_object_mut() {
        value.remove("name");
    }
    value
}

/// What the clients that the input names are told, and what users are told of their routes; nothing when it names none.
pub(crate) fn outcome(input: &str, published: &Published) -> Option<Value> {
    let pool = DescriptorPool::decode(fairway_proto::DESCRIPTORS).unwrap();
    let types = words(input, TYPES);
    let is_wanted = |kind: &ResourceType| match types.as_slice() {
        [] => *kind == ResourceType::RouteConfiguration,
        types => types.iter().any(|wanted| kind.short_name().ends_with(&format!(".{wanted}"))),
    };
    let snapshot = published.world.l7();
    let told = |text: &&str| {
        let client = client(text);
        let mut told = Map::new();
        for kind in ResourceType::L7.into_iter().filter(is_wanted) {
            let mut resources: Vec<_> = snapshot.all(kind, &client).collect();
            resources.sort_by(|left, right| left.name.cmp(&right.name));
            let named = resources.iter().map(|it| (it.name.to_string(), readable(&pool, kind, &it.body)));
            told.insert(kind.short_name().rsplit('.').next().unwrap().to_owned(), named.collect::<Map<_, _>>().into());
        }
        ((*text).to_owned(), Value::Object(told))
    };
    let clients = words(input, CLIENTS);
    let statuses =
        published.routes().verdicts.iter().chain(&published.destinations().verdicts).map(|(key, verdict)| {
            let short = |entry: &Value| {
                let conditions = entry["conditions"].as_array().unwrap().iter().map(|it| {
                    let text = |key: &str| it[key].as_str().unwrap();
                    format!("{}={} {}: {}", text("type"), text("status"), text("reason"), text("message"))
                });
                conditions.collect::<Vec<_>>()
            };
            let parents = verdict.parents(None, |_, _, _| String::new());
            (key.to_string(), json!(parents.iter().map(short).collect::<Vec<_>>()))
        });
    (!clients.is_empty()).then(|| {
        json!({
            "clients": clients.iter().map(told).collect::<Map<_, _>>(),
            "status": statuses.collect::<Map<_, _>>(),
        })
    })
}

/// Checks every resource for every kind of client.
pub(crate) fn check_all(published: &Published) -> usize {
    let mut count = 0;
    let plain = ["shop", "shop/grpc", "other", "other/grpc", "shop@r.z1", "shop/grpc@r.z2"];
    let waypoints = published.world.l7().waypoints().waypoints.keys();
    let waypoints = waypoints.map(|(namespace, name)| format!("{namespace}/waypoint={name}"));
    for text in plain.map(str::to_owned).into_iter().chain(waypoints) {
        let client = client(&text);
        for kind in ResourceType::L7 {
            for resource in published.world.l7().all(kind, &client) {
                lint::check(kind, &resource, client.is_grpc);
                count += 1;
            }
        }
    }
    count
}
