//! What the link between the nodes shows.

use fairway_lab::Lab;
use fairway_lab::capture::{Capture, Segment};

use super::cell::{Cell, Outcome};
use super::world::World;

/// Port of HBONE.
const HBONE: u16 = 15008;

/// A capture at node-1, where every client is.
pub(crate) struct Wire(Capture);

impl Wire {
    pub(crate) fn watch(lab: &Lab) -> Self {
        Self(lab.capture("node-1").unwrap())
    }

    /// Segments of tunnels between the two pods of a cell, so far.
    pub(crate) fn tunnelled(&self, world: &World, cell: &Cell) -> usize {
        self.0.so_far().iter().filter(|segment| segment.is_on_port(HBONE) && is_between(world, cell, segment)).count()
    }

    /// Whether `text` was seen so far.
    pub(crate) fn shows(&self, text: &str) -> bool {
        self.0.has_seen(|segment| contains(segment, text))
    }

    /// Looks at everything that passed while `cells` were probed.
    pub(crate) fn check(self, world: &World, cells: &[Cell]) {
        let segments = self.0.finish().unwrap();
        for cell in cells {
            let expected = cell.expected();
            let shown = segments.iter().any(|segment| contains(segment, &cell.marker()));
            let mut between = segments.iter().filter(|segment| is_between(world, cell, segment));
            if !cell.far {
                assert!(!shown && between.next().is_none(), "{cell:?}: nothing of it belongs on the link");
            } else if expected.mutual_tls {
                assert!(!shown, "{cell:?}: the request was readable on the link");
                let mut readable = between.filter(|segment| !segment.is_on_port(HBONE));
                assert!(readable.next().is_none(), "{cell:?}: there was traffic beside the tunnel");
                let mut tunnel = segments.iter().filter(|segment| is_between(world, cell, segment));
                assert!(tunnel.any(Segment::starts_tls_record), "{cell:?}: the tunnel does not speak TLS");
            } else {
                assert!(shown || expected.outcome != Outcome::Answer, "{cell:?}: the request was not on the link");
                assert!(!between.any(|segment| segment.is_on_port(HBONE)), "{cell:?}: there was a tunnel");
            }
        }
    }
}

fn is_between(world: &World, cell: &Cell, segment: &Segment) -> bool {
    let client = world.addresses(&cell.client_pod())[usize::from(cell.ipv6)];
    let server = world.addresses(&cell.server_pod())[usize::from(cell.ipv6)];
    let ends = (segment.source.ip(), segment.destination.ip());
    ends == (client, server) || ends == (server, client)
}

fn contains(segment: &Segment, text: &str) -> bool {
    segment.payload.windows(text.len()).any(|part| part == text.as_bytes())
}
