//! Settings of the webhook that is asked of what users apply.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Flags about the webhook.
#[derive(Clone, Debug, clap::Args)]
pub struct WebhookArgs {
    /// Address for the API server, which asks of what is applied, HTTP over TLS; takes one. `none` leaves it out.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15017", value_parser = listen, env = "FAIRWAY_WEBHOOK_LISTEN")]
    pub webhook_listen: Listen,
    /// ValidatingWebhookConfiguration in which the API server is told the mesh's root; an empty name leaves it to others.
    #[arg(long, value_name = "NAME", default_value = "fairway-controller", env = "FAIRWAY_WEBHOOK_CONFIGURATION")]
    pub webhook_configuration: String,
    /// PEM file with the authority whose certificates API servers show to the webhook; without one, everybody may ask.
    #[arg(long, value_name = "FILE", env = "FAIRWAY_WEBHOOK_CLIENT_CA")]
    pub webhook_client_ca: Option<PathBuf>,
}

/// Where something listens, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

/// Checked settings of the webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    /// Where it listens, if it does.
    pub listen: Option<SocketAddr>,
    /// Where the API server is told whom to trust.
    pub configuration: Option<String>,
    /// File of whom the webhook believes to be an API server; without one, everybody may ask.
    pub client_authority: Option<PathBuf>,
}

impl From<WebhookArgs> for WebhookConfig {
    fn from(args: WebhookArgs) -> Self {
        let name = args.webhook_configuration;
        Self {
            listen: args.webhook_listen.0,
            configuration: (!name.is_empty()).then_some(name),
            client_authority: args.webhook_client_ca,
        }
    }
}

fn listen(text: &str) -> Result<Listen, String> {
    if text == "none" {
        return Ok(Listen(None));
    }
    text.parse().map(|address| Listen(Some(address))).map_err(|_| "write an address and a port, or none".to_owned())
}
