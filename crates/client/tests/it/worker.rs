//! What a worker does on the wire, and what its handlers get.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use maitred_client::{Message, Protocol, Request, Worker};
use tokio::sync::{Semaphore, mpsc};

use crate::fake::{Broker, Peer, soon};

async fn echo(request: Request) -> Result<Message, Infallible> {
    Ok(request.body)
}

/// A request over MDP/0.2.
async fn request(peer: &mut Peer, client: &[u8], body: &[u8]) {
    peer.send(&[b"MDPW02", b"\x02", client, b"", body]).await;
}

#[tokio::test]
async fn a_worker_registers_and_serves() {
    let broker = Broker::start().await;
    let worker = Worker::builder(broker.endpoint()).serve("echo", 1, echo).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo");
    soon(worker.connected()).await;
    for body in ["a", "b"] {
        request(&mut peer, b"c1", body.as_bytes()).await;
        assert_eq!(peer.hear_work().await, format!(r"MDPW02|\x04|c1|∅|{body}"));
    }
    peer.send(&[b"MDPW02", b"\x02", b"c2", b"", b"a", b"", b"c"]).await;
    assert_eq!(peer.hear_work().await, r"MDPW02|\x04|c2|∅|a|∅|c");
}

#[tokio::test]
async fn in_mdp_01_a_worker_registers_and_serves() {
    let broker = Broker::start().await;
    let builder = Worker::builder(broker.endpoint()).protocol(Protocol::V01);
    let join = async |request: Request| {
        request.partial("1").await.unwrap();
        request.partial("2").await.unwrap();
        Ok::<_, Infallible>("3")
    };
    let _worker = builder.serve("echo", 2, join).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"∅|MDPW01|\x01|echo|concurrency=2");
    peer.send(&[b"", b"MDPW01", b"\x02", b"c1", b"", b"x"]).await;
    assert_eq!(peer.hear_work().await, r"∅|MDPW01|\x03|c1|∅|1|2|3");
}

#[tokio::test]
async fn partial_replies_go_before_the_final_one() {
    let broker = Broker::start().await;
    let count = async |request: Request| {
        for i in 1..=200 {
            request.partial(i.to_string()).await.unwrap();
        }
        Ok::<_, Infallible>("end")
    };
    let _worker = Worker::builder(broker.endpoint()).serve("count", 1, count).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|count");
    request(&mut peer, b"c1", b"x").await;
    for i in 1..=200 {
        assert_eq!(peer.hear_work().await, format!(r"MDPW02|\x03|c1|∅|{i}"));
    }
    assert_eq!(peer.hear_work().await, r"MDPW02|\x04|c1|∅|end");
}

type Served = Pin<Box<dyn Future<Output = Result<Message, Infallible>> + Send>>;

/// A handler that says when it starts, and ends when it is given a permit.
fn gated() -> (
    Arc<Semaphore>,
    mpsc::UnboundedReceiver<Message>,
    impl Fn(Request) -> Served + Send + Sync + 'static,
) {
    let gate = Arc::new(Semaphore::new(0));
    let (started, starts) = mpsc::unbounded_channel();
    let handler = {
        let gate = gate.clone();
        move |request: Request| -> Served {
            let (gate, started) = (gate.clone(), started.clone());
            Box::pin(async move {
                let _ = started.send(request.body.clone());
                gate.acquire().await.unwrap().forget();
                Ok(request.body)
            })
        }
    };
    (gate, starts, handler)
}

#[tokio::test]
async fn heartbeats_go_on_while_the_handler_works_and_silence_is_borne() {
    let broker = Broker::start().await;
    let (gate, mut starts, handler) = gated();
    let builder = Worker::builder(broker.endpoint()).heartbeat(Duration::from_millis(20), 3);
    let worker = builder.serve("echo", 1, handler).unwrap();
    // It knows no PING, so nothing but its silence could be held against it.
    let mut peer = broker.accept_speaking(0).await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo");
    request(&mut peer, b"c1", b"x").await;
    soon(starts.recv()).await.unwrap();
    // Far longer than it bears silence when it is idle.
    for _ in 0..10 {
        assert_eq!(peer.hear().await, r"MDPW02|\x05");
    }
    gate.add_permits(1);
    assert_eq!(peer.hear_work().await, r"MDPW02|\x04|c1|∅|x");
    assert_eq!(worker.status().connections, 1);
}

