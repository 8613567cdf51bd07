//! Pools. Time is paused and jumps to whoever sleeps next, unless two threads are at work.

mod drops;
mod workshop;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use matching::ValveConfig;
use matching::live::pool::{Pool, PoolConfig};
use matching::live::{Refused, Sheds};
use matching::{Breaker, ConfigError, Discipline, Order, QueueConfig, Reason, Rule, Span};
use tokio::time::{Instant, sleep, timeout};
use workshop::Workshop;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn span(millis: i64) -> Span {
    Span::from_millis(millis)
}

/// Clients wait for ever, resources idle for ever.
fn sized(min: usize, max: usize, rule: Rule) -> PoolConfig {
    PoolConfig {
        clients: QueueConfig::default(),
        idle: QueueConfig::default().with_order(Order::Lifo),
        size: ValveConfig { min, max, rule },
        ..PoolConfig::default()
    }
}

fn pool(config: PoolConfig) -> Pool<Workshop> {
    Pool::new(Workshop::default(), config).expect("a good configuration")
}

/// Polls a future once.
fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Lets the tasks of the pool run until they have nothing to do.
async fn settle() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn resources_are_made_when_clients_would_wait_and_used_again() {
    let pool = pool(sized(0, 2, Rule::Open));
    settle().await;
    assert_eq!(pool.snapshot().resources, 0, "nobody asked");
    let (one, two) = (pool.get().await.expect("made"), pool.get().await.expect("made"));
    assert_eq!((one.number, two.number), (1, 2));
    let mut waits = Box::pin(pool.get());
    assert!(poll(waits.as_mut()).is_pending());
    settle().await;
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.resources, snapshot.out(), snapshot.waiting), (2, 2, 1), "no third");
    drop(one);
    let Poll::Ready(Ok(three)) = poll(waits.as_mut()) else { panic!("one came back") };
    assert_eq!((three.number, three.recycled), (1, 1));
    drop((three, two));
    let last = pool.get().await.expect("two are idle");
    assert_eq!((last.number, last.recycled), (2, 1), "who came back last goes first");
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.made, snapshot.given, snapshot.idle, snapshot.out()), (2, 4, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn min_is_made_at_once_and_stays() {
    let idle = QueueConfig { discipline: Discipline::Timeout(span(100)), ..QueueConfig::default() };
    let pool = pool(PoolConfig { idle, ..sized(2, 5, Rule::Open) });
    sleep(ms(1)).await;
    assert_eq!(pool.snapshot().idle, 2);
    let mut out = Vec::new();
    for _ in 0..5 {
        out.push(pool.get().await.expect("made"));
    }
    drop(out);
    assert_eq!(pool.snapshot().idle, 5);
    sleep(ms(90)).await;
    assert_eq!(pool.snapshot().idle, 5);
    sleep(ms(15)).await;
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.idle, snapshot.resources, snapshot.retired), (2, 2, 3));
    sleep(ms(1_000)).await;
    assert_eq!((pool.snapshot().idle, pool.manage().alive()), (2, 2), "no more, no less");
    pool.get().await.expect("idle").discard();
    sleep(ms(1)).await;
    assert_eq!((pool.snapshot().idle, pool.snapshot().discarded), (2, 1), "another was made");
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_served_is_told_why() {
    let clients = QueueConfig::timeout(span(100)).with_max(1);
    let pool = pool(PoolConfig { clients, ..sized(0, 1, Rule::Open) });
    let one = pool.get().await.expect("made");
    let mut first = Box::pin(pool.get());
    assert!(poll(first.as_mut()).is_pending());
    let Err(Refused::Shed(full)) = pool.get().await else { panic!("one may wait") };
    assert_eq!(full.reason, Reason::QueueFull);
    let Err(Refused::Shed(late)) = first.await else { panic!("nothing came back") };
    assert_eq!((late.reason, late.sojourn), (Reason::Expired, span(100)));
    let Err(Refused::Shed(late)) = pool.get_deadline(Instant::now() + ms(30)).await else {
        panic!("nothing came back")
    };
    assert_eq!((late.reason, late.sojourn), (Reason::Expired, span(30)));
    assert!(pool.try_get().await.is_none());
    drop(one);
    assert!(pool.try_get().await.is_some());
    let shed = Sheds { queue_full: 1, expired: 2, ..Sheds::default() };
    assert_eq!((pool.snapshot().shed, pool.snapshot().waiting), (shed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_to_one_client_and_tried_again_ever_later() {
    let pool = pool(sized(0, 5, Rule::Open));
    pool.manage().fail_creations(5);
    let start = Instant::now();
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { (pool.get().await.map(|got| got.number), start.elapsed()) })
        })
        .collect();
    let mut told = Vec::new();
    for client in clients {
        let (told_what, when) = client.await.expect("no panic");
        told.push((told_what, when.as_millis() / 10 * 10));
    }
    // Three are begun for three clients; the last of them to fail leaves nothing to wait for.
    let down = Err(Refused::Failed("down"));
    assert_eq!(told, [(down, 0), (down, 100), (Ok(1), 300)]);
    assert_eq!(pool.manage().heard(), 3, "those of which no client was told");
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.failed, snapshot.made, snapshot.resources), (5, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_maker_that_panics_has_failed() {
    let pool = pool(sized(0, 1, Rule::Open));
    pool.manage().panic_once();
    let got = pool.get().await.expect("the second try");
    assert_eq!((pool.snapshot().failed, got.number), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn who_is_given_a_dead_one_keeps_its_place() {
    let pool = pool(sized(0, 1, Rule::Open));
    let one = pool.get().await.expect("made");
    let mut first = Box::pin(pool.get());
    let mut second = Box::pin(pool.get());
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    pool.manage().fail_recycling(1);
    sleep(ms(20)).await;
    drop(one);
    // It is given the dead one, and waits where it stood until another is made.
    assert!(poll(first.as_mut()).is_pending());
    assert_eq!(pool.snapshot().oldest, span(20));
    sleep(ms(1)).await;
    assert!(poll(second.as_mut()).is_pending(), "it came later");
    let Poll::Ready(Ok(two)) = poll(first.as_mut()) else { panic!("another was made") };
    assert_eq!((two.number, pool.manage().heard()), (2, 1));
    drop(two);
    assert!(poll(second.as_mut()).is_ready());
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.discarded, snapshot.made, snapshot.resources), (1, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_broken_or_does_not_come_back_is_replaced() {
    let pool = pool(sized(1, 1, Rule::Open));
    pool.get().await.expect("made").broken = true;
    let detached = pool.get().await.expect("another").detach();
    assert_eq!((detached.number, detached.recycled), (2, 0));
    pool.get().await.expect("another").discard();
    assert_eq!(pool.get().await.expect("another").number, 4);
    assert_eq!((pool.snapshot().discarded, pool.snapshot().resources), (3, 1));
    assert_eq!(pool.manage().alive(), 2, "the detached one is alive");
}

#[tokio::test(start_paused = true)]
async fn a_resource_knows_its_past() {
    let pool = pool(sized(0, 1, Rule::Open));
    drop(pool.get().await.expect("made"));
    sleep(ms(30)).await;
    drop(pool.get().await.expect("idle"));
    sleep(ms(12)).await;
    let got = pool.get().await.expect("idle");
    let past = got.past.expect("it was recycled");
    assert_eq!((past.age, past.idle, past.uses), (span(42), span(12), 2));
}

#[tokio::test(start_paused = true)]
async fn a_relative_valve_grows_while_clients_wait_too_long() {
    let pool = pool(sized(1, 4, Rule::Relative(span(-50))));
    pool.manage().take(ms(5));
    let out = pool.get().await.expect("made");
    let mut clients: Vec<_> = (0..4).map(|_| Box::pin(pool.get())).collect();
    for client in &mut clients {
        assert!(poll(client.as_mut()).is_pending());
    }
    sleep(ms(45)).await;
    assert_eq!(pool.snapshot().resources, 1, "nobody waited too long");
    sleep(ms(25)).await;
    assert!((2..4).contains(&pool.snapshot().resources), "one more at a time");
    sleep(ms(100)).await;
    assert_eq!(pool.snapshot().resources, 4, "no more than max");
    drop((out, clients));
}

#[tokio::test(start_paused = true)]
async fn a_codel_valve_waits_an_interval_and_then_hurries() {
    let rule = Rule::Codel { target: span(-5), interval: span(200) };
    let pool = pool(sized(1, 50, rule));
    let _out = pool.get().await.expect("made");
    let clients: Vec<_> = (0..60)
        .map(|_| {
            let pool = pool.clone();
            // Whoever is served keeps what it got.
            tokio::spawn(async move { std::mem::forget(pool.get().await.expect("in the end")) })
        })
        .collect();
    let mut sizes = Vec::new();
    for _ in 0..5 {
        sleep(ms(210)).await;
        sizes.push(pool.snapshot().resources);
    }
    assert_eq!(sizes[0], 1, "an interval passes first");
    let steps: Vec<_> = sizes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(steps[1] < steps[3] && (4..50).contains(&sizes[4]), "{sizes:?}");
    clients.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_rate_valve_bounds_how_fast_it_grows() {
    let pool = pool(sized(1, 10, Rule::Rate { limit: 2, interval: span(1_000) }));
    let mut clients: Vec<_> = (0..10).map(|_| Box::pin(pool.get())).collect();
    for client in &mut clients {
        assert!(poll(client.as_mut()).is_pending());
    }
    let mut sizes = Vec::new();
    for _ in 0..4 {
        sleep(ms(600)).await;
        sizes.push(pool.snapshot().resources);
    }
    // None in the first interval, and never more than one plus two at a time.
    assert_eq!(sizes, [1, 3, 3, 3]);
    drop(clients);
}

#[tokio::test(start_paused = true)]
async fn a_pool_changes_while_clients_wait() {
    let (before, two) = (sized(0, 4, Rule::Open), sized(2, 3, Rule::Open));
    let pool = pool(before);
    let out: Vec<_> = [pool.get().await, pool.get().await, pool.get().await].into();
    drop(out);
    let stood = pool.snapshot();
    for (bad, why) in [
        (sized(2, 1, Rule::Open), ConfigError::MinAboveMax),
        (sized(0, 1, Rule::Breaker(Breaker::default())), ConfigError::Rule),
        (PoolConfig { retry: Span::ZERO, ..PoolConfig::default() }, ConfigError::Retry),
        (PoolConfig { retry: span(20_000), ..PoolConfig::default() }, ConfigError::Retry),
        (PoolConfig { clients: QueueConfig::timeout(span(-1)), ..before }, ConfigError::Timeout),
        (PoolConfig { idle: QueueConfig::default().with_max(1), ..two }, ConfigError::MinAboveMax),
    ] {
        assert_eq!(pool.reconfigure(bad), Err(why));
        assert_eq!(Pool::new(Workshop::default(), bad).err(), Some(why));
    }
    assert_eq!(pool.snapshot(), stood, "nothing changed");
    let held = pool.get().await.expect("idle");
    pool.reconfigure(sized(0, 1, Rule::Open)).expect("good");
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.resources, snapshot.idle, snapshot.retired), (1, 0, 2));
    let mut waits = Box::pin(pool.get());
    assert!(poll(waits.as_mut()).is_pending());
    pool.reconfigure(sized(0, 0, Rule::Open)).expect("good");
    drop(held);
    assert_eq!((pool.snapshot().resources, pool.manage().alive()), (0, 0), "one too many");
    pool.reconfigure(sized(0, 1, Rule::Open)).expect("good");
    assert_eq!(waits.await.expect("another was made").number, 4);
}

#[tokio::test(start_paused = true)]
async fn a_closed_pool_turns_away_and_drains() {
    let pool = pool(sized(1, 2, Rule::Open));
    let one = pool.get().await.expect("made");
    pool.manage().take(ms(10_000));
    let mut waits = Box::pin(pool.get());
    assert!(poll(waits.as_mut()).is_pending());
    settle().await;
    assert_eq!((pool.snapshot().making, pool.manage().making()), (1, 1));
    let mut drained = Box::pin(pool.drained());
    assert!(poll(drained.as_mut()).is_pending());
    let start = Instant::now();
    pool.close();
    pool.close();
    let Err(Refused::Shed(shed)) = waits.await else { panic!("closed") };
    assert_eq!(shed.reason, Reason::Draining);
    let Err(Refused::Shed(shed)) = pool.get().await else { panic!("closed") };
    assert_eq!(shed.reason, Reason::Draining);
    settle().await;
    assert_eq!((pool.snapshot().making, pool.manage().making()), (0, 0), "cut short");
    assert!(poll(drained.as_mut()).is_pending(), "one is out");
    drop(one);
    drained.await;
    assert!(start.elapsed() < ms(10));
    assert_eq!((pool.snapshot().resources, pool.manage().alive()), (0, 0));
    assert_eq!(pool.snapshot().shed.draining, 2);
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_ends_everything() {
    let pool = pool(sized(2, 4, Rule::Open));
    let workshop = pool.manage().clone();
    settle().await;
    workshop.take(ms(10_000));
    let held = [pool.get().await.expect("made"), pool.get().await.expect("made")];
    assert!(timeout(ms(1), pool.get()).await.is_err());
    assert_eq!((workshop.alive(), workshop.making()), (2, 1));
    drop(pool);
    drop(held);
    settle().await;
    assert_eq!((workshop.alive(), workshop.making()), (0, 0));
}

/// Tasks of a runtime that ended never run: that is a failure, not a hang or a panic.
#[test]
fn a_pool_may_outlive_its_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let (pool, held) = runtime.block_on(async {
        let pool = pool(sized(2, 2, Rule::Open));
        let held = (pool.get().await.expect("made"), pool.get().await.expect("made"));
        (pool, held)
    });
    drop(runtime);
    let (one, two) = held;
    one.discard();
    drop(two);
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.resources, snapshot.idle, snapshot.making), (1, 1, 0));
    assert_eq!((snapshot.discarded, snapshot.failed), (1, 1));
    let workshop = pool.manage().clone();
    drop(pool);
    assert_eq!(workshop.alive(), 0);
}
