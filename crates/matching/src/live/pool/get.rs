//! A client who waits for a resource.

use core::future::Future;
use core::num::NonZero;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::sync::Arc;

use tokio::task::coop;

use super::Manage;
use super::house::{Answer, Asked, Shared};
use crate::time::Time;

/// Somebody who waits, or is about to. It may wait more than once, each time where it stood.
pub(super) struct Wait<'a, M: Manage> {
    shared: &'a Arc<Shared<M>>,
    until: Time,
    /// Since when it waits, and what tells it from others who came then.
    stood: Option<(Time, NonZero<u64>)>,
    step: Step,
}

/// How far it came.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It is about to ask.
    Fresh,
    /// It has a place, at which it was told or not.
    Waits(usize),
    /// It was told.
    Done,
}

impl<'a, M: Manage> Wait<'a, M> {
    pub(super) fn new(shared: &'a Arc<Shared<M>>, until: Time) -> Wait<'a, M> {
        Wait { shared, until, stood: None, step: Step::Fresh }
    }

    /// What it was given was of no use.
    pub(super) fn again(&mut self) {
        self.step = Step::Fresh;
    }
}

/// Nothing in it is pinned.
impl<M: Manage> Unpin for Wait<'_, M> {}

impl<M: Manage> Future for Wait<'_, M> {
    type Output = Answer<M>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Whoever finds a resource at once, again and again, lets others run now and then.
        let budget = ready!(coop::poll_proceed(cx));
        let this = &mut *self;
        let heard = match this.step {
            Step::Fresh => match this.shared.ask(this.until, &mut this.stood, cx.waker()) {
                Asked::Waits(place) => {
                    this.step = Step::Waits(place);
                    Poll::Pending
                }
                Asked::Told(answer) => Poll::Ready(answer),
            },
            Step::Waits(place) => this.shared.hear(place, cx.waker()),
            Step::Done => panic!("polled after it was told"),
        };
        if heard.is_ready() {
            this.step = Step::Done;
            budget.made_progress();
        }
        heard
    }
}

impl<M: Manage> Drop for Wait<'_, M> {
    fn drop(&mut self) {
        if let Step::Waits(place) = self.step {
            self.shared.cancel(place);
        }
    }
}