#[tokio::test]
async fn an_idle_worker_gives_a_silent_broker_up() {
    let broker = Broker::start().await;
    let builder = Worker::builder(broker.endpoint()).heartbeat(Duration::from_millis(20), 3);
    let worker = builder.serve("echo", 1, echo).unwrap();
    for connection in 1..=3 {
        let mut peer = broker.accept().await;
        assert_eq!(peer.hear().await, r"MDPW02|\x01|echo");
        assert_eq!(worker.status().connections, connection);
        // It answers PING, but it says nothing.
        assert_eq!(peer.hear_work().await, "the end");
    }
}

#[tokio::test]
async fn an_idle_worker_stays_with_a_broker_that_beats() {
    let broker = Broker::start().await;
    let builder = Worker::builder(broker.endpoint()).heartbeat(Duration::from_millis(100), 30);
    let worker = builder.serve("echo", 1, echo).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo");
    for _ in 0..5 {
        assert_eq!(peer.hear().await, r"MDPW02|\x05");
        peer.send(&[b"MDPW02", b"\x05"]).await;
    }
    assert_eq!(worker.status().connections, 1);
}

#[tokio::test]
async fn a_worker_comes_back_after_disconnect_and_after_restart() {
    let broker = Broker::start().await;
    let worker = Worker::builder(broker.endpoint()).serve("echo", 4, echo).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo|concurrency=4");
    peer.send(&[b"MDPW02", b"\x06"]).await;
    assert_eq!(peer.hear().await, "the end");

    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo|concurrency=4");
    let port = broker.port();
    drop((peer, broker));

    let broker = Broker::start_on(port).await;
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo|concurrency=4");
    request(&mut peer, b"c1", b"x").await;
    assert_eq!(peer.hear_work().await, r"MDPW02|\x04|c1|∅|x");
    assert_eq!(worker.status().connections, 3);
}

#[tokio::test]
async fn requests_run_side_by_side_up_to_the_concurrency() {
    let broker = Broker::start().await;
    let (gate, mut starts, handler) = gated();
    let _worker = Worker::builder(broker.endpoint()).serve("echo", 3, handler).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo|concurrency=3");
    for client in [b"c1", b"c2", b"c3"] {
        request(&mut peer, client, client).await;
        soon(starts.recv()).await.unwrap();
    }
    gate.add_permits(3);
    let mut replies = [peer.hear_work().await, peer.hear_work().await, peer.hear_work().await];
    replies.sort();
    assert_eq!(replies, [1, 2, 3].map(|i| format!(r"MDPW02|\x04|c{i}|∅|c{i}")));
}

#[tokio::test]
async fn a_broker_that_sends_more_than_was_offered_is_left() {
    let broker = Broker::start().await;
    let (_gate, _starts, handler) = gated();
    let worker = Worker::builder(broker.endpoint()).serve("echo", 2, handler).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo|concurrency=2");
    for client in [b"c1", b"c2", b"c3"] {
        request(&mut peer, client, b"x").await;
    }
    assert_eq!(peer.hear_work().await, "the end");
    drop(worker);
}

#[tokio::test]
async fn what_a_lost_connection_left_behind_counts_but_is_not_answered() {
    let broker = Broker::start().await;
    let (gate, mut starts, handler) = gated();
    let _worker = Worker::builder(broker.endpoint()).serve("echo", 1, handler).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo");
    request(&mut peer, b"c1", b"old").await;
    assert_eq!(soon(starts.recv()).await, Some("old".into()));
    drop(peer);

    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo");
    request(&mut peer, b"c1", b"new").await;
    gate.add_permits(2);
    assert_eq!(soon(starts.recv()).await, Some("new".into()));
    assert_eq!(peer.hear_work().await, r"MDPW02|\x04|c1|∅|new");
}

