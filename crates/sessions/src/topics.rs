//! Topics: who listens to what.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use engine::ConnId;

use crate::stomp::{is_match, is_pattern};

/// A subscription: of which connection, and which of its own.
pub(crate) type Listener = (ConnId, u32);

/// Who listens to what. A topic is there for as long as somebody listens.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    listeners_by_name: BTreeMap<Box<str>, Vec<Listener>>,
    /// Each is looked at with each message: few have wildcards.
    patterns: Vec<(Box<str>, Listener)>,
}

impl Topics {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.listeners_by_name.is_empty() && self.patterns.is_empty()
    }

    /// `listener` listens to the topic, or to all the topics, that `name` stands for.
    pub(crate) fn add(&mut self, name: &str, listener: Listener) {
        if is_pattern(name) {
            self.patterns.push((name.into(), listener));
        } else {
            self.listeners_by_name.entry(name.into()).or_default().push(listener);
        }
    }

    /// `listener` listens to `name` no longer.
    pub(crate) fn remove(&mut self, name: &str, listener: Listener) {
        self.patterns.retain(|(_, other)| *other != listener);
        if let Some(listeners) = self.listeners_by_name.get_mut(name) {
            listeners.retain(|other| *other != listener);
            if listeners.is_empty() {
                self.listeners_by_name.remove(name);
            }
        }
    }

    /// Puts everybody who listens to the topic called `name` into `into`, in the order they came,
    /// those with wildcards last.
    pub(crate) fn find(&self, name: &str, into: &mut Vec<Listener>) {
        into.extend(self.listeners_by_name.get(name).into_iter().flatten());
        let matching = self.patterns.iter().filter(|(pattern, _)| is_match(pattern, name));
        into.extend(matching.map(|(_, listener)| *listener));
    }
}
