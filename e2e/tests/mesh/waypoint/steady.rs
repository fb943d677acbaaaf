//! What clients never notice: they ask all the time, and streams of theirs last, while what is between changes.

use std::path::{Path, PathBuf};

use fairway_lab::Lab;

use super::{CLIENT, labs};
use crate::mesh::shop::Conversation;

mod lasting;
mod renewed;
mod rollout;
mod warming;

const WORLD: &str = include_str!("steady.yaml");
/// The waypoint, with so many pods.
const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
    metadata: {name: waypoint, namespace: shop, annotations: {fairway.dev/replicas: \"REPLICAS\"}}\n\
    spec:\n  gatewayClassName: fairway-waypoint\n  listeners: [{name: mesh, port: 15008, protocol: HBONE}]\n";
/// The pod that asks; its containers are ways to ask.
const ASKING: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: asking, namespace: shop}\nspec:\n  nodeName: node-1\n  \
    serviceAccountName: client\n  containers:\n    \
    - {name: kept, command: [PYTHON, STEADY, kept, web, \"80\"]}\n    \
    - {name: fresh, command: [PYTHON, STEADY, fresh, web, \"80\"]}\n    \
    - {name: calls, command: [PYTHON, STEADY, calls, \"web.shop.svc.cluster.local:9000\"]}\n";
const WAYS: [&str; 3] = ["kept", "fresh", "calls"];
/// Answers after which a client counts as carrying on.
const ANSWERS: usize = 20;
/// Kinds of streams that last, and their ports.
const LASTING: [(&str, &str); 3] = [("grpc", "9000"), ("websocket", "9001"), ("download", "80")];

/// A lab in which clients ask all the time.
struct Steady {
    lab: Lab,
    python: PathBuf,
    script: PathBuf,
}

impl Steady {
    /// None, said out loud, where it cannot be.
    fn up(test: &str) -> Option<Self> {
        Self::up_in(test, WORLD)
    }

    /// The same, in another world.
    fn up_in(test: &str, world: &str) -> Option<Self> {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), Into::into);
        let (python, scripts) = (target.join("peers/bin/python"), checkout.join("e2e/tests/mesh/waypoint"));
        if !python.exists() {
            labs::skip(test, &format!("{} is missing; run ./dev setup", python.display()));
            return None;
        }
        let script = scripts.join("steady.py");
        let lab = labs::mesh_with(test, &placed(world, &python, &scripts))?;
        lab.wait_captured(&[(CLIENT, true), ("shop/web", true), ("shop/other", true)]).unwrap();
        lab.wait_until("requests to go through the waypoint", || {
            let answer = super::ask(&lab, CLIENT, "http://web/", &["-X", "POST"]);
            if answer.starts_with("200 ") { Ok(()) } else { Err(answer) }
        })
        .unwrap();
        lab.apply(&placed(ASKING, &python, &scripts)).unwrap();
        lab.wait_ready().unwrap();
        lab.wait_captured(&[("shop/asking", true)]).unwrap();
        let steady = Self { lab, python, script };
        steady.carries_on();
        Some(steady)
    }

    /// Manifests with the programs of this checkout.
    fn placed(&self, text: &str) -> String {
        placed(text, &self.python, self.script.parent().unwrap())
    }

    /// What a client has heard since its first answer: answers, and what was none. Before that its pod may not have been captured.
    fn heard(&self, way: &str) -> (Vec<String>, Vec<String>) {
        let path = self.lab.layout().container_log("shop", "asking", way);
        let log = std::fs::read_to_string(path).unwrap_or_default();
        // The last line may be half of one.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let is_answer = |line: &str| line.starts_with("200 ");
        whole.lines().skip_while(|line| !is_answer(line)).map(str::to_owned).partition(|line| is_answer(line))
    }

    /// Waits until each client has heard more answers, and hears of nothing that was none.
    fn carries_on(&self) {
        let before = WAYS.map(|way| self.heard(way).0.len());
        self.lab
            .wait_until("all clients to carry on", || {
                let now = WAYS.map(|way| self.heard(way).0.len());
                let has_more = now.iter().zip(before).all(|(now, before)| *now >= before + ANSWERS);
                if has_more { Ok(()) } else { Err(format!("{before:?}, now {now:?}")) }
            })
            .unwrap();
        self.nothing_failed();
    }

    /// Waits until new answers over HTTP are all from one of these.
    fn comes_from(&self, texts: &[&str]) {
        let mut before = 0;
        self.lab
            .wait_until(&format!("answers from {texts:?}"), || {
                let (answers, _) = self.heard("kept");
                let is_wanted = |line: &String| texts.iter().any(|text| line.ends_with(text));
                before += answers[before..].iter().rposition(|line| !is_wanted(line)).map_or(0, |place| place + 1);
                let new = &answers[before..];
                let all = texts.iter().all(|text| new.iter().any(|line| line.ends_with(text)));
                if all && new.len() >= ANSWERS { Ok(()) } else { Err(format!("{new:?}")) }
            })
            .unwrap();
        self.carries_on();
    }

    fn nothing_failed(&self) {
        for way in WAYS {
            let (answers, failed) = self.heard(way);
            assert!(failed.is_empty(), "{way}, besides {} answers: {failed:?}", answers.len());
        }
    }

    /// A stream of each kind, over which lines go and come back, and a connection that nobody looks into.
    fn lasting(&self) -> Vec<(&'static str, Conversation)> {
        let over = |(kind, port): (&'static str, &str)| {
            let (python, script) = (self.python.to_str().unwrap(), self.script.to_str().unwrap());
            let host = "web.shop.svc.cluster.local";
            (kind, Conversation::over(&self.lab, CLIENT, &[python, script, "converse", kind, host, port]))
        };
        let service = self.lab.status().unwrap().services.into_iter().find(|it| it.name == "web").unwrap();
        let echo = Conversation::open(&self.lab, CLIENT, service.addresses[0].parse().unwrap(), 7000);
        let mut lasting: Vec<_> = LASTING.into_iter().map(over).chain([("connection", echo)]).collect();
        say(&mut lasting, "begin");
        lasting
    }
}

fn placed(text: &str, python: &Path, scripts: &Path) -> String {
    let text = text.replace("PYTHON", python.to_str().unwrap());
    let script = |name: &str| scripts.join(name).to_str().unwrap().to_owned();
    text.replace("STEADY", &script("steady.py")).replace("PEER", &script("peer.py"))
}

/// All streams still carry something.
fn say(lasting: &mut [(&'static str, Conversation)], line: &str) {
    for (kind, conversation) in lasting {
        assert!(conversation.says(line), "{kind}: {line} did not come back");
    }
}
