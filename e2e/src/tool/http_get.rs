//! A client that keeps asking and says what it hears.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::net;
use crate::error::{Doing, Error, Result};
use crate::http::{Answer, get};

/// How long one answer may take: longer than proxies try to connect (10 s), so that what they say comes through.
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments of `http-get`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Such as http://server.shop:80/
    url: String,
    /// Pause between requests; without it, and without --count, one request is made
    #[arg(long, value_parser = net::duration)]
    every: Option<Duration>,
    /// How many requests; without it, for ever when --every is given
    #[arg(long)]
    count: Option<u64>,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let count = arguments.count.or_else(|| arguments.every.is_none().then_some(1));
    let mut pace = interval(arguments.every.unwrap_or(Duration::from_millis(1)));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = false;
    let mut made = 0;
    while count.is_none_or(|count| made < count) {
        pace.tick().await;
        made += 1;
        match timeout(PATIENCE, request(&arguments.url)).await {
            Ok(Ok(answer)) => {
                failed |= answer.status >= 400;
                crate::say!("{} {}", answer.status, answer.body.trim_end());
            }
            Ok(Err(error)) => {
                failed = true;
                crate::say!("error: {error}");
            }
            Err(_) => {
                failed = true;
                crate::say!("error: no answer within {PATIENCE:?}");
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn request(url: &str) -> Result<Answer> {
    let parsed: http::Uri = url.parse().doing(|| format!("reading the address {url}"))?;
    let host =
        parsed.host().ok_or_else(|| Error::new(format!("{url} names no host")).hint("write http://HOST:PORT/PATH"))?;
    let address = format!("{host}:{}", parsed.port_u16().unwrap_or(80));
    let stream = net::dial(&address).await?;
    let path = parsed.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    get(stream, &address, path).await
}
