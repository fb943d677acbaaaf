//! What was seen on the inter-node link, read from a running `capture` tool.

use std::io::{BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, ChildStdin};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::error::{Doing, Error, Result};
use crate::tool::PCAP_HEADER_LENGTH;

/// Bytes of packets kept; later ones are counted only.
const MAX_BYTES: usize = 256 << 20;
/// Largest packet believed.
const MAX_PACKET: usize = 1 << 20;

/// One TCP segment with a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// What it carried.
    pub payload: Vec<u8>,
}

impl Segment {
    /// Whether it went to or came from `port`.
    #[must_use]
    pub fn is_on_port(&self, port: u16) -> bool {
        self.source.port() == port || self.destination.port() == port
    }

    /// Whether it starts with a TLS record: type 20 to 23, version 3.x (RFC 8446 §5.1).
    #[must_use]
    pub fn starts_tls_record(&self) -> bool {
        matches!(self.payload.as_slice(), [20..=23, 3, 1..=4, ..])
    }
}

#[derive(Debug, Default)]
struct Seen {
    segments: Vec<Segment>,
    bytes: usize,
    dropped: usize,
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    stdin: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
}

impl Capture {
    /// Reads the output of `child`, a `capture` tool with piped standard input and output. Returns once packets are recorded.
    pub(crate) fn of(mut child: Child) -> Result<Self> {
        let stdout = child.stdout.take().ok_or_else(|| Error::new("the capture has no output"))?;
        let stdin = child.stdin.take();
        let mut output = BufReader::new(stdout);
        let mut header = [0; PCAP_HEADER_LENGTH];
        output.read_exact(&mut header).doing(|| "starting the capture")?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        let reader = thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || {
                while let Some(packet) = read_packet(&mut output) {
                    record(&shared, &packet);
                }
            })
            .doing(|| "starting the capture")?;
        Ok(Self { child, stdin, reader: Some(reader), seen })
    }

    /// The segments seen so far.
    #[must_use]
    pub fn so_far(&self) -> Vec<Segment> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).segments.clone()
    }

    /// Whether any segment so far satisfies `wanted`.
    pub fn has_seen(&self, wanted: impl Fn(&Segment) -> bool) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).segments.iter().any(wanted)
    }

    /// Ends the capture; gives everything that passed the link until now.
    ///
    /// # Errors
    /// When there was more than could be kept, so that nothing can be said about what is missing.
    pub fn finish(mut self) -> Result<Vec<Segment>> {
        drop(self.stdin.take());
        if let Some(reader) = self.reader.take() {
            // It ends with the tool's output and has nothing to say.
            let _ = reader.join();
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.dropped > 0 {
            return Err(Error::new(format!("{} packets did not fit into the capture", seen.dropped)));
        }
        Ok(std::mem::take(&mut seen.segments))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn record(seen: &Mutex<Seen>, packet: &[u8]) {
    let Some(segment) = parse(packet).filter(|segment| !segment.payload.is_empty()) else { return };
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.bytes + segment.payload.len() > MAX_BYTES {
        seen.dropped += 1;
        return;
    }
    seen.bytes += segment.payload.len();
    seen.segments.push(segment);
}

fn read_packet(input: &mut impl Read) -> Option<Vec<u8>> {
    let mut header = [0; 16];
    input.read_exact(&mut header).ok()?;
    let length = u32::from_ne_bytes(header.get(8..12)?.try_into().ok()?);
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_PACKET)?;
    let mut packet = vec![0; length];
    input.read_exact(&mut packet).ok()?;
    Some(packet)
}

/// The TCP segment in an Ethernet frame (RFC 894, RFC 2464), if it is one. Extension headers of IPv6 do not occur in the lab.
fn parse(frame: &[u8]) -> Option<Segment> {
    let packet = frame.get(14..)?;
    let (source, destination, segment): (IpAddr, IpAddr, &[u8]) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let total = usize::from(number(packet, 2)?);
            // Offloaded packets may have a total length of 0 (Linux BIG TCP).
            let end = if total == 0 { packet.len() } else { total };
            (*packet.get(9)? == 6).then_some(())?;
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?).into());
            (address(12)?, address(16)?, packet.get(header..end)?)
        }
        [0x86, 0xdd] => {
            (*packet.get(6)? == 6).then_some(())?;
            let length = usize::from(number(packet, 4)?);
            let end = if length == 0 { packet.len() } else { 40 + length };
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?).into());
            (address(8)?, address(24)?, packet.get(40..end)?)
        }
        _ => return None,
    };
    let offset = usize::from(segment.get(12)? >> 4) * 4;
    Some(Segment {
        source: SocketAddr::new(source, number(segment, 0)?),
        destination: SocketAddr::new(destination, number(segment, 2)?),
        payload: segment.get(offset..)?.to_vec(),
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_v4(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        let total = u16::try_from(40 + payload.len()).unwrap().to_be_bytes();
        frame.extend([0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 6, 0, 0, 10, 101, 0, 2, 10, 102, 0, 2]);
        frame.extend([0x9c, 0x40, 0x00, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn segments_are_found_and_padding_is_not_payload() {
        let mut frame = frame_v4(b"GET");
        frame.extend([0; 10]);
        let segment = parse(&frame).unwrap();
        assert_eq!(segment.source, "10.101.0.2:40000".parse().unwrap());
        assert_eq!(segment.destination, "10.102.0.2:80".parse().unwrap());
        assert_eq!(segment.payload, b"GET");
        assert!(segment.is_on_port(80) && !segment.starts_tls_record());
    }

    #[test]
    fn truncated_frames_are_nothing() {
        let frame = frame_v4(b"GET");
        for length in 0..frame.len() {
            assert_eq!(parse(&frame[..length]), None, "{length}");
        }
    }
}
