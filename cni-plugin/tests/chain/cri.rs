//! The few calls of the Kubernetes container runtime interface (runtime.v1) that start and end a pod, as a kubelet makes
//! them: field numbers from its `api.proto`.

use std::collections::HashMap;
use std::path::Path;

use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<SandboxMetadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(uint32, tag = "4")]
    attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxSandbox {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunSandbox {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
}

/// What names a sandbox or a container, in requests and in answers.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<SandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<Image>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ExecSync {
    #[prost(string, tag = "1")]
    container: String,
    #[prost(string, repeated, tag = "2")]
    command: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Executed {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// A pod, as a kubelet describes it.
pub(crate) fn sandbox(namespace: &str, name: &str, uid: &str, cgroup_parent: &str) -> SandboxConfig {
    let pairs = [("name", name), ("namespace", namespace), ("uid", uid)];
    SandboxConfig {
        metadata: Some(SandboxMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        labels: pairs.map(|(key, value)| (format!("io.kubernetes.pod.{key}"), value.to_owned())).into(),
        linux: Some(LinuxSandbox { cgroup_parent: cgroup_parent.to_owned() }),
    }
}

/// A connection to a container runtime.
pub(crate) struct Runtime {
    threads: tokio::runtime::Runtime,
    channel: Channel,
}

impl Runtime {
    pub(crate) fn connect(socket: &Path) -> Self {
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
        let channel = threads.block_on(async { endpoint.connect_lazy() });
        Self { threads, channel }
    }

    fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, String>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}").parse().unwrap();
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let answer = self.threads.block_on(async {
            client.ready().await.map_err(|error| error.to_string())?;
            let codec: ProstCodec<Q, A> = ProstCodec::default();
            client.unary(tonic::Request::new(request), path, codec).await.map_err(|status| status.message().to_owned())
        })?;
        Ok(answer.into_inner())
    }

    /// Makes a pod's sandbox, and with it its network; its id.
    pub(crate) fn run_sandbox(&self, config: &SandboxConfig) -> Result<String, String> {
        self.call("RunPodSandbox", RunSandbox { config: Some(config.clone()) }).map(|made: Id| made.id)
    }

    pub(crate) fn stop_sandbox(&self, id: &str) -> Result<(), String> {
        self.call("StopPodSandbox", Id { id: id.to_owned() }).map(|_: Empty| ())
    }

    pub(crate) fn remove_sandbox(&self, id: &str) -> Result<(), String> {
        self.call("RemovePodSandbox", Id { id: id.to_owned() }).map(|_: Empty| ())
    }

    /// Starts a container of `image` in a sandbox; its id.
    pub(crate) fn start(
        &self,
        sandbox: &str,
        config: &SandboxConfig,
        image: &str,
        command: &[&str],
    ) -> Result<String, String> {
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "main".to_owned() }),
            image: Some(Image { image: image.to_owned() }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
        };
        let create = CreateContainer {
            sandbox: sandbox.to_owned(),
            config: Some(container),
            sandbox_config: Some(config.clone()),
        };
        let made: Id = self.call("CreateContainer", create)?;
        let _: Empty = self.call("StartContainer", Id { id: made.id.clone() })?;
        Ok(made.id)
    }

    /// Runs a command in a container; what it prints.
    pub(crate) fn execute(&self, container: &str, command: &[&str]) -> Result<String, String> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let done: Executed =
            self.call("ExecSync", ExecSync { container: container.to_owned(), command, timeout: 20 })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if done.code == 0 { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
    }
}
