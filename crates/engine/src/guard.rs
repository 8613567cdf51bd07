//! Who may do what, and how much of it: principals, their rights and their quotas.
//!
//! A principal is a name that peers prove to be; whoever proves nothing is
//! [`PrincipalId::ANONYMOUS`]. Sessions say with each request and offer whose it is; what that
//! means is decided here, the same for every protocol.
//!
//! A name keeps its id for as long as the engine lives, so that requests and connections may hold
//! it across a change of the rules. A name that is not in the rules any more may do nothing.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use matching::{Span, Time};

/// Names a principal within one engine.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PrincipalId(u32);

impl PrincipalId {
    /// Whoever proves nothing.
    pub const ANONYMOUS: PrincipalId = PrincipalId(0);
    /// The broker itself and who has its own token: may do everything.
    pub const HOUSE: PrincipalId = PrincipalId(1);

    pub(crate) fn as_u32(self) -> u32 {
        self.0
    }

    fn place(self) -> usize {
        self.0 as usize
    }
}

/// Services, by name or by how their names begin.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Patterns {
    /// Exact names and, with `true`, prefixes.
    patterns: Vec<(Box<[u8]>, bool)>,
    all: bool,
}

impl Patterns {
    /// Every service.
    #[must_use]
    pub fn all() -> Patterns {
        Patterns { patterns: Vec::new(), all: true }
    }

    /// Reads names; those that end in `*` stand for all that begin so.
    #[must_use]
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Patterns {
        let mut patterns: Vec<(Box<[u8]>, bool)> = Vec::new();
        for text in texts {
            match text.strip_suffix('*') {
                Some(prefix) => patterns.push((prefix.as_bytes().into(), true)),
                None => patterns.push((text.as_bytes().into(), false)),
            }
        }
        let all = patterns.iter().any(|(prefix, open)| *open && prefix.is_empty());
        Patterns { patterns, all }
    }

    /// Whether they are every service.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// Whether the service called `name` is among them.
    #[must_use]
    pub fn hold(&self, name: &[u8]) -> bool {
        self.all
            || self.patterns.iter().any(|(pattern, open)| match open {
                true => name.starts_with(pattern),
                false => name == &**pattern,
            })
    }
}

/// What a principal may do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rights {
    /// Services it may call.
    pub call: Patterns,
    /// Services it may serve.
    pub serve: Patterns,
    /// Queues it may put tasks into.
    pub enqueue: Patterns,
    /// Drain, reload, and whatever else concerns the whole house.
    pub administer: bool,
}

impl Rights {
    /// Everything.
    #[must_use]
    pub fn all() -> Rights {
        let all = Patterns::all;
        Rights { call: all(), serve: all(), enqueue: all(), administer: true }
    }

    /// Nothing.
    #[must_use]
    pub fn none() -> Rights {
        let none = Patterns::default;
        Rights { call: none(), serve: none(), enqueue: none(), administer: false }
    }
}

/// How much of the house a principal may take, all its connections together. What goes beyond is
/// refused with [`Reason::Overload`](crate::Reason).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quota {
    /// Requests per second, on average; 0 = any number.
    pub rate: u32,
    /// Requests that may come at once before the average counts; at least 1.
    pub burst: u32,
    /// Requests that have not ended.
    pub in_flight: u64,
    /// Payload bytes of those.
    pub bytes: u64,
}

impl Default for Quota {
    /// No bounds.
    fn default() -> Quota {
        Quota { rate: 0, burst: 1, in_flight: u64::MAX, bytes: u64::MAX }
    }
}

/// The rules of one principal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Principal {
    /// What it may do.
    pub rights: Rights,
    /// How much of it.
    pub quota: Quota,
    /// How soon it is served where classes take turns.
    pub class: Class,
}

/// How soon requests are served where classes take turns
/// ([`FairBy::Class`](crate::FairBy::Class)).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Class {
    /// Before others.
    High,
    /// As most.
    #[default]
    Normal,
    /// When there is time.
    Low,
}

impl Principal {
    fn new(rights: Rights) -> Principal {
        Principal { rights, quota: Quota::default(), class: Class::default() }
    }
}

/// The rules of all principals, by name. Without one called [`ANONYMOUS`], whoever proves nothing
/// may do everything if nobody is named, and nothing if somebody is.
pub type Principals = BTreeMap<Box<str>, Principal>;

/// How whoever proves nothing is called.
pub const ANONYMOUS: &str = "anonymous";

/// How the broker itself is called; rules for it are not looked at.
pub const HOUSE: &str = "house";

/// What a principal did since the engine exists.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Its requests in the house.
    pub in_flight: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Requests taken.
    pub requests: u64,
    /// Requests and offers it had no right to.
    pub denied: u64,
    /// Requests beyond its quota.
    pub over_quota: u64,
}

/// One principal, for people and metrics.
#[derive(Clone, Copy, Debug)]
pub struct PrincipalView<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it did.
    pub usage: Usage,
}

#[derive(Debug)]
struct Guest {
    name: Box<str>,
    rules: Principal,
    /// It may do everything without bounds: there is nothing to look at.
    is_free: bool,
    usage: Usage,
    /// When its next request would be on time: it may come up to a burst earlier.
    due: Time,
}

/// All principals there ever were, at the place their id says.
#[derive(Debug)]
pub(crate) struct Guard {
    guests: Vec<Guest>,
    by_name: BTreeMap<Box<str>, PrincipalId>,
}

impl Guard {
    pub(crate) fn new(principals: &Principals) -> Guard {
        let mut guard = Guard { guests: Vec::new(), by_name: BTreeMap::new() };
        let anonymous = guard.require(ANONYMOUS);
        debug_assert_eq!(anonymous, PrincipalId::ANONYMOUS);
        let house = guard.require(HOUSE);
        debug_assert_eq!(house, PrincipalId::HOUSE);
        guard.guests[house.place()].set(Principal::new(Rights::all()));
        guard.configure(principals);
        guard
    }

