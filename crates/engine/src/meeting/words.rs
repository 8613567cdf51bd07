//! What is said at a place where processes meet, and the rules of such places.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use bytes::Bytes;
use matching::{QueueConfig, Side, Span, ValveConfig};

use crate::blob::Blob;
use crate::effect::Reason;

/// What a name stands for. Each kind has names of its own.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// Two lines that meet.
    Match,
    /// A line before a valve.
    Regulator,
}

impl Place {
    /// The reserved service under which Majordomo clients reach all places of this kind. The
    /// right to use one of them is that to call this, a point and its name.
    #[must_use]
    pub const fn service(self) -> &'static str {
        match self {
            Place::Match => "maitred.match",
            Place::Regulator => "maitred.regulator",
        }
    }
}

/// A word said at a named place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Meet<'a> {
    /// What the name stands for.
    pub place: Place,
    /// The name, any bytes.
    pub name: Blob<'a>,
    /// What is said there.
    pub word: MeetWord<'a>,
}

/// What can be said at a place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MeetWord<'a> {
    /// Wants to meet somebody of the other side, or to run; a regulator has one side only.
    Ask(Side, Wish<'a>),
    /// Withdraws what this connection asked here under a label.
    Cancel(Blob<'a>),
    /// How many wait on each side; of a regulator, how many wait and how many run.
    Len,
    /// Whether the holder of a lock may go on.
    Continue(u64),
    /// The work under a lock is done, well or not.
    Done(u64, bool),
    /// How long the regulated side waits for its counterparty.
    Update(Span),
    /// Starts the place, or changes its rules while it is in use; whoever waits there keeps its
    /// place. For administrators.
    Declare(Box<PlaceRules>),
    /// Stops the place: whoever waits there is dropped, and its locks mean nothing any more. For
    /// administrators.
    Remove,
    /// The names behind the given one that the caller may use, in order, at most [`LISTED_MAX`].
    List,
}

/// Names in one answer to [`MeetWord::List`]: a message has at most 1,024 frames unless configured
/// otherwise, and the last name is where the next list begins.
pub const LISTED_MAX: usize = 1_000;

/// How somebody asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wish<'a> {
    /// What the other side gets; empty at a regulator.
    pub value: Blob<'a>,
    /// The name under which it may be withdrawn; may be empty.
    pub label: Blob<'a>,
    /// It meets nobody once it has waited for this long; [`Span::MAX`] = as long as it may.
    pub timeout: Span,
    /// Wait when nobody is there, or when the valve is shut.
    pub waits: bool,
}

/// The answer to a [`Meet`]. There is exactly one, unless its connection ends first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Met<'a> {
    /// Met somebody.
    Go {
        /// The other's value.
        value: Blob<'a>,
        /// How long it waited for the other; negative: how long the other waited for it.
        relative: Span,
        /// How long it was in the house.
        sojourn: Span,
    },
    /// May run, or go on.
    Run {
        /// The name of the lock, good for this connection alone.
        lock: u64,
        /// How long it waited for the valve; negative: how long the valve had been open.
        relative: Span,
        /// How long it was in the house.
        sojourn: Span,
    },
    /// Will not be served.
    Drop {
        /// Why.
        reason: Reason,
        /// How long it was in the house.
        sojourn: Span,
    },
    /// Nobody is there, or the valve is shut, and it did not want to wait.
    Retry,
    /// It was withdrawn.
    Cancelled,
    /// How many were withdrawn.
    Number(usize),
    /// Answer to [`MeetWord::Len`].
    Len(usize, usize),
    /// Taken note of.
    Done,
    /// The lock is lost: stop.
    Stop,
    /// Answer to [`MeetWord::List`].
    Names(Vec<Bytes>),
    /// There is no place of this name.
    NoPlace,
    /// This connection holds no such lock here.
    NoLock,
}

