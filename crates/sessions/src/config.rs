//! What an operator decides about connections.

use engine::Span;

/// What one connection, and all of them, may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Bytes that wait to be written to one connection; beyond, it is closed. From half of it on,
    /// nothing more is read from it.
    pub out_bytes: usize,
    /// From the first byte to the end of the ZMTP handshake.
    pub handshake: Span,
    /// A connection that serves nothing, waits for nothing and says nothing for this long is
    /// closed. [`Span::MAX`] = never.
    pub idle: Span,
    /// Messages that make no sense before a connection is closed.
    pub garbage: u32,
    /// Octets of a service name.
    pub name_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 100_000,
            out_bytes: 256 << 20,
            handshake: Span::from_secs(5),
            idle: Span::MAX,
            garbage: 100,
            name_bytes: 255,
        }
    }
}

/// What one listener speaks beyond the standard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dialect {
    /// Replies to MDP/0.2 clients name the service, as RFC 18 says. Off for majortomo's clients.
    pub mdp02_service_frame: bool,
}

impl Default for Dialect {
    fn default() -> Dialect {
        Dialect { mdp02_service_frame: true }
    }
}

/// Everything a [`Shard`](crate::Shard) is configured with.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// The rules of services.
    pub engine: engine::Config,
    /// What ZMTP peers may send.
    pub zmtp: zmtp::Limits,
    /// What connections may take.
    pub limits: Limits,
    /// Time between heartbeats.
    pub heartbeat: Span,
    /// Silent intervals after which a peer is given up.
    pub liveness: u32,
}

impl Default for ShardConfig {
    fn default() -> ShardConfig {
        ShardConfig {
            engine: engine::Config::default(),
            zmtp: zmtp::Limits::default(),
            limits: Limits::default(),
            // Beats every 1 to 2 s starve the old Lua worker, which beats only when its own poll of
            // 2.5 s finds nothing.
            heartbeat: Span::from_secs(3),
            liveness: 3,
        }
    }
}
