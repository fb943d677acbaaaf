//! `fairway lab`: its subcommands and what each of them does.

mod objects;
mod show;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use fairway_lab::exec::{self, Target};
use fairway_lab::layout::Layout;
use fairway_lab::options::Config;
use fairway_lab::{Error, Result, boot, init, logs, manage, tool};

use crate::output::Format;

/// Exit code for a command that could not be run, as shells have it.
const NOT_RUN: u8 = 127;

/// Arguments of `fairway lab`.
#[derive(Debug, Args)]
pub(crate) struct Lab {
    /// Name of the lab; labs with different names share nothing
    #[arg(long, global = true, default_value = "default", env = "FAIRWAY_LAB")]
    lab: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the mesh at work, step by step, in a lab of its own
    Demo(up::Arguments),
    /// Bring a lab up; it runs until `down`
    Up(up::UpArguments),
    /// Add or change objects
    Apply(objects::ApplyArguments),
    /// Remove objects
    Delete(objects::Files),
    /// Set or remove labels of an object
    Label(objects::Label),
    /// Run a command in a pod, or on a node
    Exec(ExecArguments),
    /// Show logs of components and pods
    Logs(LogArguments),
    /// Show the state of a lab
    Status(Format),
    /// Print where the file is that leads kubectl to the Kubernetes of a lab
    Kubeconfig,
    /// End a lab and remove everything of it
    Down(DownArguments),
    /// Small host programs for pods and tests
    #[command(hide = true, subcommand)]
    Tool(tool::Tool),
    #[command(hide = true, name = boot::COMMAND)]
    Boot { root: PathBuf },
    #[command(hide = true, name = boot::INIT_COMMAND)]
    Init { root: PathBuf },
    #[command(hide = true, name = exec::CHILD_COMMAND)]
    Child {
        #[arg(last = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct ExecArguments {
    /// POD or NAMESPACE/POD; with --node, leave it out
    #[arg(required_unless_present = "node")]
    pod: Option<String>,
    /// Namespace of the pod
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Run in the network of this node instead (`underlay` for the network between nodes)
    #[arg(long, conflicts_with = "pod")]
    node: Option<String>,
    /// The command, after `--`
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
struct LogArguments {
    /// A component (controller, ztunnel-node-1, agent-node-1, supervisor), POD or NAMESPACE/POD; every component without it
    name: Option<String>,
    /// Namespace of the pod
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Keep showing what is added
    #[arg(short, long)]
    follow: bool,
}

#[derive(Debug, Args)]
struct DownArguments {
    /// Every lab of this user
    #[arg(long)]
    all: bool,
}

impl Lab {
    /// Runs the subcommand.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let layout = || Layout::of(&self.lab);
        match self.command {
            Command::Demo(arguments) => up::demo(&arguments),
            Command::Up(arguments) => up::up(&self.lab, &arguments),
            Command::Apply(arguments) => objects::apply(&layout()?, &arguments),
            Command::Delete(files) => objects::delete(&layout()?, &files),
            Command::Label(label) => objects::label(&layout()?, &label),
            Command::Exec(arguments) => {
                let target = match (arguments.pod, arguments.node) {
                    (_, Some(node)) => Target::Node(node),
                    (pod, None) => Target::pod(&pod.unwrap_or_default(), &arguments.namespace),
                };
                exec::run(&layout()?, &target, &arguments.command).map(ExitCode::from)
            }
            Command::Logs(arguments) => {
                let found = logs::find(&layout()?, arguments.name.as_deref(), &arguments.namespace)?;
                logs::show(&found, arguments.follow, &mut std::io::stdout().lock())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Status(format) => show::status(&layout()?, &format),
            Command::Kubeconfig => kubeconfig(&layout()?),
            Command::Down(arguments) => down(&self.lab, arguments.all),
            Command::Tool(tool) => tool::run(tool),
            Command::Boot { root } => boot::run(&root).map(|()| ExitCode::SUCCESS),
            Command::Init { root } => init::run(&root).map(|()| ExitCode::SUCCESS),
            Command::Child { command } => {
                fairway_lab::complain!("error: {}", exec::become_command(&command));
                Ok(ExitCode::from(NOT_RUN))
            }
        }
    }
}

fn kubeconfig(layout: &Layout) -> Result<ExitCode> {
    let config = Config::read(layout)?;
    if config.binaries.kubernetes.is_none() {
        return Err(Error::new(format!("lab `{}` has no Kubernetes", layout.name()))
            .hint("bring one up with `fairway lab up --kubernetes`"));
    }
    fairway_lab::say!("{}", layout.kubeconfig().display());
    Ok(ExitCode::SUCCESS)
}

fn down(name: &str, all: bool) -> Result<ExitCode> {
    let labs: Vec<Layout> =
        if all { manage::list()?.into_iter().map(|lab| lab.layout).collect() } else { vec![Layout::of(name)?] };
    let mut code = ExitCode::SUCCESS;
    for layout in labs {
        let existed = layout.root().exists();
        match manage::down(&layout) {
            Ok(()) if existed => fairway_lab::say!("lab {} is down", layout.name()),
            Ok(()) => fairway_lab::say!("there is no lab called {}", layout.name()),
            Err(error) => {
                fairway_lab::complain!("error: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
