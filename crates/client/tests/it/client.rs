//! What a client does on the wire, and what its callers get.

use std::time::Duration;

use maitred_client::{Client, Error, Message, Protocol, Refusal};
use tokio::task::JoinSet;

use crate::fake::{Broker, Peer, soon, text};

async fn connected() -> (Broker, Peer, Client) {
    let broker = Broker::start().await;
    let client = Client::connect([broker.endpoint()]).unwrap();
    let peer = broker.accept().await;
    soon(client.connected()).await;
    (broker, peer, client)
}

#[tokio::test]
async fn a_call_is_answered() {
    let (_broker, mut peer, client) = connected().await;
    let serve = async {
        let (id, body) = peer.request().await;
        assert_eq!(id.len(), 8);
        assert_eq!(body, b"hi");
        peer.reply(&id, b"ho").await;
    };
    let (reply, ()) = tokio::join!(soon(client.call("echo", "hi")), serve);
    assert_eq!(reply.unwrap(), "ho".into());
    assert_eq!(client.calls_in_flight(), 0);
}

#[tokio::test]
async fn bodies_of_many_and_of_large_frames_arrive_whole() {
    let (_broker, mut peer, client) = connected().await;
    let body = Message::frames([vec![], vec![7; 3 << 20], vec![], b"end".to_vec()]);
    let serve = async {
        let mut message = peer.recv().await.unwrap();
        message[3] = vec![3];
        let frames: Vec<_> = message.iter().map(|frame| &frame[..]).collect();
        peer.send(&frames).await;
    };
    let (reply, ()) = tokio::join!(soon(client.call("echo", body.clone())), serve);
    assert_eq!(reply.unwrap(), body);
}

#[tokio::test]
async fn replies_in_any_order_find_their_calls() {
    let (_broker, mut peer, client) = connected().await;
    let mut calls = JoinSet::new();
    for i in 0..1000 {
        let call = client.call("echo", format!("body {i}"));
        calls.spawn(async move { (i, soon(call).await) });
    }
    let mut requests = Vec::new();
    for _ in 0..1000 {
        requests.push(peer.request().await);
    }
    for (id, body) in requests.iter().rev() {
        peer.reply(id, body).await;
    }
    while let Some(ended) = calls.join_next().await {
        let (i, reply) = ended.unwrap();
        assert_eq!(reply.unwrap(), format!("body {i}").into());
    }
    assert_eq!(client.calls_in_flight(), 0);
}

#[tokio::test]
async fn in_mdp_01_a_connection_carries_one_call_at_a_time() {
    let broker = Broker::start().await;
    let client = Client::builder([broker.endpoint()]).protocol(Protocol::V01).connect().unwrap();
    let mut peer = broker.accept().await;
    let serve = async {
        for _ in 0..2 {
            let heard = peer.hear().await;
            assert!(["∅|MDPC01|echo|a", "∅|MDPC01|echo|b"].contains(&&heard[..]), "{heard}");
            // A second request would stand before the PONG.
            let body = heard.bytes().last().unwrap();
            peer.send(&[b"", b"MDPC01", b"echo", &[body]]).await;
        }
    };
    let (a, b, ()) =
        tokio::join!(soon(client.call("echo", "a")), soon(client.call("echo", "b")), serve);
    assert_eq!((a.unwrap(), b.unwrap()), ("a".into(), "b".into()));
}

#[tokio::test]
async fn in_mdp_01_a_dropped_call_takes_its_connection_along() {
    let broker = Broker::start().await;
    let client = Client::builder([broker.endpoint()]).protocol(Protocol::V01).connect().unwrap();
    let mut peer = broker.accept().await;
    {
        let call = client.call("echo", "gone");
        tokio::select! {
            _ = call => panic!("nobody answered"),
            heard = peer.hear() => assert_eq!(heard, "∅|MDPC01|echo|gone"),
        }
    }
    // It would be taken for the reply to the next call.
    peer.send(&[b"", b"MDPC01", b"echo", b"late"]).await;
    assert_eq!(peer.hear().await, "the end");
    let serve = async {
        let mut peer = broker.accept().await;
        assert_eq!(peer.hear().await, "∅|MDPC01|echo|next");
        peer.send(&[b"", b"MDPC01", b"echo", b"right"]).await;
    };
    let (reply, ()) = tokio::join!(soon(client.call("echo", "next")), serve);
    assert_eq!(reply.unwrap(), "right".into());
}

