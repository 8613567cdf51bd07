//! The blocking forms: the test is the program, and the broker runs beside it.

use std::time::Duration;

use maitred_client::blocking::{Client, Worker};
use maitred_client::{Error, Message};

use crate::fake::{Broker, Peer};

/// Runs `script` against a broker on a thread of its own, while `program` runs on this one.
fn beside<T: Send + 'static>(
    script: impl AsyncFnOnce(Broker) -> T + Send + 'static,
    program: impl FnOnce(String),
) -> T {
    let (told, endpoint) = std::sync::mpsc::channel();
    let broker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let broker = Broker::start().await;
            told.send(broker.endpoint()).unwrap();
            script(broker).await
        })
    });
    program(endpoint.recv().unwrap());
    broker.join().unwrap()
}

#[test]
fn a_blocking_client_calls() {
    let script = async |broker: Broker| broker.accept().await.echo(Duration::ZERO).await;
    let served = beside(script, |endpoint| {
        let client = Client::connect([endpoint]).unwrap();
        assert_eq!(client.call("echo", "hi").unwrap(), "hi".into());
        let calls: Vec<_> = (0..100).map(|i| client.send("echo", i.to_string())).collect();
        for (i, call) in calls.into_iter().enumerate().rev() {
            assert_eq!(call.recv().unwrap(), i.to_string().into());
        }
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let client = client.clone();
                std::thread::spawn(move || client.call("echo", i.to_string()).unwrap())
            })
            .collect();
        for (i, thread) in threads.into_iter().enumerate() {
            assert_eq!(thread.join().unwrap(), i.to_string().into());
        }
        assert_eq!(client.call("", "hi"), Err(Error::ServiceName { len: 0 }));
    });
    assert_eq!(served, 105);
}

#[test]
fn a_blocking_client_streams() {
    let script = async |broker: Broker| {
        let mut peer = broker.accept().await;
        let (id, _) = peer.request().await;
        peer.partial(&id, b"1").await;
        peer.reply(&id, b"2").await;
        peer.hear().await
    };
    let last = beside(script, |endpoint| {
        let client = Client::connect([endpoint]).unwrap();
        let replies: Result<Vec<Message>, Error> = client.stream("echo", "hi").collect();
        assert_eq!(replies.unwrap(), ["1".into(), "2".into()]);
    });
    assert_eq!(last, "the end");
}

#[test]
fn a_blocking_client_s_deadline_passes() {
    let script = async |broker: Broker| broker.accept().await.hear().await;
    beside(script, |endpoint| {
        let after = Duration::from_millis(50);
        let builder = maitred_client::Client::builder([endpoint]).timeout(after);
        let client = builder.connect_blocking().unwrap();
        let error = client.call("echo", "hi").unwrap_err();
        // Whichever was first, the deadline or the connection.
        assert!(matches!(error, Error::Timeout { .. } | Error::Unreachable { .. }), "{error}");
    });
}

async fn request(peer: &mut Peer, body: &[u8]) -> String {
    peer.send(&[b"MDPW02", b"\x02", b"c1", b"", body]).await;
    peer.hear_work().await
}

#[test]
fn a_blocking_worker_serves() {
    let script = async |broker: Broker| {
        let mut peer = broker.accept().await;
        assert_eq!(peer.hear().await, r"MDPW02|\x01|shout");
        assert_eq!(request(&mut peer, b"a").await, r"MDPW02|\x04|c1|∅|A");
        assert_eq!(request(&mut peer, b"b").await, r"MDPW02|\x03|c1|∅|partial");
        assert_eq!(peer.hear_work().await, r"MDPW02|\x04|c1|∅|B");
        let unanswered = r"MDPW02|\x04|c1|∅|MAITRED-FAILED|the worker gave no reply";
        assert_eq!(request(&mut peer, b"none").await, unanswered);
        assert_eq!(request(&mut peer, b"last").await, r"MDPW02|\x04|c1|∅|LAST");
        assert_eq!(peer.hear_work().await, r"MDPW02|\x06");
        assert_eq!(peer.hear_work().await, "the end");
    };
    beside(script, |endpoint| {
        let mut worker = Worker::connect(endpoint, "shout").unwrap();
        assert_eq!(worker.recv(None).unwrap(), "a".into());
        assert_eq!(worker.recv(Some("A".into())).unwrap(), "b".into());
        worker.partial("partial").unwrap();
        assert_eq!(worker.recv(Some("B".into())).unwrap(), "none".into());
        let last = worker.recv_timeout(None, Duration::from_secs(30)).unwrap();
        assert_eq!(last, Some("last".into()));
        assert!(worker.status().connected);
        worker.stop(Some("LAST".into()));
    });
}

#[test]
fn a_blocking_worker_beats_while_the_program_works() {
    let (beaten, beats) = std::sync::mpsc::channel();
    let script = async move |broker: Broker| {
        let mut peer = broker.accept().await;
        assert_eq!(peer.hear().await, r"MDPW02|\x01|echo");
        peer.send(&[b"MDPW02", b"\x02", b"c1", b"", b"x"]).await;
        for _ in 0..5 {
            assert_eq!(peer.hear().await, r"MDPW02|\x05");
        }
        beaten.send(()).unwrap();
        assert_eq!(peer.hear_work().await, r"MDPW02|\x04|c1|∅|y");
    };
    beside(script, |endpoint| {
        let builder = maitred_client::Worker::builder(endpoint);
        let builder = builder.heartbeat(Duration::from_millis(20), 3);
        let mut worker = builder.serve_blocking("echo").unwrap();
        assert_eq!(worker.recv(None).unwrap(), "x".into());
        beats.recv().unwrap();
        worker.stop(Some("y".into()));
    });
}

#[test]
fn a_blocking_worker_waits_no_longer_than_told() {
    let script = async |broker: Broker| {
        let mut peer = broker.accept().await;
        assert_eq!(peer.hear().await, r"MDPW02|\x01|echo");
        peer.hear_work().await
    };
    let last = beside(script, |endpoint| {
        let mut worker = Worker::connect(endpoint, "echo").unwrap();
        while !worker.status().connected {
            assert_eq!(worker.recv_timeout(None, Duration::from_millis(5)).unwrap(), None);
        }
        worker.stop(None);
    });
    assert_eq!(last, r"MDPW02|\x06");
}

#[test]
fn a_dropped_blocking_worker_leaves_its_request_to_others() {
    let script = async |broker: Broker| {
        let mut peer = broker.accept().await;
        assert_eq!(peer.hear().await, r"MDPW02|\x01|echo");
        request(&mut peer, b"x").await
    };
    let last = beside(script, |endpoint| {
        let mut worker = Worker::connect(endpoint, "echo").unwrap();
        assert_eq!(worker.recv(None).unwrap(), "x".into());
    });
    assert_eq!(last, r"MDPW02|\x06");
}
