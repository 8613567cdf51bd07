//! Requests to services of the broker that live outside the shard: durable tasks and Titanic.
//!
//! The shard hands them to the shell as they came and forgets them; the shell brings the answer
//! whenever it has one. What their words mean is not known here.

use bytes::Bytes;
use engine::{ConnId, PrincipalId};

use crate::mdp::Tag;

/// The service of durable tasks.
pub const TASKS: &[u8] = b"maitred.tasks";

/// The services of Titanic (RFC 9): request, reply, close.
pub const TITANIC: [&[u8]; 3] = [b"titanic.request", b"titanic.reply", b"titanic.close"];

/// A request for the shell.
#[derive(Clone, Debug)]
pub struct Errand {
    /// Where the answer goes.
    pub from: Sender,
    /// In whose name it comes.
    pub principal: PrincipalId,
    /// The frames of the body as they stand on a ZMTP wire; may be none.
    pub body: Bytes,
}

/// Whoever sent an errand, and how it takes its answer.
#[derive(Clone, Debug)]
pub struct Sender {
    pub(crate) conn: ConnId,
    pub(crate) tag: Tag,
    pub(crate) envelope: Bytes,
    /// The service that was asked.
    pub service: Bytes,
}

impl Sender {
    /// The connection it came over.
    #[must_use]
    pub fn conn(&self) -> ConnId {
        self.conn
    }
}

/// Whether requests to `service` are errands.
pub(crate) fn is_errand(service: &[u8], titanic: bool) -> bool {
    service == TASKS || titanic && TITANIC.contains(&service)
}
