//! Tests of `plugin`: the protocol by tables, the agent's misbehaviour on real sockets.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;

/// A node as the plugin sees it: the agent's directory, and what it left written.
struct Node {
    directory: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// A node whose agent was installed and left `shop` enrolled.
    fn enrolled() -> Self {
        let node = Self::new();
        let namespaces = ["shop".to_owned()].into();
        std::fs::write(node.state_file(), remembered::render(&namespaces)).unwrap();
        node
    }

    fn state_file(&self) -> PathBuf {
        self.directory.path().join("enrolled.json")
    }

    fn configuration(&self, fail: &str) -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "fairway-cni", "fail": fail,
            "cni_agent_run_dir": self.directory.path(), "state_file": self.state_file(), "timeout_milliseconds": 300,
            "prevResult": previous(),
        })
    }

    fn add(&self, namespace: &str, fail: &str) -> Outcome {
        run(environment("ADD", namespace), &self.configuration(fail).to_string())
    }

    /// An agent that reads one request and sends `answer`; gives what it was asked.
    fn agent(&self, answer: impl Into<Vec<u8>>) -> JoinHandle<String> {
        let listener = UnixListener::bind(self.directory.path().join(event::SOCKET)).unwrap();
        let answer = answer.into();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 4096];
            while !String::from_utf8_lossy(&asked).contains("}") {
                let count = stream.read(&mut buffer).unwrap();
                assert_ne!(count, 0, "the plugin stopped in the middle");
                asked.extend_from_slice(&buffer[..count]);
            }
            stream.write_all(&answer).unwrap();
            String::from_utf8(asked).unwrap()
        })
    }
}

fn previous() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/a"}],
        "ips": [
            {"address": "10.0.0.5/24", "gateway": "10.0.0.1", "interface": 1},
            {"address": "fd00::5/64", "interface": 1},
            {"address": "10.9.9.9/24", "interface": 0},
        ],
        "routes": [{"dst": "0.0.0.0/0", "mtu": 1400}], "dns": {"nameservers": ["10.96.0.10"]}, "unheard": {"of": 1},
    })
}

fn variables(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
    let map: BTreeMap<String, String> = pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    move |name| map.get(name).cloned()
}

fn environment(command: &str, namespace: &str) -> impl Fn(&str) -> Option<String> + use<> {
    let arguments = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web;K8S_POD_UID=u1");
    variables(&[
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", &arguments),
        ("CNI_PATH", "/opt/cni/bin"),
    ])
}

