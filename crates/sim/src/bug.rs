//! Bugs that are planted on purpose, so that the checkers can be checked.

/// A bug to plant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bug {
    /// A lost worker's requests are forgotten.
    LostLease,
    /// A reply makes two offers of one.
    DoubleOffer,
    /// A redelivered request goes to the end of the line.
    WrongHead,
    /// The worker that offered last is served first.
    NewestWorker,
    /// An offer is forgotten when requests wait for it.
    IdleWhileWaiting,
    /// Requests of a client that left stay in line.
    ForgottenClient,
    /// A request lives on after its last reply.
    ReplyTwice,
    /// The bound of the line is not looked at.
    BoundIgnored,
    /// Any worker may answer any request.
    TrustedToken,
    /// A request is redelivered for ever.
    EndlessDeliveries,
    /// The offers of a worker that left stay in line.
    GhostOffers,
    /// Dropped requests are not told.
    SilentDrop,
    /// Who left still waits at named places, and keeps its locks.
    GhostMeeter,
    /// The shell forgets to read on after a pause.
    LostWakeUp,
    /// What crosses between shards now and then overtakes.
    CrossReordered,
    /// The shell does not say that a connection ended.
    UnnoticedEnd,
    /// A heartbeat of a busy Paranoid Pirate worker counts as an offer, as in the old queues.
    BusyBeat,
}

impl Bug {
    /// All of them, those of the engine first.
    pub const ALL: [Bug; 17] = [
        Bug::LostLease,
        Bug::DoubleOffer,
        Bug::WrongHead,
        Bug::NewestWorker,
        Bug::IdleWhileWaiting,
        Bug::ForgottenClient,
        Bug::ReplyTwice,
        Bug::BoundIgnored,
        Bug::TrustedToken,
        Bug::EndlessDeliveries,
        Bug::GhostOffers,
        Bug::SilentDrop,
        Bug::GhostMeeter,
        Bug::LostWakeUp,
        Bug::CrossReordered,
        Bug::UnnoticedEnd,
        Bug::BusyBeat,
    ];

    /// The bug of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Bug> {
        Bug::ALL.into_iter().find(|bug| format!("{bug:?}").eq_ignore_ascii_case(name))
    }

    /// Whether it is one of the engine's, rather than one of the rooms around it.
    #[must_use]
    pub fn is_in_engine(self) -> bool {
        !matches!(self, Bug::LostWakeUp | Bug::CrossReordered | Bug::UnnoticedEnd | Bug::BusyBeat)
    }

    /// The engine's own name for it.
    #[cfg(feature = "planted")]
    pub(crate) fn in_engine(self) -> Option<engine::Planted> {
        use engine::Planted;
        Some(match self {
            Bug::LostLease => Planted::LostLease,
            Bug::DoubleOffer => Planted::DoubleOffer,
            Bug::WrongHead => Planted::WrongHead,
            Bug::NewestWorker => Planted::NewestWorker,
            Bug::IdleWhileWaiting => Planted::IdleWhileWaiting,
            Bug::ForgottenClient => Planted::ForgottenClient,
            Bug::ReplyTwice => Planted::ReplyTwice,
            Bug::BoundIgnored => Planted::BoundIgnored,
            Bug::TrustedToken => Planted::TrustedToken,
            Bug::EndlessDeliveries => Planted::EndlessDeliveries,
            Bug::GhostOffers => Planted::GhostOffers,
            Bug::SilentDrop => Planted::SilentDrop,
            Bug::GhostMeeter => Planted::GhostMeeter,
            Bug::LostWakeUp | Bug::CrossReordered | Bug::UnnoticedEnd | Bug::BusyBeat => {
                return None;
            }
        })
    }
}
