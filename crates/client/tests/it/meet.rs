//! What somebody who meets others says on the wire, above all when it gives up.

use std::time::Duration;

use maitred_client::{Client, Error, Refusal};

use crate::fake::{Broker, Peer, soon, text};

async fn connected() -> (Broker, Peer, Client) {
    let broker = Broker::start().await;
    let client = Client::connect([broker.endpoint()]).unwrap();
    let peer = broker.accept().await;
    soon(client.connected()).await;
    (broker, peer, client)
}

/// The next word: its id, and service and body as text.
async fn word(peer: &mut Peer) -> (Vec<u8>, String) {
    let message = peer.recv().await.expect("a word");
    (message[0].clone(), text(&message[4..]))
}

async fn answer(peer: &mut Peer, id: &[u8], service: &str, body: &[&[u8]]) {
    let head = [id, b"", b"MDPC02", b"\x03", service.as_bytes()];
    peer.send(&[&head[..], body].concat()).await;
}

async fn answer_regulator(peer: &mut Peer, id: &[u8], body: &[&[u8]]) {
    answer(peer, id, "maitred.regulator", body).await;
}

#[tokio::test]
async fn answers_become_what_they_say() {
    let (_broker, mut peer, client) = connected().await;
    let line = client.match_line("db").unwrap();
    let cases: [(&[&[u8]], _); 7] = [
        (&[b"drop", b"expired", b"5"], Error::Refused { reason: Refusal::Expired }),
        (&[b"cancelled"], Error::Cancelled),
        (&[b"not_found", b"name"], Error::NoPlace { name: "db".into() }),
        (&[b"bad_request", b"why"], Error::BadAnswer { answer: "why".into() }),
        (&[b"501"], Error::BadAnswer { answer: "501".into() }),
        (&[b"go", b"x", b"soon", b"1"], Error::BadAnswer { answer: "go".into() }),
        (&[b"done"], Error::BadAnswer { answer: "an answer to something else".into() }),
    ];
    for (body, expected) in cases {
        let serve = async {
            let (id, _) = word(&mut peer).await;
            answer(&mut peer, &id, "maitred.match", body).await;
        };
        let (met, ()) = tokio::join!(soon(line.ask("x").into_future()), serve);
        assert_eq!(met.unwrap_err(), expected);
    }
    let serve = async {
        let (id, said) = word(&mut peer).await;
        assert_eq!(said, "maitred.match|ask_r|db|x|label=7|timeout=2000000");
        answer(&mut peer, &id, "maitred.match", &[b"go", b"y", b"-3", b"4"]).await;
    };
    let ask = line.ask_r("x").timeout(Duration::from_secs(2));
    let (met, ()) = tokio::join!(soon(ask.into_future()), serve);
    let met = met.unwrap();
    assert_eq!((&met.value[..], met.relative_us), (&b"y"[..], -3));
    assert_eq!(met.sojourn, Duration::from_micros(4));
}

#[tokio::test]
async fn whoever_is_dropped_is_taken_back() {
    let (_broker, mut peer, client) = connected().await;
    let line = client.match_line("db").unwrap();
    let waits = tokio::spawn(line.ask("x").timeout(None).into_future());
    let (ask, said) = word(&mut peer).await;
    assert_eq!(said, "maitred.match|ask|db|x|label=0");
    waits.abort();
    let (cancel, said) = word(&mut peer).await;
    assert_eq!(said, "maitred.match|cancel|db|0");
    answer(&mut peer, &ask, "maitred.match", &[b"cancelled"]).await;
    answer(&mut peer, &cancel, "maitred.match", &[b"number", b"1"]).await;
}

#[tokio::test]
async fn a_lock_that_comes_too_late_is_given_back() {
    let (_broker, mut peer, client) = connected().await;
    let regulator = client.regulator("gate").unwrap();
    let waits = tokio::spawn(regulator.acquire().into_future());
    let (acquire, said) = word(&mut peer).await;
    assert_eq!(said, "maitred.regulator|acquire|gate|label=0|timeout=10000000");
    waits.abort();
    let (cancel, _) = word(&mut peer).await;
    answer_regulator(&mut peer, &acquire, &[b"go", b"77", b"0", b"0"]).await;
    answer_regulator(&mut peer, &cancel, &[b"number", b"0"]).await;
    let (done, said) = word(&mut peer).await;
    assert_eq!(said, "maitred.regulator|done|gate|77");
    answer_regulator(&mut peer, &done, &[b"done"]).await;
    // One that nobody asked to wait for has no label, and comes back all the same.
    let tries = tokio::spawn(async move { regulator.try_acquire().await });
    let (acquire, said) = word(&mut peer).await;
    assert_eq!(said, "maitred.regulator|try_acquire|gate");
    tries.abort();
    let _ = tries.await;
    answer_regulator(&mut peer, &acquire, &[b"go", b"78", b"0", b"0"]).await;
    assert_eq!(word(&mut peer).await.1, "maitred.regulator|done|gate|78");
}

