//! Packets of one interface as pcap: what was on the wire, as evidence.

use std::io::{Write, stdout};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};

use crate::error::{Doing, Result};

/// Largest packet: segmentation offload makes them up to 64 KiB, and a link header comes on top.
const SNAPSHOT: usize = (64 << 10) + 256;
/// What the kernel keeps for a busy reader.
const KERNEL_BUFFER: usize = 32 << 20;
/// Length of the header that starts the output; it is written once packets are being recorded.
pub(crate) const PCAP_HEADER_LENGTH: usize = 24;

/// Arguments of `capture`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Name of the interface
    interface: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let index = if_nametoindex(arguments.interface.as_str())
        .doing(|| format!("finding the interface {}", arguments.interface))?;
    let index = usize::try_from(index).doing(|| "an interface number beyond 2^32")?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let packets = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
        .doing(|| "opening a packet socket (needs CAP_NET_RAW)")?;
    // Beyond the system's limit when allowed; otherwise what there is must do.
    let _ = setsockopt(&packets, sockopt::RcvBufForce, &KERNEL_BUFFER)
        .or_else(|_| setsockopt(&packets, sockopt::RcvBuf, &KERNEL_BUFFER));
    let mut output = stdout().lock();
    let write = |result: std::io::Result<()>| result.doing(|| "writing packets");
    write(output.write_all(&file_header()).and_then(|()| output.flush()))?;
    let stdin = std::io::stdin();
    let mut buffer = vec![0; SNAPSHOT];
    loop {
        let mut wanted =
            [PollFd::new(packets.as_fd(), PollFlags::POLLIN), PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wanted, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).doing(|| "waiting for packets"),
        }
        // Anything on standard input ends the capture; what passed until now is drained first.
        let ends = wanted[1].any().unwrap_or(false);
        while let Some(length) = receive(&packets, index, &mut buffer)? {
            let packet = buffer.get(..length).unwrap_or_default();
            write(output.write_all(&packet_header(packet.len())).and_then(|()| output.write_all(packet)))?;
        }
        write(output.flush())?;
        if ends {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Length of the next packet of the interface; `None` when there is none now.
fn receive(packets: &OwnedFd, index: usize, buffer: &mut [u8]) -> Result<Option<usize>> {
    loop {
        match recvfrom::<LinkAddr>(packets.as_raw_fd(), buffer) {
            Ok((length, Some(from))) if from.ifindex() == index => return Ok(Some(length)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error).doing(|| "receiving packets"),
        }
    }
}

/// pcap's file header: magic for microseconds, version 2.4, no time zone, snapshot length, link type Ethernet.
fn file_header() -> [u8; PCAP_HEADER_LENGTH] {
    let mut header = [0; PCAP_HEADER_LENGTH];
    header[..4].copy_from_slice(&0xa1b2_c3d4_u32.to_ne_bytes());
    header[4..6].copy_from_slice(&2_u16.to_ne_bytes());
    header[6..8].copy_from_slice(&4_u16.to_ne_bytes());
    header[16..20].copy_from_slice(&u32::try_from(SNAPSHOT).unwrap_or(u32::MAX).to_ne_bytes());
    header[20..].copy_from_slice(&1_u32.to_ne_bytes());
    header
}

fn packet_header(length: usize) -> [u8; 16] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let mut header = [0; 16];
    // Seconds in 32 bits last until 2106.
    header[..4].copy_from_slice(&u32::try_from(now.as_secs()).unwrap_or(u32::MAX).to_ne_bytes());
    header[4..8].copy_from_slice(&now.subsec_micros().to_ne_bytes());
    header[8..12].copy_from_slice(&length.to_ne_bytes());
    header[12..].copy_from_slice(&length.to_ne_bytes());
    header
}