#[tokio::test]
async fn in_mdp_01_calls_can_be_pipelined_where_the_broker_keeps_return_stacks() {
    let broker = Broker::start().await;
    let builder = Client::builder([broker.endpoint()]).protocol(Protocol::V01).pipelined(true);
    let client = builder.connect().unwrap();
    let mut peer = broker.accept().await;
    let serve = async {
        let (one, two) = (peer.recv().await.unwrap(), peer.recv().await.unwrap());
        for message in [two, one] {
            assert_eq!(text(&message[1..4]), "∅|MDPC01|echo");
            let frames: Vec<_> = message.iter().map(|frame| &frame[..]).collect();
            peer.send(&frames).await;
        }
    };
    let (a, b, ()) =
        tokio::join!(soon(client.call("echo", "a")), soon(client.call("echo", "b")), serve);
    assert_eq!((a.unwrap(), b.unwrap()), ("a".into(), "b".into()));
}

#[tokio::test]
async fn replies_are_streamed() {
    let (_broker, mut peer, client) = connected().await;
    let mut replies = client.stream("echo", "hi");
    let serve = async {
        let (id, _) = peer.request().await;
        peer.partial(&id, b"1").await;
        peer.partial(&id, b"2").await;
        peer.reply(&id, b"3").await;
    };
    let read = async {
        let mut got = Vec::new();
        while let Some(reply) = soon(replies.next()).await {
            got.push((reply.unwrap().text().into_owned(), replies.is_done()));
        }
        got
    };
    let (got, ()) = tokio::join!(read, serve);
    assert_eq!(got, [("1".into(), false), ("2".into(), false), ("3".into(), true)]);
    assert_eq!(client.calls_in_flight(), 0);
}