impl Meet<'_> {
    /// The same without borrows, so that it may cross to another shard.
    #[must_use]
    pub fn into_static(self) -> Meet<'static> {
        let word = match self.word {
            MeetWord::Ask(side, wish) => {
                let (value, label) = (wish.value.into_static(), wish.label.into_static());
                MeetWord::Ask(side, Wish { value, label, ..wish })
            }
            MeetWord::Cancel(label) => MeetWord::Cancel(label.into_static()),
            MeetWord::Len => MeetWord::Len,
            MeetWord::Continue(lock) => MeetWord::Continue(lock),
            MeetWord::Done(lock, ok) => MeetWord::Done(lock, ok),
            MeetWord::Update(span) => MeetWord::Update(span),
            MeetWord::Declare(rules) => MeetWord::Declare(rules),
            MeetWord::Remove => MeetWord::Remove,
            MeetWord::List => MeetWord::List,
        };
        Meet { place: self.place, name: self.name.into_static(), word }
    }
}

impl Met<'_> {
    /// The same without borrows, so that it may cross to another shard.
    #[must_use]
    pub fn into_static(self) -> Met<'static> {
        match self {
            Met::Go { value, relative, sojourn } => {
                Met::Go { value: value.into_static(), relative, sojourn }
            }
            Met::Run { lock, relative, sojourn } => Met::Run { lock, relative, sojourn },
            Met::Drop { reason, sojourn } => Met::Drop { reason, sojourn },
            Met::Retry => Met::Retry,
            Met::Cancelled => Met::Cancelled,
            Met::Number(n) => Met::Number(n),
            Met::Len(a, b) => Met::Len(a, b),
            Met::Done => Met::Done,
            Met::Stop => Met::Stop,
            Met::Names(names) => Met::Names(names),
            Met::NoPlace => Met::NoPlace,
            Met::NoLock => Met::NoLock,
        }
    }
}

/// One side of a place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SideRules {
    /// How the line is kept; its `max` bounds it.
    pub queue: QueueConfig,
    /// Most bytes that wait: values, labels and return envelopes.
    pub bytes: u64,
}

impl Default for SideRules {
    /// A plain line, bounded as the line of a service is.
    fn default() -> SideRules {
        SideRules { queue: QueueConfig::default().with_max(1_000_000), bytes: 1 << 30 }
    }
}

/// A match line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MatchRules {
    /// Those who ask.
    pub ask: SideRules,
    /// Those who ask back.
    pub ask_r: SideRules,
}

/// A regulator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RegulatorRules {
    /// Those who wait.
    pub line: SideRules,
    /// How many may run.
    pub valve: ValveConfig,
}

/// The rules of a place of either kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PlaceRules {
    /// Of two lines that meet.
    Match(MatchRules),
    /// Of a line before a valve.
    Regulator(RegulatorRules),
}

impl PlaceRules {
    /// What they are rules of.
    #[must_use]
    pub const fn place(&self) -> Place {
        match self {
            PlaceRules::Match(_) => Place::Match,
            PlaceRules::Regulator(_) => Place::Regulator,
        }
    }
}

/// What became of a place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PlaceChange {
    /// It is there from here on.
    Started,
    /// Its rules are others from here on.
    Changed,
    /// It is gone.
    Stopped,
}

impl PlaceChange {
    /// The word for it in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            PlaceChange::Started => "started",
            PlaceChange::Changed => "changed",
            PlaceChange::Stopped => "stopped",
        }
    }
}

/// The places that are configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeetingRules {
    /// Most places, so that nobody declares more while the house is open. Each costs about a
    /// kilobyte while nobody is there.
    pub places_max: usize,
    /// Match lines by name.
    pub matches: BTreeMap<Box<[u8]>, MatchRules>,
    /// Regulators by name.
    pub regulators: BTreeMap<Box<[u8]>, RegulatorRules>,
}

impl Default for MeetingRules {
    fn default() -> MeetingRules {
        let (matches, regulators) = (BTreeMap::new(), BTreeMap::new());
        MeetingRules { places_max: 10_000, matches, regulators }
    }
}

impl MeetingRules {
    /// All of them.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&[u8], PlaceRules)> {
        let matches = self.matches.iter();
        let regulators = self.regulators.iter();
        let matches = matches.map(|(name, rules)| (&**name, PlaceRules::Match(*rules)));
        matches.chain(regulators.map(|(name, rules)| (&**name, PlaceRules::Regulator(*rules))))
    }

    /// Whether a place is among them.
    pub(crate) fn name(&self, place: Place, name: &[u8]) -> bool {
        match place {
            Place::Match => self.matches.contains_key(name),
            Place::Regulator => self.regulators.contains_key(name),
        }
    }
}