fn http(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn parsed(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.output).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

#[test]
fn an_add_that_the_agent_agrees_to_passes_the_result_through() {
    let node = Node::enrolled();
    let agent = node.agent(http(200, r#"{"captured":true}"#));
    let outcome = node.add("shop", "closed");
    assert_eq!((outcome.code, outcome.complaint.as_str()), (0, ""));
    assert_eq!(parsed(&outcome), previous());
    let asked = agent.join().unwrap();
    assert!(asked.starts_with("POST /cmdadd HTTP/1.1\r\n"), "{asked}");
    let body: Value = serde_json::from_str(asked.split_once("\r\n\r\n").unwrap().1).unwrap();
    let wanted = json!({
        "Netns": "/run/netns/a", "PodName": "web", "PodNamespace": "shop", "PodUID": "u1", "ContainerID": "c0ffee",
        "Network": "pods",
        "IPs": [
            {"Interface": 1, "Address": {"IP": "10.0.0.5", "Mask": "////AA=="}, "Gateway": "10.0.0.1"},
            {"Interface": 1, "Address": {"IP": "fd00::5", "Mask": "//////////8AAAAAAAAAAA=="}, "Gateway": ""},
        ],
    });
    assert_eq!(body, wanted, "the node's end of the link is not the pod's");
}

#[test]
fn a_refusal_of_the_agent_is_try_again_later() {
    let node = Node::enrolled();
    let agent = node.agent(http(500, r#"{"captured":false,"reason":"no node proxy is connected"}"#));
    // Whatever the namespace: the agent has looked at the pod itself.
    let outcome = node.add("bank", "closed");
    agent.join().unwrap();
    assert_eq!((outcome.code, parsed(&outcome)["code"].clone()), (1, json!(11)));
    assert!(parsed(&outcome)["msg"].as_str().unwrap().contains("no node proxy is connected"), "{outcome:?}");
    let node = Node::enrolled();
    let agent = node.agent(http(500, r#"{"reason":"no node proxy is connected"}"#));
    assert_eq!(node.add("bank", "open").code, 0);
    agent.join().unwrap();
}

#[test]
fn without_an_agent_only_pods_of_enrolled_namespaces_are_refused() {
    // namespace, fail, passes
    let rows = [("shop", "closed", false), ("bank", "closed", true), ("shop", "open", true), ("bank", "open", true)];
    type Agent = Box<dyn Fn(&Node) -> Option<JoinHandle<String>>>;
    let agents: Vec<(&str, Agent)> = vec![
        ("gone", Box::new(|_| None)),
        (
            "left its socket behind",
            Box::new(|node| {
                drop(UnixListener::bind(node.directory.path().join(event::SOCKET)).unwrap());
                None
            }),
        ),
        ("closes", Box::new(|node| Some(node.agent("")))),
        ("answers garbage", Box::new(|node| Some(node.agent("\u{1}\u{2} nothing\r\n\r\n")))),
        ("answers no text", Box::new(|node| Some(node.agent(vec![0xff; 300])))),
        ("stops early", Box::new(|node| Some(node.agent("HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{}")))),
        ("is ending", Box::new(|node| Some(node.agent(http(503, r#"{"reason":"ending"}"#))))),
        ("does not know the call", Box::new(|node| Some(node.agent(http(404, ""))))),
        ("never ends", Box::new(|node| Some(node.agent(vec![b'x'; 70 * 1024])))),
    ];
    for (name, agent) in &agents {
        for (namespace, fail, passes) in rows {
            let node = Node::enrolled();
            let thread = agent(&node);
            let outcome = node.add(namespace, fail);
            // It may meet a closed connection while it still talks.
            drop(thread.map(JoinHandle::join));
            let name = format!("an agent that {name}, namespace {namespace}, fail {fail}: {outcome:?}");
            assert_eq!(outcome.code == 0, passes, "{name}");
            if passes {
                assert_eq!(parsed(&outcome), previous(), "{name}");
                assert_ne!(outcome.complaint, "", "{name}");
            } else {
                assert_eq!(parsed(&outcome)["code"], 11, "{name}");
                assert!(parsed(&outcome)["msg"].as_str().unwrap().contains("enrolled"), "{name}");
            }
        }
    }
}

#[test]
fn a_slow_agent_is_not_waited_for_longer_than_set() {
    for greets in [true, false] {
        let node = Node::enrolled();
        let socket = node.directory.path().join(event::SOCKET);
        let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        listener.bind(&socket2::SockAddr::unix(&socket).unwrap()).unwrap();
        listener.listen(0).unwrap();
        // A full queue holds up even the connecting.
        let _filling = (!greets).then(|| std::os::unix::net::UnixStream::connect(&socket).unwrap());
        let started = Instant::now();
        let outcome = node.add("shop", "closed");
        let took = started.elapsed();
        assert_eq!(parsed(&outcome)["code"], 11);
        assert!(outcome.complaint.contains("within 300ms"), "{outcome:?}");
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
        // DEL never fails, and waits for no one either.
        let outcome = run(environment("DEL", "shop"), &node.configuration("closed").to_string());
        assert_eq!((outcome.code, outcome.output.as_str()), (0, ""));
    }
}

#[test]
fn after_the_agent_was_uninstalled_everything_is_a_no_op() {
    let node = Node::new();
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let mut configuration = node.configuration("closed");
        configuration["cniVersion"] = json!("1.1.0");
        configuration["cni.dev/valid-attachments"] = json!([]);
        let outcome = run(environment(command, "shop"), &configuration.to_string());
        assert_eq!(outcome.code, 0, "{command}: {outcome:?}");
        let mut wanted = previous();
        wanted["cniVersion"] = json!("1.1.0");
        if command == "ADD" {
            assert_eq!(parsed(&outcome), wanted);
        } else {
            assert_eq!(outcome.output, "", "{command}");
        }
    }
}

#[test]
fn check_tells_the_truth_of_the_agent_and_nothing_without_one() {
    let node = Node::enrolled();
    let agent = node.agent(http(500, r#"{"reason":"its rules are gone"}"#));
    let outcome = run(environment("CHECK", "shop"), &node.configuration("closed").to_string());
    assert_eq!((parsed(&outcome)["code"].clone(), outcome.code), (json!(100), 1));
    assert!(agent.join().unwrap().starts_with("POST /cmdcheck "));
    let outcome = run(environment("CHECK", "shop"), &node.configuration("closed").to_string());
    assert_eq!((outcome.code, outcome.output.as_str()), (0, ""), "the agent has gone");
}

#[test]
fn garbage_is_what_the_agent_keeps_of_sandboxes_that_a_runtime_does_not_list() {
    let node = Node::enrolled();
    let collect = |node: &Node| {
        let mut configuration = node.configuration("closed");
        configuration["cniVersion"] = json!("1.1.0");
        configuration["cni.dev/valid-attachments"] = json!([
            {"containerID": "b", "ifname": "eth0"}, {"containerID": "a", "ifname": "eth0"},
            {"containerID": "a", "ifname": "net1"},
        ]);
        run(variables(&[("CNI_COMMAND", "GC"), ("CNI_PATH", "/x")]), &configuration.to_string())
    };
    let agent = node.agent(http(200, "{}"));
    let done = Outcome { output: String::new(), complaint: String::new(), code: 0 };
    assert_eq!(collect(&node), done);
    let asked = agent.join().unwrap();
    assert!(asked.starts_with("POST /cmdgc "), "{asked}");
    let body: Value = serde_json::from_str(asked.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body, json!({"Network": "pods", "ContainerIDs": ["a", "b"]}));
    let outcome = collect(&node);
    assert_eq!((outcome.code, outcome.output.as_str()), (0, ""), "an agent that has gone keeps nothing");
}

#[test]
fn without_a_list_nothing_is_garbage_and_nobody_is_asked() {
    let node = Node::enrolled();
    for list in [None, Some(Value::Null)] {
        // Nobody answers here: who asked would complain of that.
        let mut configuration = node.configuration("closed");
        configuration["cniVersion"] = json!("1.1.0");
        if let Some(list) = list {
            configuration["cni.dev/valid-attachments"] = list;
        }
        let environment = variables(&[("CNI_COMMAND", "GC"), ("CNI_PATH", "/x")]);
        let outcome = run(environment, &configuration.to_string());
        assert_eq!((outcome.code, outcome.output.as_str()), (0, ""), "{outcome:?}");
        assert!(outcome.complaint.contains("nothing is known to be garbage"), "{outcome:?}");
    }
}

#[test]
fn status_fails_only_when_no_pod_could_start() {
    let ask = |node: &Node| {
        let mut configuration = node.configuration("closed");
        configuration["cniVersion"] = json!("1.1.0");
        run(variables(&[("CNI_COMMAND", "STATUS"), ("CNI_PATH", "/x")]), &configuration.to_string())
    };
    let node = Node::enrolled();
    assert_eq!(ask(&node).code, 0);
    std::fs::write(node.state_file(), "half").unwrap();
    assert_eq!(parsed(&ask(&node))["code"], 50);
    let agent = UnixListener::bind(node.directory.path().join(event::SOCKET)).unwrap();
    assert_eq!(ask(&node).code, 0, "the agent answers, so the file does not matter");
    drop(agent);
}

#[test]
fn calls_that_are_not_as_the_specification_says_are_refused_by_its_codes() {
    let good: &[(&str, &str)] =
        &[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c0ffee"), ("CNI_NETNS", "/run/netns/a"), ("CNI_IFNAME", "eth0")];
    let with = |name: &'static str, value: &'static str| {
        let mut pairs: BTreeMap<&str, &str> = good.iter().copied().collect();
        pairs.insert(name, value);
        pairs.into_iter().collect::<Vec<_>>()
    };
    let conf = r#"{"cniVersion":"1.0.0","name":"n","type":"fairway-cni","prevResult":{"ips":[]}}"#;
    let old = r#"{"cniVersion":"0.3.1","name":"n","type":"fairway-cni","prevResult":{"ips":[]}}"#;
    let listless = r#"{"cniVersion":"1.1.0","name":"n","type":"fairway-cni","cni.dev/valid-attachments":{}}"#;
    let nameless = r#"{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[{"ifname":"eth0"}]}"#;
    // environment, input, code, part of the message
    type Environment = Vec<(&'static str, &'static str)>;
    let rows: Vec<(Environment, &str, u64, &str)> = vec![
        (with("CNI_COMMAND", ""), conf, 4, "CNI_COMMAND is not set"),
        (with("CNI_COMMAND", "add"), conf, 4, "unknown"),
        (with("CNI_CONTAINERID", ""), conf, 4, "CNI_CONTAINERID is not set"),
        (with("CNI_CONTAINERID", "../x"), conf, 4, "CNI_CONTAINERID"),
        (with("CNI_CONTAINERID", "a/b"), conf, 4, "CNI_CONTAINERID"),
        (with("CNI_NETNS", ""), conf, 4, "CNI_NETNS is not set"),
        (with("CNI_IFNAME", ""), conf, 4, "CNI_IFNAME is not set"),
        (with("CNI_IFNAME", "1234567890123456"), conf, 4, "CNI_IFNAME"),
        (with("CNI_IFNAME", ".."), conf, 4, "CNI_IFNAME"),
        (with("CNI_IFNAME", "a b"), conf, 4, "CNI_IFNAME"),
        (with("CNI_ARGS", "K8S_POD_NAME"), conf, 4, "KEY=VALUE"),
        (good.to_vec(), "", 6, "not JSON"),
        (good.to_vec(), "{", 6, "not JSON"),
        (good.to_vec(), r#"{"cniVersion":"2.0.0"}"#, 1, "2.0.0"),
        (good.to_vec(), r#"{"cniVersion":"0.2.0"}"#, 1, "0.2.0"),
        (good.to_vec(), r#"{"name":"n"}"#, 1, "0.1.0"),
        (good.to_vec(), r#"{"cniVersion":"1.0.0","name":"n"}"#, 7, "prevResult"),
        (good.to_vec(), r#"{"cniVersion":"1.0.0","fail":"maybe"}"#, 7, "maybe"),
        (good.to_vec(), r#"{"cniVersion":"1.0.0","timeout_milliseconds":"soon"}"#, 7, "soon"),
        (with("CNI_COMMAND", "CHECK"), old, 1, "0.4.0"),
        (with("CNI_COMMAND", "STATUS"), conf, 1, "1.1.0"),
        (with("CNI_COMMAND", "GC"), conf, 1, "1.1.0"),
        (with("CNI_COMMAND", "GC"), listless, 7, "not a list"),
        (with("CNI_COMMAND", "GC"), nameless, 7, "without a containerID"),
    ];
    for (environment, input, code, message) in rows {
        let outcome = run(variables(&environment), input);
        let name = format!("{environment:?} {input}: {outcome:?}");
        let object = parsed(&outcome);
        assert_eq!((outcome.code, object["code"].as_u64()), (1, Some(code)), "{name}");
        assert!(object["msg"].as_str().unwrap().contains(message), "{name}");
        assert!(protocol::VERSIONS.contains(&object["cniVersion"].as_str().unwrap()), "{name}");
    }
}

#[test]
fn an_end_is_not_refused_for_what_it_does_not_need() {
    let rows = [(r#"{"cniVersion":"1.0.0","name":"n","fail":"maybe"}"#, ""), (r#"{"cniVersion":"1.0.0"}"#, "nonsense")];
    for (input, arguments) in rows {
        let environment =
            [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0"), ("CNI_ARGS", arguments)];
        assert_eq!(run(variables(&environment), input).code, 0, "{input} {arguments}");
    }
}

#[test]
fn an_entry_without_a_memory_passes_for_one_that_cannot_be_read() {
    let node = Node::enrolled();
    let mut configuration = node.configuration("closed");
    configuration.as_object_mut().unwrap().remove("state_file");
    let outcome = run(environment("ADD", "bank"), &configuration.to_string());
    assert_eq!(parsed(&outcome)["code"], 11, "{outcome:?}");
}

#[test]
fn version_is_answered_whatever_the_input() {
    for (input, version) in
        [("", "1.1.0"), ("{}", "1.1.0"), (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"), (r#"{"cniVersion":"9.0.0"}"#, "1.1.0")]
    {
        let outcome = run(variables(&[("CNI_COMMAND", "VERSION")]), input);
        let wanted = json!({"cniVersion": version, "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]});
        assert_eq!((outcome.code, parsed(&outcome)), (0, wanted), "{input}");
    }
}

#[test]
fn a_sandbox_that_is_no_pod_is_nobodys_business() {
    let node = Node::enrolled();
    let environment =
        variables(&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "a"), ("CNI_NETNS", "/n"), ("CNI_IFNAME", "eth0")]);
    let outcome = run(environment, &node.configuration("closed").to_string());
    assert_eq!((outcome.code, parsed(&outcome)), (0, previous()));
}

#[test]
fn results_are_written_as_their_version_has_them() {
    let old = json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.5/24"}, {"version": "6", "address": "fd00::5/64"}]});
    let new = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5/24"}, {"address": "fd00::5/64"}]});
    for (from, version, wanted) in
        [(&old, "0.4.0", &old), (&old, "1.0.0", &new), (&new, "0.4.0", &old), (&new, "1.0.0", &new)]
    {
        let text = result::pass_through(from, version);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), *wanted, "{from} {version}");
    }
}