#[tokio::test]
async fn a_call_joins_partial_replies() {
    let (_broker, mut peer, client) = connected().await;
    let serve = async {
        let (id, _) = peer.request().await;
        peer.partial(&id, b"1").await;
        peer.partial(&id, b"2").await;
        peer.reply(&id, b"3").await;
    };
    let (reply, ()) = tokio::join!(soon(client.call("echo", "hi")), serve);
    assert_eq!(reply.unwrap(), Message::frames(["1", "2", "3"]));
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_its_late_reply_is_dropped() {
    let (_broker, mut peer, client) = connected().await;
    let after = Duration::from_millis(20);
    let late = soon(client.call("echo", "slow").timeout(after)).await;
    assert_eq!(late, Err(Error::Timeout { service: "echo".into(), after }));
    assert_eq!(client.calls_in_flight(), 0);
    let serve = async {
        let (slow, _) = peer.request().await;
        let (id, body) = peer.request().await;
        assert_eq!(body, b"next");
        peer.reply(&slow, b"late").await;
        peer.reply(&id, b"right").await;
    };
    let (reply, ()) = tokio::join!(soon(client.call("echo", "next")), serve);
    assert_eq!(reply.unwrap(), "right".into());
}

#[tokio::test]
async fn a_stream_that_falls_silent_ends() {
    let (_broker, mut peer, client) = connected().await;
    let after = Duration::from_millis(50);
    let mut replies = client.stream("echo", "hi").timeout(after);
    let serve = async {
        let (id, _) = peer.request().await;
        peer.partial(&id, b"1").await;
    };
    let (first, ()) = tokio::join!(soon(replies.next()), serve);
    assert_eq!(first, Some(Ok("1".into())));
    let timeout = Error::Timeout { service: "echo".into(), after };
    assert_eq!(soon(replies.next()).await, Some(Err(timeout)));
    assert_eq!(soon(replies.next()).await, None);
}

#[tokio::test]
async fn a_dropped_call_is_forgotten() {
    let (_broker, mut peer, client) = connected().await;
    {
        let mut call = client.call("echo", "gone");
        tokio::select! {
            _ = &mut call => panic!("nobody answered"),
            _ = peer.request() => assert_eq!(client.calls_in_flight(), 1),
        }
    }
    assert_eq!(client.calls_in_flight(), 0);
    assert_eq!(client.brokers()[0].in_flight, 0);
}

#[tokio::test]
async fn a_call_survives_the_broker_s_restart() {
    let (broker, mut peer, client) = connected().await;
    let port = broker.port();
    let restart = async {
        assert_eq!(peer.request().await.1, b"hi");
        drop((peer, broker));
        let mut peer = Broker::start_on(port).await.accept().await;
        let (id, body) = peer.request().await;
        assert_eq!(body, b"hi");
        peer.reply(&id, b"ho").await;
        peer
    };
    let (reply, _peer) = tokio::join!(soon(client.call("echo", "hi")), restart);
    assert_eq!(reply.unwrap(), "ho".into());
}

#[tokio::test]
async fn a_call_that_must_not_run_twice_is_not_sent_twice() {
    let (broker, mut peer, client) = connected().await;
    let lose = async {
        peer.request().await;
        drop(peer);
    };
    let (reply, ()) = tokio::join!(soon(client.call("echo", "hi").retry(false)), lose);
    let Err(Error::ConnectionLost { endpoint, .. }) = reply else { panic!("{reply:?}") };
    assert_eq!(*endpoint, *broker.endpoint());
}

#[tokio::test]
async fn a_stream_that_has_begun_is_not_begun_again() {
    let (_broker, mut peer, client) = connected().await;
    let mut replies = client.stream("echo", "hi");
    let lose = async {
        let (id, _) = peer.request().await;
        peer.partial(&id, b"1").await;
        drop(peer);
    };
    let (first, ()) = tokio::join!(soon(replies.next()), lose);
    assert_eq!(first, Some(Ok("1".into())));
    let second = soon(replies.next()).await;
    assert!(matches!(second, Some(Err(Error::ConnectionLost { .. }))), "{second:?}");
}

#[tokio::test]
async fn a_call_goes_to_the_other_broker_when_one_dies() {
    let (one, two) = (Broker::start().await, Broker::start().await);
    let client = Client::connect([one.endpoint(), two.endpoint()]).unwrap();
    let (mut peer_one, mut peer_two) = tokio::join!(one.accept(), two.accept());
    let serve = async {
        // Whoever gets it dies with it, and does not come back.
        let (mut survivor, ..) = tokio::select! {
            _ = peer_one.request() => { drop((peer_one, one)); (peer_two, two) }
            _ = peer_two.request() => { drop((peer_two, two)); (peer_one, one) }
        };
        for _ in 0..10 {
            let (id, body) = survivor.request().await;
            survivor.reply(&id, &body).await;
        }
        survivor
    };
    let call = async {
        for i in 0..10 {
            let reply = soon(client.call("echo", format!("{i}"))).await;
            assert_eq!(reply.unwrap(), format!("{i}").into());
        }
    };
    tokio::join!(call, serve);
}

#[tokio::test]
async fn the_faster_of_two_brokers_gets_nearly_all_calls() {
    let (fast, slow) = (Broker::start().await, Broker::start().await);
    let client = Client::connect([fast.endpoint(), slow.endpoint()]).unwrap();
    let (fast_peer, slow_peer) = tokio::join!(fast.accept(), slow.accept());
    let fast_echo = tokio::spawn(fast_peer.echo(Duration::ZERO));
    let slow_echo = tokio::spawn(slow_peer.echo(Duration::from_millis(200)));
    while client.brokers().iter().any(|broker| !broker.connected) {
        tokio::task::yield_now().await;
    }
    for i in 0..100 {
        let reply = soon(client.call("echo", format!("{i}"))).await;
        assert_eq!(reply.unwrap(), format!("{i}").into());
    }
    drop(client);
    let (fast, slow) = (soon(fast_echo).await.unwrap(), soon(slow_echo).await.unwrap());
    assert_eq!(fast + slow, 100);
    assert!(slow <= 10, "the slow broker got {slow} of 100");
}

#[tokio::test]
async fn refusals_and_failures_are_told_apart() {
    let (_broker, mut peer, client) = connected().await;
    let serve = async {
        for [word, text] in [["REFUSED", "expired"], ["REFUSED", "new"], ["FAILED", "no luck"]] {
            let (id, _) = peer.request().await;
            let word = format!("MAITRED-{word}");
            peer.send(&[&id, b"", b"MDPC02", b"\x03", b"echo", word.as_bytes(), text.as_bytes()])
                .await;
        }
    };
    let call = async || soon(client.call("echo", "hi")).await;
    let calls = async { [call().await, call().await, call().await] };
    let (outcomes, ()) = tokio::join!(calls, serve);
    assert_eq!(
        outcomes,
        [
            Err(Error::Refused { reason: Refusal::Expired }),
            Err(Error::Refused { reason: Refusal::Other("new".into()) }),
            Err(Error::Failed { message: "no luck".into() }),
        ]
    );
}

#[tokio::test]
async fn a_call_refused_by_one_broker_is_tried_at_each_other_once() {
    let (one, two) = (Broker::start().await, Broker::start().await);
    let client = Client::connect([one.endpoint(), two.endpoint()]).unwrap();
    let (mut peer_one, mut peer_two) = tokio::join!(one.accept(), two.accept());
    while client.brokers().iter().any(|broker| !broker.connected) {
        tokio::task::yield_now().await;
    }
    async fn refuse(peer: &mut Peer) {
        let (id, _) = peer.request().await;
        let refused = &[&id[..], b"", b"MDPC02", b"\x03", b"echo", b"MAITRED-REFUSED", b"draining"];
        peer.send(refused).await;
    }
    let serve = async { tokio::join!(refuse(&mut peer_one), refuse(&mut peer_two)) };
    let (reply, _) = tokio::join!(soon(client.call("echo", "hi")), serve);
    assert_eq!(reply, Err(Error::Refused { reason: Refusal::Draining }));
}

#[tokio::test]
async fn a_call_without_any_broker_says_so() {
    let broker = Broker::start().await;
    let endpoint = broker.endpoint();
    drop(broker);
    let client = Client::connect([endpoint.clone()]).unwrap();
    let after = Duration::from_millis(50);
    let reply = soon(client.call("echo", "hi").timeout(after)).await;
    let Err(Error::Unreachable { why, .. }) = reply else { panic!("{reply:?}") };
    assert!(why.starts_with(&endpoint), "{why}");
}

#[tokio::test]
async fn a_broker_that_answers_no_ping_is_given_up() {
    let broker = Broker::start().await;
    let builder = Client::builder([broker.endpoint()]);
    let client = builder.heartbeat(Duration::from_millis(10), 3).connect().unwrap();
    let mut alive = broker.accept().await;
    tokio::select! {
        heard = alive.hear() => panic!("{heard}"),
        () = async {
            while client.brokers()[0].trouble.is_some() {
                tokio::task::yield_now().await;
            }
        } => (),
    }
    // From now on nobody reads, and no PONG is sent.
    let _silent = alive;
    let mut again = broker.accept().await;
    let serve = async {
        let (id, body) = again.request().await;
        again.reply(&id, &body).await;
        again.pings
    };
    let (reply, _) = tokio::join!(soon(client.call("echo", "hi")), serve);
    assert_eq!(reply.unwrap(), "hi".into());
}

#[tokio::test]
async fn requests_no_broker_would_take_are_not_sent() {
    let (_broker, _peer, client) = connected().await;
    assert_eq!(soon(client.call("", "hi")).await, Err(Error::ServiceName { len: 0 }));
    let long = "s".repeat(256);
    assert_eq!(soon(client.call(long, "hi")).await, Err(Error::ServiceName { len: 256 }));
    let many = Message::frames((0..1024).map(|_| "x"));
    let limit = 1024 - 6;
    let error = Error::TooLarge { what: "frames", limit, got: 1024 };
    assert_eq!(soon(client.call("echo", many)).await, Err(error));
    let limit = (64 << 20) - 512;
    let error = Error::TooLarge { what: "bytes", limit, got: limit + 1 };
    let large = vec![0; limit as usize + 1];
    assert_eq!(soon(client.call("echo", large)).await, Err(error));
    assert_eq!(client.calls_in_flight(), 0);
}

#[tokio::test]
async fn a_client_of_a_paranoid_pirate_queue_has_one_call_at_a_time() {
    let broker = Broker::start().await;
    let client = Client::builder([broker.endpoint()]).protocol(Protocol::Ppp).connect().unwrap();
    let (first, second) = (client.call("echo", "1"), client.call("echo", "2"));
    let script = async {
        let mut peer = broker.accept().await;
        for (request, reply) in [("∅|1", "one"), ("∅|2", "two")] {
            assert_eq!(peer.hear().await, request);
            peer.send(&[b"", reply.as_bytes()]).await;
        }
    };
    let (first, second, ()) = soon(async { tokio::join!(biased; first, second, script) }).await;
    assert_eq!((first.unwrap(), second.unwrap()), ("one".into(), "two".into()));
}