#[tokio::test]
async fn a_handler_learns_that_its_request_is_abandoned() {
    let broker = Broker::start().await;
    let (told, mut outcomes) = mpsc::unbounded_channel();
    let handler = move |request: Request| {
        let told = told.clone();
        async move {
            request.partial("1").await.unwrap();
            while !request.is_abandoned() {
                tokio::task::yield_now().await;
            }
            let _ = told.send(request.partial("2").await);
            Ok::<_, Infallible>("end")
        }
    };
    let _worker = Worker::builder(broker.endpoint()).serve("echo", 1, handler).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo");
    request(&mut peer, b"c1", b"x").await;
    assert_eq!(peer.hear_work().await, r"MDPW02|\x03|c1|∅|1");
    drop(peer);
    assert!(soon(outcomes.recv()).await.unwrap().is_err());
}

#[tokio::test]
async fn handlers_that_fail_or_panic_are_answered_for() {
    let broker = Broker::start().await;
    let handler = async |request: Request| match &request.body.text()[..] {
        "panic" => panic!("on purpose, and not for the client's eyes"),
        "large" => Ok(vec![0; 64 << 20].into()),
        "fail" => Err("no luck"),
        _ => Ok(request.body),
    };
    let _worker = Worker::builder(broker.endpoint()).serve("echo", 2, handler).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo|concurrency=2");
    let large = "the message has 67108864 bytes, the limit is 67108352";
    for (body, reply) in [
        ("fail", "MAITRED-FAILED|no luck"),
        ("panic", "MAITRED-FAILED|the handler panicked"),
        ("large", &format!("MAITRED-FAILED|{large}")),
        ("fine", "fine"),
    ] {
        request(&mut peer, b"c1", body.as_bytes()).await;
        assert_eq!(peer.hear_work().await, format!(r"MDPW02|\x04|c1|∅|{reply}"));
    }
}

#[tokio::test]
async fn a_stopped_worker_finishes_what_it_holds_and_takes_nothing_new() {
    let broker = Broker::start().await;
    let (gate, mut starts, handler) = gated();
    let worker = Worker::builder(broker.endpoint()).serve("echo", 3, handler).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo|concurrency=3");
    request(&mut peer, b"c1", b"held 1").await;
    request(&mut peer, b"c2", b"held 2").await;
    soon(starts.recv()).await.unwrap();
    soon(starts.recv()).await.unwrap();

    let script = async {
        request(&mut peer, b"c3", b"new").await;
        // It is answered behind the request, so the request was seen.
        peer.ping().await;
        gate.add_permits(2);
        let mut replies = [peer.hear_work().await, peer.hear_work().await];
        replies.sort();
        assert_eq!(replies, [1, 2].map(|i| format!(r"MDPW02|\x04|c{i}|∅|held {i}")));
        assert_eq!(peer.hear_work().await, r"MDPW02|\x06");
        assert_eq!(peer.hear_work().await, "the end");
        drop(peer);
    };
    let stop = worker.stop(Duration::from_secs(30));
    // Biased, so that it is told before the script begins.
    let (cut_off, ()) = soon(async { tokio::join!(biased; stop, script) }).await;
    assert_eq!(cut_off, 0);
    assert!(starts.try_recv().is_err(), "a new request was served");
}

#[tokio::test]
async fn a_worker_that_is_stopped_in_haste_hands_back_what_it_holds() {
    let broker = Broker::start().await;
    let (_gate, mut starts, handler) = gated();
    let worker = Worker::builder(broker.endpoint()).serve("echo", 1, handler).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo");
    request(&mut peer, b"c1", b"held").await;
    soon(starts.recv()).await.unwrap();
    let script = async {
        assert_eq!(peer.hear_work().await, r"MDPW02|\x06");
        assert_eq!(peer.hear_work().await, "the end");
        drop(peer);
    };
    let (cut_off, ()) = tokio::join!(soon(worker.stop(Duration::from_millis(10))), script);
    assert_eq!(cut_off, 1);
}

#[tokio::test]
async fn a_worker_without_a_broker_stops_too() {
    let broker = Broker::start().await;
    let endpoint = broker.endpoint();
    drop(broker);
    let worker = Worker::builder(endpoint.clone()).serve("echo", 1, echo).unwrap();
    while worker.status().trouble.is_none() {
        tokio::task::yield_now().await;
    }
    let trouble = worker.status().trouble.unwrap();
    assert!(trouble.starts_with(&endpoint), "{trouble}");
    assert_eq!(soon(worker.stop(Duration::from_secs(30))).await, 0);
}

