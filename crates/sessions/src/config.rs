//! What an operator decides about connections.

use alloc::vec::Vec;

use bytes::Bytes;
use engine::Span;

use crate::door::Credentials;

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
    /// Steps of handshakes that wait to be computed; beyond, whoever comes is hung up on. Each
    /// takes a tenth of a millisecond or two, so that nobody waits longer than a moment.
    pub handshakes: usize,
    /// A connection that serves nothing, waits for nothing and says nothing for this long is
    /// closed. [`Span::MAX`] = never.
    pub idle: Span,
    /// Messages that make no sense before a connection is closed.
    pub garbage: u32,
    /// Octets of a service name.
    pub name_bytes: usize,
    /// Subscriptions of one STOMP connection.
    pub subscriptions: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 100_000,
            out_bytes: 256 << 20,
            handshake: Span::from_secs(5),
            handshakes: 4_096,
            idle: Span::MAX,
            garbage: 100,
            name_bytes: 255,
            subscriptions: 1_000,
        }
    }
}

/// What one listener speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dialect {
    /// Which protocol, and which side of it.
    pub speaks: Speaks,
    /// Replies to MDP/0.2 clients name the service, as RFC 18 says. Off for majortomo's clients.
    pub mdp02_service_frame: bool,
    /// How its peers are asked who they are: a place in [`ShardConfig::doors`].
    pub door: u8,
}

impl Default for Dialect {
    fn default() -> Dialect {
        Dialect { speaks: Speaks::Majordomo, mdp02_service_frame: true, door: 0 }
    }
}

/// The protocol of a listener. Majordomo's messages say themselves what they are; Paranoid Pirate's
/// do not, so each side has an endpoint, and the endpoint names the service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Speaks {
    /// Clients and workers of MDP/0.1 and MDP/0.2, and MMI.
    #[default]
    Majordomo,
    /// Clients of this one of [`ShardConfig::pairs`].
    PirateFront(usize),
    /// Workers of this one of [`ShardConfig::pairs`].
    PirateBack(usize),
    /// STOMP, in all roles.
    Stomp,
}

/// A Paranoid Pirate queue: a front end for clients and a back end for workers of one service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pair {
    /// The service that its clients ask and its workers serve.
    pub service: Bytes,
    /// Time between heartbeats on both endpoints.
    pub heartbeat: Span,
    /// Silent intervals after which a peer is given up.
    pub liveness: u32,
}

/// Everything a [`Shard`](crate::Shard) is configured with.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// The rules of services.
    pub engine: engine::Config,
    /// What ZMTP peers may send.
    pub zmtp: zmtp::Limits,
    /// What STOMP peers may send, and how often they are heard and hear of us.
    pub stomp: stomp::Config,
    /// What connections may take.
    pub limits: Limits,
    /// Time between heartbeats.
    pub heartbeat: Span,
    /// Silent intervals after which a peer is given up.
    pub liveness: u32,
    /// How peers are asked who they are. Their places are names: listeners refer to them. Counts
    /// from the start on.
    pub doors: Vec<zmtp::Security>,
    /// Whom to believe.
    pub credentials: Credentials,
    /// Paranoid Pirate queues. Their places are names: listeners refer to them.
    pub pairs: Vec<Pair>,
    /// The services of Titanic (RFC 9) are the broker's own. Counts from the start on.
    pub titanic: bool,
}

impl ShardConfig {
    /// Interval and liveness of heartbeats towards the peers of a listener.
    pub(crate) fn rhythm(&self, speaks: Speaks) -> (Span, u32) {
        let pair = match speaks {
            Speaks::Majordomo | Speaks::Stomp => None,
            Speaks::PirateFront(pair) | Speaks::PirateBack(pair) => self.pairs.get(pair),
        };
        pair.map_or((self.heartbeat, self.liveness), |pair| (pair.heartbeat, pair.liveness))
    }
}

impl Default for ShardConfig {
    fn default() -> ShardConfig {
        ShardConfig {
            engine: engine::Config::default(),
            zmtp: zmtp::Limits::default(),
            stomp: {
                let mut stomp = stomp::Config::new(stomp::Role::Server);
                // As often as the client wishes, down to this.
                stomp.heart_beat = stomp::HeartBeat { send_ms: 500, receive_ms: 500 };
                stomp
            },
            limits: Limits::default(),
            // Beats every 1 to 2 s starve the old Lua worker, which beats only when its own poll of
            // 2.5 s finds nothing.
            heartbeat: Span::from_secs(3),
            liveness: 3,
            doors: alloc::vec![zmtp::Security::Null],
            credentials: Credentials::default(),
            pairs: Vec::new(),
            titanic: false,
        }
    }
}
