//! Names that cross rooms. References never do.

use core::fmt;

/// A connection: which shard owns it, its slot there, and the slot's generation, so that an id of
/// a connection that ended never names a later one.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnId(u64);

impl ConnId {
    /// Generations are kept modulo this.
    pub const GENERATIONS: u32 = 1 << 24;

    /// Slot `slot` of shard `shard` in its `generation`-th use.
    #[must_use]
    pub const fn new(shard: u8, slot: u32, generation: u32) -> ConnId {
        let generation = (generation % ConnId::GENERATIONS) as u64;
        ConnId((shard as u64) << 56 | generation << 32 | slot as u64)
    }

    /// The shard that owns the connection.
    #[must_use]
    pub const fn shard(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// Its slot in that shard.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.0 as u32
    }

    /// The slot's generation.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & (ConnId::GENERATIONS - 1)
    }

    /// The id as one number, for logs.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}.{}.{}", self.shard(), self.slot(), self.generation())
    }
}

/// A request in the engine that issued it. Never issued twice while that engine lives.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RequestId(u64);

impl RequestId {
    /// The id a number stands for. Any number is safe: an unknown one names no request.
    #[must_use]
    pub const fn from_u64(id: u64) -> RequestId {
        RequestId(id)
    }

    /// The id as one number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{:x}", self.0)
    }
}
