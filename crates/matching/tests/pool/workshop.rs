//! Makes things that are counted while they live, slowly or not at all if asked to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use matching::live::pool::{Manage, Past};
use tokio::time::sleep;

/// How it works, and what it counts. Clones are the same workshop.
#[derive(Clone, Default)]
pub(crate) struct Workshop(Arc<Works>);

#[derive(Default)]
struct Works {
    /// Things that live.
    alive: AtomicUsize,
    /// Things that are being made.
    making: AtomicUsize,
    /// Things made so far.
    made: AtomicU32,
    /// So many creations fail, and so many recyclings.
    creations: AtomicU32,
    recyclings: AtomicU32,
    panics: AtomicBool,
    /// Errors that no client was told.
    heard: AtomicU32,
    /// How long making and recycling take.
    millis: AtomicU64,
}

/// What is made.
pub(crate) struct Thing {
    works: Arc<Works>,
    pub(crate) number: u32,
    pub(crate) recycled: u32,
    pub(crate) past: Option<Past>,
    pub(crate) broken: bool,
}

impl Drop for Thing {
    fn drop(&mut self) {
        self.works.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Workshop {
    pub(crate) fn alive(&self) -> usize {
        self.0.alive.load(Ordering::SeqCst)
    }

    pub(crate) fn making(&self) -> usize {
        self.0.making.load(Ordering::SeqCst)
    }

    pub(crate) fn heard(&self) -> u32 {
        self.0.heard.load(Ordering::SeqCst)
    }

    pub(crate) fn fail_creations(&self, times: u32) {
        self.0.creations.store(times, Ordering::SeqCst);
    }

    pub(crate) fn fail_recycling(&self, times: u32) {
        self.0.recyclings.store(times, Ordering::SeqCst);
    }

    pub(crate) fn panic_once(&self) {
        self.0.panics.store(true, Ordering::SeqCst);
    }

    pub(crate) fn take(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).expect("a short time");
        self.0.millis.store(millis, Ordering::SeqCst);
    }

    async fn work(&self) {
        match self.0.millis.load(Ordering::SeqCst) {
            0 => {}
            millis => sleep(Duration::from_millis(millis)).await,
        }
    }
}

/// One less, if there is one.
fn spend(times: &AtomicU32) -> bool {
    times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |times| times.checked_sub(1)).is_ok()
}

/// Counts one while it lives.
struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Manage for Workshop {
    type Resource = Thing;
    type Error = &'static str;

    async fn create(&self) -> Result<Thing, &'static str> {
        self.0.making.fetch_add(1, Ordering::SeqCst);
        let _busy = Busy(&self.0.making);
        self.work().await;
        assert!(!self.0.panics.swap(false, Ordering::SeqCst), "on purpose");
        if spend(&self.0.creations) {
            return Err("down");
        }
        self.0.alive.fetch_add(1, Ordering::SeqCst);
        let number = self.0.made.fetch_add(1, Ordering::SeqCst) + 1;
        let works = Arc::clone(&self.0);
        Ok(Thing { works, number, recycled: 0, past: None, broken: false })
    }

    async fn recycle(&self, thing: &mut Thing, past: Past) -> Result<(), &'static str> {
        self.work().await;
        if spend(&self.0.recyclings) {
            return Err("dead");
        }
        thing.recycled += 1;
        thing.past = Some(past);
        Ok(())
    }

    fn is_broken(&self, thing: &mut Thing) -> bool {
        thing.broken
    }

    fn failed(&self, _: &'static str) {
        self.0.heard.fetch_add(1, Ordering::SeqCst);
    }
}
