//! The lab with both waypoints in it, and loads that go through one of them.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use fairway_lab::binaries::Build;
use fairway_lab::layout::Layout;
use fairway_lab::{Lab, Options as LabOptions};
use serde::de::DeserializeOwned;

use super::manifests::{self, NAMESPACE};
use super::{authority, envoy};
use crate::load::Usage;
use crate::measured::float;

/// The waypoints: what is compared to, and ours.
pub(super) const NAMES: [&str; 2] = ["envoy", "fairway"];
/// The controller, as the lab's waypoints find it.
const CONTROLLER: &str = "https://10.99.0.1:15012";
/// Envoy's files in the lab's directory.
const FILES: [&str; 3] = ["envoy.json", "envoy.crt", "envoy.key"];
/// Its file with many services.
const CROWD: &str = "envoy-crowd.json";
/// How often it is looked at whether a waypoint still works on its configuration, and how often in a row it must not.
const LOOK: (Duration, u32) = (Duration::from_millis(500), 10);
/// Processor seconds between two looks of a process that has nothing to take any more.
const QUIET: f64 = 0.1;

/// The lab.
pub(super) struct Stage {
    lab: Lab,
    bench: String,
    token: String,
    /// Resident bytes of each waypoint before anybody asked it for anything.
    idle: Vec<f64>,
}

/// A lab's error names its own causes; as a chain they would be named twice.
fn said(error: fairway_lab::Error) -> anyhow::Error {
    anyhow!("{error}")
}

impl Stage {
    /// Brings it up and proves that requests go through both waypoints.
    pub(super) fn up(envoy: &Path, no_build: bool) -> Result<Self> {
        let text = |path: &Path| path.to_str().map(ToOwned::to_owned).context("a path is not text");
        let lab = Lab::up_with(
            LabOptions {
                name: format!("bench-waypoint-{}", std::process::id()),
                build: if no_build { Build::Never } else { Build::InCheckout },
                ..LabOptions::default()
            },
            &mut |text| eprintln!("{text}"),
        )?;
        let (token, keys) = authority::token()?;
        let mut stage = Self { lab, bench: text(&std::env::current_exe()?)?, token, idle: Vec::new() };
        let lab = &stage.lab;
        lab.apply(&manifests::world(&stage.bench, &keys)).map_err(said)?;
        let server = stage.address_of_pod("server")?;
        let inside = Layout::inside();
        let [configuration, chain, key] = FILES.map(|name| inside.root().join(name));
        let given = envoy::Given {
            server,
            keys: &keys,
            chain: text(&chain)?,
            key: text(&key)?,
            root: text(&inside.root_certificate())?,
        };
        let identity = format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/{}", NAMES[0]);
        let authority = lab.layout().root_certificate();
        let authority = authority.parent().context("the root is in no directory")?;
        let certificate = authority::certificate(authority, &identity)?;
        let contents = [envoy::configuration(&given).to_string(), certificate.chain, certificate.key];
        for (name, content) in FILES.into_iter().zip(contents) {
            std::fs::write(lab.layout().root().join(name), content).with_context(|| format!("writing {name}"))?;
        }
        let root = text(&inside.root_certificate())?;
        lab.apply(&manifests::waypoints(&text(envoy)?, &text(&configuration)?, CONTROLLER, &root)).map_err(said)?;
        let addresses = NAMES
            .map(|name| stage.address_of_pod(name).map(|address| (name, address)))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        lab.apply(&manifests::gateways(&addresses)).map_err(said)?;
        lab.wait_ready().map_err(said)?;
        for name in NAMES {
            stage.settled(stage.pid(name)?)?;
        }
        stage.idle = NAMES.map(|name| stage.resident(name)).into_iter().collect::<Result<_>>()?;
        stage.prove()?;
        Ok(stage)
    }

    /// Resident bytes of each waypoint before anybody asked it for anything.
    pub(super) fn idle(&self) -> &[f64] {
        &self.idle
    }