#[tokio::test]
async fn locks_are_continued_done_dropped_and_lost() {
    let (_broker, mut peer, client) = connected().await;
    let regulator = client.regulator("gate").unwrap();
    for (outcome, expected) in [("done", "ok"), ("failed", "failed"), ("drop", "")] {
        let play = async {
            let mut lock = regulator.acquire().await.unwrap();
            lock.go_on().await.unwrap();
            assert_eq!((lock.relative_us(), lock.sojourn()), (5, Duration::from_micros(6)));
            match outcome {
                "done" => lock.done().await.unwrap(),
                "failed" => lock.failed().await.unwrap(),
                _ => drop(lock),
            }
        };
        let serve = async {
            let (id, _) = word(&mut peer).await;
            answer_regulator(&mut peer, &id, &[b"go", b"77", b"0", b"0"]).await;
            let (id, said) = word(&mut peer).await;
            assert_eq!(said, "maitred.regulator|continue|gate|77");
            answer_regulator(&mut peer, &id, &[b"go", b"77", b"5", b"6"]).await;
            let (id, said) = word(&mut peer).await;
            let expected = ["maitred.regulator", "done", "gate", "77", expected];
            assert_eq!(said, expected.join("|").trim_end_matches('|'));
            answer_regulator(&mut peer, &id, &[b"done"]).await;
        };
        soon(async { tokio::join!(play, serve) }).await;
    }
    // Once lost it is not spoken of any more: the next word is another's.
    let play = async {
        let mut lock = regulator.try_acquire().await.unwrap().unwrap();
        assert_eq!(lock.go_on().await, Err(Error::LockLost));
        assert_eq!(lock.go_on().await, Err(Error::LockLost));
        drop(lock);
        assert_eq!(regulator.len().await, Ok((2, 3)));
    };
    let serve = async {
        for answered in [&[&b"go"[..], b"9", b"0", b"0"][..], &[b"stop"], &[b"number", b"2", b"3"]]
        {
            let (id, _) = word(&mut peer).await;
            answer_regulator(&mut peer, &id, answered).await;
        }
    };
    soon(async { tokio::join!(play, serve) }).await;
}

#[tokio::test]
async fn nothing_is_said_twice_over_a_new_connection() {
    let (broker, mut peer, client) = connected().await;
    let line = client.match_line("db").unwrap();
    let waits = tokio::spawn(line.ask("x").timeout(None).into_future());
    word(&mut peer).await;
    drop(peer);
    let lost = soon(waits).await.unwrap().unwrap_err();
    assert!(matches!(lost, Error::ConnectionLost { .. }), "{lost}");
    let mut peer = broker.accept().await;
    let (len, ()) = tokio::join!(soon(line.len()), async {
        let (id, said) = word(&mut peer).await;
        assert_eq!(said, "maitred.match|len|db");
        answer(&mut peer, &id, "maitred.match", &[b"number", b"0", b"1"]).await;
    });
    assert_eq!(len, Ok((0, 1)));
}

#[tokio::test]
async fn who_ends_a_wait_is_not_kept_waiting_by_those_who_wait() {
    let broker = Broker::start().await;
    let client = Client::builder([broker.endpoint()]).window(2).connect().unwrap();
    let mut peer = broker.accept().await;
    let line = client.match_line("db").unwrap();
    let waits =
        [(); 2].map(|()| tokio::spawn(line.ask("x").label("l").timeout(None).into_future()));
    // They are all that may be under way.
    let asks = [word(&mut peer).await.0, word(&mut peer).await.0];
    let cancel = tokio::spawn(async move { line.cancel("l").await });
    for (number, ask) in asks.iter().enumerate() {
        let (id, said) = word(&mut peer).await;
        assert_eq!(said, format!("maitred.match|cancel|db|{number}"));
        answer(&mut peer, &id, "maitred.match", &[b"number", b"1"]).await;
        answer(&mut peer, ask, "maitred.match", &[b"cancelled"]).await;
    }
    assert_eq!(soon(cancel).await.unwrap(), Ok(2));
    for wait in waits {
        assert_eq!(soon(wait).await.unwrap(), Err(Error::Cancelled));
    }
}

#[tokio::test]
async fn a_client_of_several_connections_meets_nobody() {
    let broker = Broker::start().await;
    let client = Client::connect([broker.endpoint(), broker.endpoint()]).unwrap();
    let refused = client.match_line("db").unwrap_err();
    assert!(refused.to_string().starts_with("this client has several connections:"), "{refused}");
    let client = Client::builder([broker.endpoint()]).pipelined(false).connect().unwrap();
    let refused = client.regulator("db").unwrap_err();
    assert!(refused.to_string().starts_with("this client has one call at a time"), "{refused}");
}
