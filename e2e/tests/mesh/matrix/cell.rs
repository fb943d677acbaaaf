//! One cell of the matrix, and what must happen in it.

/// Whether a pod is in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Captured,
    Uncaptured,
}

/// What PeerAuthentication asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Strict,
    Permissive,
}

impl Mode {
    pub(crate) const ALL: [Self; 2] = [Self::Permissive, Self::Strict];
}

/// The authorization policy in force: none, or one about the captured client's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    None,
    Allow,
    Deny,
}

impl Rule {
    pub(crate) const ALL: [Self; 3] = [Self::None, Self::Allow, Self::Deny];
}

/// How a probe ends; a refusal with the reason the server's proxy gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answer,
    Refused(&'static str),
}

/// What must happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) outcome: Outcome,
    /// Both ends are proven to either proxy, and nothing can be read on the link.
    pub(crate) mutual_tls: bool,
}

/// One combination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) client: Side,
    pub(crate) server: Side,
    /// The server is on the other node.
    pub(crate) far: bool,
    /// The client dials the service rather than the pod.
    pub(crate) service: bool,
    pub(crate) ipv6: bool,
    pub(crate) mode: Mode,
    pub(crate) rule: Rule,
}

impl Cell {
    /// Every cell under these policies.
    pub(crate) fn all(mode: Mode, rule: Rule) -> Vec<Self> {
        let side = |bit: bool| if bit { Side::Captured } else { Side::Uncaptured };
        let bit = |number: u8, position: u8| number >> position & 1 == 1;
        let cell = |number: u8| Self {
            client: side(bit(number, 0)),
            server: side(bit(number, 1)),
            far: bit(number, 2),
            service: bit(number, 3),
            ipv6: bit(number, 4),
            mode,
            rule,
        };
        (0..32).map(cell).collect()
    }

    /// The rules of the mesh in a few lines: only the server's proxy enforces, tunnels need both ends, STRICT comes as a denial,
    /// and a client without identity matches nothing that asks for one.
    pub(crate) fn expected(&self) -> Expected {
        let mutual_tls = self.client == Side::Captured && self.server == Side::Captured;
        let outcome = match (self.server, self.client, self.mode, self.rule) {
            (Side::Uncaptured, ..) => Outcome::Answer,
            (_, Side::Captured, _, Rule::None | Rule::Allow) => Outcome::Answer,
            (_, Side::Captured, _, Rule::Deny) => Outcome::Refused("policy_denied"),
            (_, Side::Uncaptured, Mode::Strict, _) => Outcome::Refused("strict_plaintext"),
            (_, Side::Uncaptured, Mode::Permissive, Rule::None | Rule::Deny) => Outcome::Answer,
            (_, Side::Uncaptured, Mode::Permissive, Rule::Allow) => Outcome::Refused("policy_not_allowed"),
        };
        Expected { outcome, mutual_tls }
    }

    pub(crate) fn client_pod(&self) -> String {
        format!("{}/client", namespace(self.client))
    }

    pub(crate) fn server_pod(&self) -> String {
        format!("{}/{}", namespace(self.server), self.server_name())
    }

    pub(crate) fn server_name(&self) -> &'static str {
        if self.far { "far" } else { "near" }
    }

    pub(crate) fn server_node(&self) -> &'static str {
        if self.far { "node-2" } else { "node-1" }
    }

    /// A text in the request that no other cell has.
    pub(crate) fn marker(&self) -> String {
        let Self { client, server, far, service, ipv6, mode, rule } = self;
        format!("marker-{client:?}-{server:?}-{far}-{service}-{ipv6}-{mode:?}-{rule:?}-end").to_lowercase()
    }
}

fn namespace(side: Side) -> &'static str {
    match side {
        Side::Captured => "inside",
        Side::Uncaptured => "outside",
    }
}