    /// The token that requests show where one is asked for.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    fn address_of_pod(&self, name: &str) -> Result<IpAddr> {
        self.lab
            .wait_until(&format!("pod {name} to have an address"), || {
                let status = self.lab.status().map_err(|error| error.to_string())?;
                let pod = status.pods.iter().find(|pod| pod.name == name).ok_or("there is no such pod")?;
                pod.addresses.first().and_then(|address| address.parse().ok()).ok_or_else(|| "it has none".to_owned())
            })
            .map_err(said)
    }

    fn address_of_service(&self, name: &str) -> Result<IpAddr> {
        let status = self.lab.status().map_err(said)?;
        let service = status.services.iter().find(|service| service.name == name);
        let address = service.and_then(|service| service.addresses.first());
        let address = address.with_context(|| format!("service {name} has no address"))?;
        address.parse().with_context(|| format!("address {address} of service {name}"))
    }

    /// Process id of a waypoint, within the lab.
    fn pid(&self, name: &str) -> Result<i32> {
        let status = self.lab.status().map_err(said)?;
        let pod = status.pods.iter().find(|pod| pod.name == name);
        pod.and_then(|pod| pod.pids.first().copied()).with_context(|| format!("{name} does not run"))
    }

    /// Waits until requests on every port are answered, and that the waypoint has worked for them.
    fn prove(&self) -> Result<()> {
        for name in NAMES {
            for load in &super::LOADS {
                self.lab
                    .wait_until(&format!("{name} to pass on {}", load.name), || {
                        let done = super::measure(self, usize::from(name == NAMES[1]), load, 0.3);
                        let outcome = done.map_err(|error| format!("{error:#}"))?;
                        let worked = outcome.cpu_seconds.iter().sum::<f64>() > 0.0;
                        if worked { Ok(()) } else { Err("requests were answered without it".to_owned()) }
                    })
                    .map_err(said)?;
            }
        }
        Ok(())
    }

    /// Resident bytes of a waypoint.
    pub(super) fn resident(&self, name: &str) -> Result<f64> {
        Ok(float(self.usage(self.pid(name)?)?.resident))
    }

    /// Processor seconds that our waypoint takes for so many more services, and the bytes it then has.
    pub(super) fn crowd(&self, services: u32) -> Result<(f64, f64)> {
        let name = NAMES[1];
        let before = self.cpu(name)?;
        self.lab.apply(&manifests::crowd(services)).map_err(said)?;
        self.lab
            .wait_until("our waypoint to hear of the services", || match self.cpu(name) {
                Ok(now) if now > before => Ok(()),
                Ok(_) => Err("it has not worked since".to_owned()),
                Err(error) => Err(format!("{error:#}")),
            })
            .map_err(said)?;
        self.settled(self.pid(name)?)?;
        let (cpu, resident) = (self.cpu(name)? - before, self.resident(name)?);
        // Last, as a page of this size takes memory of its own.
        let page = self.page(name, "http://127.0.0.1:15000/config_dump")?;
        let known = page.matches("\"crowd-").count();
        ensure!(known >= usize::try_from(services)?, "our waypoint knows {known} of {services} services");
        Ok((cpu, resident))
    }

    /// Bytes that Envoy has with so many services and nothing else, in a process of its own.
    pub(super) fn envoy_crowd(&self, envoy: &Path, services: u32) -> Result<f64> {
        let server = self.address_of_pod("server")?;
        let content = envoy::crowd(server, services).to_string();
        std::fs::write(self.lab.layout().root().join(CROWD), content).with_context(|| format!("writing {CROWD}"))?;
        let path = Layout::inside().root().join(CROWD);
        let (envoy, path) =
            (envoy.to_str().context("a path is not text")?, path.to_str().context("a path is not text")?);
        let command =
            [&self.bench, "announced", envoy, "--config-path", path, "--use-dynamic-base-id", "--concurrency", "1"];
        let mut running = self.lab.spawn(&format!("{NAMESPACE}/client"), &command).map_err(said)?;
        let mut line = String::new();
        let output = running.stdout.take().context("Envoy without output")?;
        BufReader::new(output).read_line(&mut line).context("starting Envoy")?;
        let pid = line.trim().parse().context("Envoy did not start")?;
        self.settled(pid)?;
        Ok(float(self.usage(pid)?.resident))
    }

    /// Waits until a process has stopped working.
    fn settled(&self, pid: i32) -> Result<()> {
        let (mut last, mut unchanged) = (self.usage(pid)?.cpu_seconds, 0);
        while unchanged < LOOK.1 {
            std::thread::sleep(LOOK.0);
            let now = self.usage(pid)?.cpu_seconds;
            // Envoy with thousands of clusters has some to do every few seconds for ever.
            unchanged = if now - last <= QUIET { unchanged + 1 } else { 0 };
            last = now;
        }
        Ok(())
    }

    fn cpu(&self, name: &str) -> Result<f64> {
        Ok(self.usage(self.pid(name)?)?.cpu_seconds)
    }

    fn usage(&self, pid: i32) -> Result<Usage> {
        let usage: Vec<Usage> = self.client(&["usage", "--watch", &pid.to_string()])?;
        usage.into_iter().next().context("nothing was watched")
    }

    /// A page that a pod has on its loopback.
    fn page(&self, pod: &str, url: &str) -> Result<String> {
        let output = self.lab.exec(&format!("{NAMESPACE}/{pod}"), &["curl", "-sS", "-m", "10", url]).map_err(said)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a load on a port of a waypoint's services; the waypoint is watched.
    pub(super) fn load<T: DeserializeOwned>(&self, name: &str, port: u16, arguments: &[&str]) -> Result<T> {
        let address = self.address_of_service(&manifests::service(name, port))?;
        let (target, pid) = (SocketAddr::from((address, port)).to_string(), self.pid(name)?.to_string());
        self.client(&[arguments, &["--target", &target, "--watch", &pid]].concat())
    }

    /// Runs `fairway-bench load` in the client pod.
    fn client<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let command = [&[self.bench.as_str(), "load"], arguments].concat();
        let output = self.lab.exec(&format!("{NAMESPACE}/client"), &command).map_err(said)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", said.trim().trim_start_matches("error: "));
        serde_json::from_slice(&output.stdout).context("reading what the load printed")
    }
}
