//! Futures that are dropped at any point leave nothing behind.

use std::pin::Pin;
use std::task::Poll;

use matching::live::pool::{Pool, PoolConfig, PoolSnapshot, Pooled};
use matching::{Discipline, Order, QueueConfig, Rule, ValveConfig};
use tokio::time::{Instant, advance, timeout};

use crate::workshop::Workshop;
use crate::{ms, poll, settle, span};

/// Numbers that look random and are the same for the same seed (`SplitMix64`).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % bound
    }

    /// One of them, taken out.
    fn pick<T>(&mut self, of: &mut Vec<T>) -> Option<T> {
        let len = u64::try_from(of.len()).expect("few");
        (len > 0).then(|| of.swap_remove(usize::try_from(self.below(len)).expect("few")))
    }
}

type Get = Pin<Box<dyn Future<Output = Option<Pooled<Workshop>>> + Send>>;

fn client(pool: &Pool<Workshop>, chance: &mut Chance) -> Get {
    let (pool, kind) = (pool.clone(), chance.below(6));
    let until = Instant::now() + ms(chance.below(40));
    Box::pin(async move {
        let got = match kind {
            0 => return pool.try_get().await,
            1 | 2 => pool.get_deadline(until).await,
            _ => pool.get().await,
        };
        got.ok()
    })
}

fn any_config(chance: &mut Chance) -> PoolConfig {
    let rule = match chance.below(4) {
        0 => Rule::Relative(span(-3)),
        1 => Rule::Codel { target: span(-3), interval: span(20) },
        2 => Rule::Rate { limit: 2, interval: span(30) },
        _ => Rule::Open,
    };
    let clients = match chance.below(4) {
        0 => QueueConfig::aim(span(5), span(60)),
        1 => QueueConfig::codel(span(5), span(20)),
        2 => QueueConfig::timeout(span(30)),
        _ => QueueConfig::default(),
    };
    let order = if chance.below(2) == 0 { Order::Fifo } else { Order::Lifo };
    let max = usize::try_from(1 + chance.below(5)).expect("few");
    let min = usize::try_from(chance.below(3)).expect("few").min(max);
    PoolConfig {
        clients: clients.with_max(usize::try_from(2 + chance.below(8)).expect("few")),
        idle: QueueConfig {
            order,
            discipline: Discipline::Timeout(span(25)),
            ..Default::default()
        },
        size: ValveConfig { min, max, rule },
        retry: span(5),
        retry_max: span(20),
    }
}

/// What must be true between any two calls.
fn check(pool: &Pool<Workshop>, held: usize, detached: usize, what: &str) {
    let snapshot = pool.snapshot();
    let alive = pool.manage().alive() - detached;
    assert_eq!(alive, snapshot.resources - snapshot.making, "{what}: {snapshot:?}");
    assert!(held <= snapshot.out(), "{what}: {held} are held: {snapshot:?}");
    assert!(snapshot.idle == 0 || snapshot.waiting == 0, "{what}: both wait: {snapshot:?}");
    let ended = snapshot.discarded + snapshot.retired;
    let born = usize::try_from(snapshot.made - ended).expect("few");
    assert_eq!(born, snapshot.resources - snapshot.making, "{what}: {snapshot:?}");
}

async fn run(seed: u64) -> PoolSnapshot {
    let mut chance = Chance(seed);
    let config = any_config(&mut chance);
    let pool = Pool::new(Workshop::default(), config).expect("a good configuration");
    let (mut clients, mut held, mut detached): (Vec<Get>, Vec<_>, Vec<_>) = Default::default();
    for step in 0..400 {
        match chance.below(16) {
            0..4 => clients.push(client(&pool, &mut chance)),
            4..8 => {
                if let Some(mut client) = chance.pick(&mut clients) {
                    match poll(client.as_mut()) {
                        Poll::Ready(got) => held.extend(got),
                        Poll::Pending => clients.push(client),
                    }
                }
            }
            8 => drop(chance.pick(&mut clients)),
            9 => drop(chance.pick(&mut held)),
            10 => {
                if let Some(mut pooled) = chance.pick(&mut held) {
                    match chance.below(4) {
                        0 => pooled.discard(),
                        1 => detached.push(pooled.detach()),
                        2 => pooled.broken = true,
                        _ => {}
                    }
                }
            }
            11 => pool.manage().take(ms(chance.below(4) * 3)),
            12 => pool.manage().fail_creations(u32::try_from(chance.below(3)).expect("few")),
            13 => pool.manage().fail_recycling(u32::try_from(chance.below(3)).expect("few")),
            14 => advance(ms(chance.below(8))).await,
            _ => settle().await,
        }
        if step % 100 == 99 {
            pool.reconfigure(any_config(&mut chance)).expect("a good configuration");
        }
        check(&pool, held.len(), detached.len(), &format!("seed {seed}, step {step}"));
    }
    let what = format!("seed {seed}, in the end");
    pool.manage().fail_creations(0);
    drop(clients);
    settle().await;
    check(&pool, held.len(), detached.len(), &what);
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.waiting, snapshot.out()), (0, held.len()), "{what}");
    let worked = snapshot;
    held.clear();
    assert_eq!(pool.snapshot().out(), 0, "{what}");
    // It still works.
    pool.reconfigure(PoolConfig::default()).expect("a good configuration");
    drop(pool.get().await.expect("it was not harmed"));
    pool.close();
    timeout(ms(10_000), pool.drained()).await.expect("nothing is left");
    assert_eq!(pool.manage().alive(), detached.len(), "{what}");
    assert_eq!(pool.manage().making(), 0, "{what}");
    worked
}

#[test]
fn nothing_leaks_whatever_is_dropped_when() {
    let mut worked = Vec::new();
    for seed in 0..500 {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        worked.push(runtime.expect("a runtime").block_on(run(seed)));
    }
    // Everything happened that may happen.
    let sum = |what: fn(&PoolSnapshot) -> u64| worked.iter().map(what).sum::<u64>();
    let happened = [
        sum(|pool| pool.given),
        sum(|pool| pool.abandoned),
        sum(|pool| pool.discarded),
        sum(|pool| pool.retired),
        sum(|pool| pool.failed),
        sum(|pool| pool.shed.queue_full),
        sum(|pool| pool.shed.expired),
        sum(|pool| pool.shed.overload),
    ];
    assert!(happened.iter().all(|times| *times >= 50), "{happened:?}");
}

/// The same on two threads: clients are cut short at whatever point they have come to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaks_between_two_threads() {
    let config = PoolConfig { size: ValveConfig::limit(4), ..PoolConfig::default() };
    let pool = Pool::new(Workshop::default(), config).expect("a good configuration");
    let tasks: Vec<_> = (0..32_u32)
        .map(|n| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for round in 0..300 {
                    let give_up = async {
                        for _ in 0..(n + round) % 6 {
                            tokio::task::yield_now().await;
                        }
                    };
                    let got = tokio::select! {
                        got = pool.get() => got.ok(),
                        () = give_up => None,
                    };
                    let Some(mut thing) = got else { continue };
                    if round % 4 == 0 {
                        tokio::task::yield_now().await;
                    }
                    thing.broken = round % 16 == 0;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    pool.close();
    timeout(ms(10_000), pool.drained()).await.expect("nothing is left");
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.resources, snapshot.waiting, snapshot.making), (0, 0, 0));
    assert_eq!(snapshot.made, snapshot.discarded + snapshot.retired);
    assert_eq!(pool.manage().alive(), 0);
}