    /// New rules; who is not in them may do nothing.
    pub(crate) fn configure(&mut self, principals: &Principals) {
        for (place, guest) in self.guests.iter_mut().enumerate() {
            if place != PrincipalId::HOUSE.place() {
                guest.set(Principal::new(Rights::none()));
            }
        }
        if principals.is_empty() {
            self.guests[PrincipalId::ANONYMOUS.place()].set(Principal::new(Rights::all()));
        }
        for (name, rules) in principals.iter().filter(|(name, _)| &***name != HOUSE) {
            let id = self.require(name);
            self.guests[id.place()].set(rules.clone());
        }
    }

    fn require(&mut self, name: &str) -> PrincipalId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = PrincipalId(self.guests.len() as u32);
        self.guests.push(Guest::new(name));
        self.by_name.insert(name.into(), id);
        id
    }

    pub(crate) fn find(&self, name: &str) -> Option<PrincipalId> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn name(&self, id: PrincipalId) -> &str {
        self.guests.get(id.place()).map_or("?", |guest| &guest.name)
    }

    pub(crate) fn rights(&self, id: PrincipalId) -> Option<&Rights> {
        Some(&self.guests.get(id.place())?.rules.rights)
    }

    pub(crate) fn views(&self) -> impl Iterator<Item = PrincipalView<'_>> {
        self.guests.iter().map(|guest| PrincipalView { name: &guest.name, usage: guest.usage })
    }

    /// The turn that the requests of a principal take among classes.
    pub(crate) fn turn_of(&self, id: PrincipalId) -> u64 {
        let class = self.guests.get(id.place()).map(|guest| guest.rules.class).unwrap_or_default();
        match class {
            Class::High => 0,
            Class::Normal => 1,
            Class::Low => 2,
        }
    }

    /// Whether somebody may call a service.
    #[inline]
    pub(crate) fn may_call(&mut self, id: PrincipalId, service: &[u8]) -> bool {
        let Some(guest) = self.guests.get_mut(id.place()) else { return false };
        let may = guest.is_free || guest.rules.rights.call.hold(service);
        guest.usage.denied += u64::from(!may);
        may
    }

    /// Whether somebody may call a service; nobody is counted for it.
    pub(crate) fn lets_call(&self, id: PrincipalId, service: &[u8]) -> bool {
        let guest = self.guests.get(id.place());
        guest.is_some_and(|guest| guest.is_free || guest.rules.rights.call.hold(service))
    }

    /// Whether somebody may do what concerns the whole house.
    pub(crate) fn may_administer(&mut self, id: PrincipalId) -> bool {
        let Some(guest) = self.guests.get_mut(id.place()) else { return false };
        let may = guest.rules.rights.administer;
        guest.usage.denied += u64::from(!may);
        may
    }

    /// Whether one more request is within the quota; if so it counts against the rate.
    #[inline]
    pub(crate) fn has_room(&mut self, now: Time, id: PrincipalId, bytes: u64) -> bool {
        self.guests
            .get_mut(id.place())
            .is_some_and(|guest| guest.is_free || guest.has_room(now, bytes))
    }

    /// Whether somebody may serve a service.
    #[inline]
    pub(crate) fn may_serve(&mut self, id: PrincipalId, service: &[u8]) -> bool {
        let Some(guest) = self.guests.get_mut(id.place()) else { return false };
        let may = guest.is_free || guest.rules.rights.serve.hold(service);
        guest.usage.denied += u64::from(!may);
        may
    }

    /// A request was taken.
    #[inline]
    pub(crate) fn took(&mut self, id: PrincipalId, bytes: u64) {
        if let Some(Guest { usage, .. }) = self.guests.get_mut(id.place()) {
            usage.requests += 1;
            usage.in_flight += 1;
            usage.bytes += bytes;
        }
    }

    /// A request that had been taken ended.
    #[inline]
    pub(crate) fn ended(&mut self, id: PrincipalId, bytes: u64) {
        if let Some(Guest { usage, .. }) = self.guests.get_mut(id.place()) {
            debug_assert!(usage.in_flight > 0, "a request ends once");
            usage.in_flight -= 1;
            usage.bytes -= bytes;
        }
    }
}

impl Guest {
    fn new(name: &str) -> Guest {
        let rules = Principal::new(Rights::none());
        Guest { name: name.into(), rules, is_free: false, usage: Usage::default(), due: Time::ZERO }
    }

    fn set(&mut self, rules: Principal) {
        let Rights { call, serve, .. } = &rules.rights;
        self.is_free = call.all && serve.all && rules.quota == Quota::default();
        self.rules = rules;
    }

    fn has_room(&mut self, now: Time, bytes: u64) -> bool {
        let Quota { rate, burst, in_flight, bytes: bytes_max } = self.rules.quota;
        let fits =
            self.usage.in_flight < in_flight && self.usage.bytes.saturating_add(bytes) <= bytes_max;
        let has_room = fits && self.is_on_time(now, rate, burst);
        self.usage.over_quota += u64::from(!has_room);
        has_room
    }

    /// The generic cell rate algorithm: one time instead of a bucket that must be filled.
    fn is_on_time(&mut self, now: Time, rate: u32, burst: u32) -> bool {
        if rate == 0 {
            return true;
        }
        let interval = Span::from_nanos(1_000_000_000 / i64::from(rate));
        let early = interval.times(i64::from(burst.max(1)) - 1);
        if self.due > now + early {
            return false;
        }
        self.due = self.due.max(now) + interval;
        true
    }
}
