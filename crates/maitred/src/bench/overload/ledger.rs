//! What became of each request, as its client sees it. Times are nanoseconds from the first
//! moment of the run.

/// Equal parts of the time in which requests come.
pub(super) const PARTS: usize = 60;

/// Everything that was asked.
#[derive(Debug)]
pub(super) struct Ledger {
    /// From the first moment to the last at which a request may come.
    window: u64,
    /// How long a client waits.
    patience: u64,
    /// When each request was sent, by its number; [`ANSWERED`] once it is. It counts from the
    /// moment it was due, so that a load that lags behind hides nothing.
    due: Vec<u64>,
    /// Answered within the patience of the client, and of those how many within the window.
    pub(super) in_time: u64,
    pub(super) in_window: u64,
    /// Answered when nobody waited any more.
    pub(super) late: u64,
    /// Refused in band.
    pub(super) refused: u64,
    /// Messages that should not have come, or not so.
    pub(super) bad: u64,
    /// How long those that were answered took. Sorted by [`settle`](Ledger::settle).
    pub(super) took: Vec<u64>,
    pub(super) parts: Vec<Part>,
    /// Requests that workers have finished, and how long they held them.
    worked: u64,
    work: u64,
}

/// What happened in one part of the window.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) sent: u64,
    pub(super) in_time: u64,
    pub(super) late: u64,
    pub(super) refused: u64,
    /// Of those answered in this part.
    pub(super) took: Vec<u64>,
}

const ANSWERED: u64 = u64::MAX;

impl Ledger {
    pub(super) fn new(window: u64, patience: u64) -> Ledger {
        Ledger {
            window,
            patience,
            due: Vec::new(),
            in_time: 0,
            in_window: 0,
            late: 0,
            refused: 0,
            bad: 0,
            took: Vec::new(),
            parts: vec![Part::default(); PARTS],
            worked: 0,
            work: 0,
        }
    }

    /// One more request; says its number.
    pub(super) fn send(&mut self, due: u64) -> u64 {
        self.due.push(due);
        if let Some(part) = self.part(due) {
            part.sent += 1;
        }
        self.sent() - 1
    }

    /// An answer that says which request it belongs to.
    pub(super) fn answer(&mut self, now: u64, number: u64) {
        let due = usize::try_from(number).ok().and_then(|number| self.due.get_mut(number));
        let Some(due) = due.filter(|due| **due != ANSWERED) else {
            self.bad += 1;
            return;
        };
        let took = now.saturating_sub(core::mem::replace(due, ANSWERED));
        let in_time = took <= self.patience;
        self.took.push(took);
        if in_time {
            self.in_time += 1;
            self.in_window += u64::from(now < self.window);
        } else {
            self.late += 1;
        }
        if let Some(part) = self.part(now) {
            *(if in_time { &mut part.in_time } else { &mut part.late }) += 1;
            part.took.push(took);
        }
    }

    /// A refusal: it does not say which request it belongs to.
    pub(super) fn refuse(&mut self, now: u64) {
        if self.outstanding() == 0 {
            self.bad += 1;
            return;
        }
        self.refused += 1;
        if let Some(part) = self.part(now) {
            part.refused += 1;
        }
    }

    /// A worker finished a request.
    pub(super) fn work(&mut self, nanos: u64) {
        self.worked += 1;
        self.work += nanos;
    }

    pub(super) fn sent(&self) -> u64 {
        self.due.len() as u64
    }

    /// Neither answered nor refused.
    pub(super) fn outstanding(&self) -> u64 {
        self.sent() - self.in_time - self.late - self.refused
    }

    /// Those whose clients lost patience: answered late, or never.
    pub(super) fn given_up(&self) -> u64 {
        self.late + self.outstanding()
    }

    /// How long a worker held a request, on average.
    pub(super) fn mean_work(&self) -> Option<u64> {
        self.work.checked_div(self.worked)
    }

