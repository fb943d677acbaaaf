//! Ten thousand connections that say nothing.

use std::net::SocketAddr;

use fairway_lab::lab::PATIENCE;
use http::Method;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Base, dial};
use crate::mesh::{enter, labs, observe, shop};

const CONNECTIONS: usize = 10_000;
/// The same as a metric has it.
const CONNECTIONS_COUNTED: f64 = 10_000.0;
/// Descriptors this process needs besides.
const OWN: u64 = 1_000;

#[test]
fn silent_connections_keep_nobody_out_and_leave_nothing() {
    let Some(lab) = shop::enrolled("silent") else { return };
    let what = "ten thousand silent connections";
    let wanted = u64::try_from(CONNECTIONS).unwrap() + OWN;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let allowed = soft >= wanted || setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).is_ok();
    if !allowed {
        return labs::skip(what, "the limit of open files is too low");
    }
    if !labs::can_enter(what) {
        return;
    }
    let tunnel = SocketAddr::new(shop::address(&lab, shop::SERVER), 15008);
    let genuine = super::tunnel::genuine(&lab);
    let base = Base::of(&lab);
    let ended = || observe::sum(&observe::metrics(&lab, "node-2"), super::ENDED, &[("reporter", "destination")]);
    let ended_before = ended();
    let silent = enter::pod(&lab, shop::VISITOR, async || {
        let mut open = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            open.push(timeout(PATIENCE, TcpStream::connect(tunnel)).await.unwrap().unwrap().into_std().unwrap());
        }
        open
    });
    let busy = observe::descriptors(&lab, "ztunnel-node-2");
    labs::say(&format!("{} silent connections; ztunnel has {busy} descriptors", silent.len()));
    shop::carries_on(&lab);
    shop::mutual_tls(&lab);
    // A member that has no tunnel yet gets one while they are all still there, at the latest when their time is up.
    let authority = format!("{}:8080", tunnel.ip());
    lab.wait_until("a member to get a new tunnel", || {
        enter::pod(&lab, shop::VISITOR, async || {
            let stream = dial::try_tls(tunnel, Some(genuine.clone())).await.map_err(|error| error.to_string())?;
            assert_eq!(dial::ask(&mut dial::http2(stream).await, Method::CONNECT, &authority).await, 200);
            Ok(())
        })
    })
    .unwrap();
    drop(silent);
    lab.wait_until("every silent connection to be counted", || {
        let counted = ended() - ended_before;
        if counted >= CONNECTIONS_COUNTED { Ok(()) } else { Err(counted.to_string()) }
    })
    .unwrap();
    base.holds(&lab);
}