#[tokio::test]
async fn a_dropped_worker_takes_leave_and_drops_its_handlers() {
    struct Guard(Arc<AtomicUsize>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let broker = Broker::start().await;
    let (dropped, started) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let handler = {
        let (dropped, started) = (dropped.clone(), started.clone());
        move |_: Request| {
            let (guard, started) = (Guard(dropped.clone()), started.clone());
            async move {
                let _guard = guard;
                started.add_permits(1);
                std::future::pending::<Result<Message, Infallible>>().await
            }
        }
    };
    let worker = Worker::builder(broker.endpoint()).serve("echo", 1, handler).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"MDPW02|\x01|echo");
    request(&mut peer, b"c1", b"x").await;
    soon(started.acquire()).await.unwrap().forget();
    drop(worker);
    assert_eq!(peer.hear_work().await, r"MDPW02|\x06");
    assert_eq!(peer.hear_work().await, "the end");
    while dropped.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_paranoid_pirate_worker_registers_and_serves() {
    let broker = Broker::start().await;
    let builder = Worker::builder(broker.endpoint()).protocol(Protocol::Ppp);
    let join = async |request: Request| {
        request.partial(request.body.clone()).await.unwrap();
        Ok::<_, Infallible>("end")
    };
    let worker = builder.serve("whatever", 8, join).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"\x01");
    soon(worker.connected()).await;
    peer.send(&[b"\x02"]).await;
    peer.send(&[b"c1", b"", b"a"]).await;
    assert_eq!(peer.hear_work().await, "c1|∅|a|end");
    // Behind proxies there are several addresses; all of them come back.
    peer.send(&[b"c1", b"hop", b"", b"a", b"", b"c"]).await;
    assert_eq!(peer.hear_work().await, "c1|hop|∅|a|∅|c|end");
    // There is no goodbye.
    let (cut_off, ()) = tokio::join!(soon(worker.stop(Duration::from_secs(30))), async {
        assert_eq!(peer.hear_work().await, "the end");
        drop(peer);
    });
    assert_eq!(cut_off, 0);
}

#[tokio::test]
async fn a_paranoid_pirate_worker_is_silent_while_it_works() {
    let broker = Broker::start().await;
    let (gate, mut starts, handler) = gated();
    let builder = Worker::builder(broker.endpoint()).protocol(Protocol::Ppp);
    let builder = builder.heartbeat(Duration::from_millis(20), 3);
    let worker = builder.serve("echo", 1, handler).unwrap();
    // It knows no PING, so nothing but its silence could be held against it.
    let mut peer = broker.accept_speaking(0).await;
    assert_eq!(peer.hear().await, r"\x01");
    assert_eq!(peer.hear().await, r"\x02");
    peer.send(&[b"c1", b"", b"x"]).await;
    soon(starts.recv()).await.unwrap();
    // Far longer than it bears silence when it is idle.
    tokio::time::sleep(Duration::from_millis(200)).await;
    gate.add_permits(1);
    let mut beats = 0;
    loop {
        match &peer.hear().await[..] {
            r"\x02" => beats += 1,
            heard => break assert_eq!(heard, "c1|∅|x"),
        }
    }
    // Some may have been under way when the request came.
    assert!(beats <= 3, "{beats} heartbeats of a busy worker");
    assert_eq!(worker.status().connections, 1);
    assert_eq!(peer.hear().await, r"\x02");
}

#[tokio::test]
async fn a_paranoid_pirate_worker_gives_a_silent_queue_up_and_comes_back() {
    let broker = Broker::start().await;
    let builder = Worker::builder(broker.endpoint()).protocol(Protocol::Ppp);
    let builder = builder.heartbeat(Duration::from_millis(20), 3);
    let worker = builder.serve("echo", 1, echo).unwrap();
    let mut peer = broker.accept().await;
    assert_eq!(peer.hear().await, r"\x01");
    assert_eq!(peer.hear_work().await, "the end");
    let lost = tokio::time::Instant::now();
    drop(peer);
    let mut peer = broker.accept().await;
    assert!(lost.elapsed() >= Duration::from_millis(450), "it came back in haste");
    assert_eq!(peer.hear().await, r"\x01");
    peer.send(&[b"c1", b"", b"x"]).await;
    assert_eq!(peer.hear_work().await, "c1|∅|x");
    assert_eq!(worker.status().connections, 2);
}