    /// The run is over.
    pub(super) fn settle(&mut self) {
        self.took.sort_unstable();
        self.parts.iter_mut().for_each(|part| part.took.sort_unstable());
    }

    fn part(&mut self, at: u64) -> Option<&mut Part> {
        let place = u128::from(at) * PARTS as u128 / u128::from(self.window.max(1));
        self.parts.get_mut(usize::try_from(place).ok()?)
    }
}

/// The value that this share of the sorted ones does not exceed (nearest rank).
pub(super) fn rank(sorted: &[u64], per_mille: usize) -> Option<u64> {
    let place = (sorted.len() * per_mille).div_ceil(1_000).max(1) - 1;
    sorted.get(place.min(sorted.len().saturating_sub(1))).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window of 60, patience of 10. Six requests at 0, 10, … 50; then what comes.
    fn after(comes: &[(u64, Option<u64>)]) -> Ledger {
        let mut ledger = Ledger::new(60, 10);
        for due in (0..6).map(|n| n * 10) {
            ledger.send(due);
        }
        for (now, number) in comes {
            match number {
                Some(number) => ledger.answer(*now, *number),
                None => ledger.refuse(*now),
            }
        }
        ledger.settle();
        ledger
    }

    #[test]
    fn every_request_ends_as_one_thing() {
        type Case = (&'static str, &'static [(u64, Option<u64>)], [u64; 6]);
        // In time, of those in the window, late, refused, unanswered, bad.
        let cases: [Case; 7] = [
            ("silence", &[], [0, 0, 0, 0, 6, 0]),
            ("on the dot, and a moment later", &[(10, Some(0)), (21, Some(1))], [1, 1, 1, 0, 4, 0]),
            ("after the window", &[(59, Some(5)), (60, Some(5))], [1, 1, 0, 0, 5, 1]),
            ("in time, though the window is over", &[(60, Some(5))], [1, 0, 0, 0, 5, 0]),
            ("twice", &[(1, Some(0)), (2, Some(0))], [1, 1, 0, 0, 5, 1]),
            ("never asked", &[(1, Some(6)), (2, Some(u64::MAX))], [0, 0, 0, 0, 6, 2]),
            (
                "one refusal too many",
                &[(1, None), (1, None), (1, None), (1, None), (1, None), (1, None), (1, None)],
                [0, 0, 0, 6, 0, 1],
            ),
        ];
        for (what, comes, expected) in cases {
            let ledger = after(comes);
            let Ledger { in_time, in_window, late, refused, bad, .. } = ledger;
            let got = [in_time, in_window, late, refused, ledger.outstanding(), bad];
            assert_eq!(got, expected, "{what}");
            assert_eq!(ledger.given_up(), late + ledger.outstanding(), "{what}");
        }
    }

    #[test]
    fn parts_are_where_it_happened() {
        let ledger = after(&[(4, Some(0)), (30, Some(1)), (59, None), (60, None)]);
        let places = |count: fn(&Part) -> u64| -> Vec<usize> {
            (0..PARTS).filter(|place| count(&ledger.parts[*place]) > 0).collect()
        };
        assert_eq!(places(|part| part.sent), [0, 10, 20, 30, 40, 50]);
        assert_eq!(places(|part| part.in_time), [4]);
        assert_eq!(places(|part| part.late), [30]);
        assert_eq!(places(|part| part.refused), [59]);
        assert_eq!((&ledger.took[..], &ledger.parts[30].took[..]), (&[4, 20][..], &[20][..]));
    }

    #[test]
    fn ranks_are_nearest() {
        let hundred: Vec<u64> = (1..=100).collect();
        let cases = [(500, Some(50)), (990, Some(99)), (1_000, Some(100)), (1, Some(1))];
        for (per_mille, expected) in cases {
            assert_eq!(rank(&hundred, per_mille), expected, "{per_mille}");
        }
        assert_eq!(rank(&[], 500), None);
        assert_eq!(rank(&[7], 990), Some(7));
    }
}
