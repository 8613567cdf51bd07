//! The example `tower_503`, called over real HTTP on a loopback socket. Nothing is timed: a
//! request runs until the test lets it end.

use std::net::SocketAddr;
use std::sync::Arc;

use matching::live::{Regulator, RegulatorSnapshot};
use matching::{QueueConfig, ValveConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

#[allow(dead_code)]
#[path = "../examples/tower_503.rs"]
mod tower_503;

/// What comes back for `GET path`.
async fn get(address: SocketAddr, path: &'static str) -> String {
    let mut socket = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("it reads");
    let mut response = String::new();
    socket.read_to_string(&mut response).await.expect("it answers");
    response
}

fn call(address: SocketAddr) -> JoinHandle<String> {
    tokio::spawn(get(address, "/"))
}

/// Waits until so many run and so many wait.
async fn reach(regulator: &Regulator, permits: usize, waiting: usize) -> RegulatorSnapshot {
    loop {
        let snapshot = regulator.snapshot();
        if (snapshot.permits, snapshot.waiting) == (permits, waiting) {
            return snapshot;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_is_shed_gets_503_and_when_to_try_again() {
    let line = QueueConfig::default().with_max(1);
    let regulator = Regulator::new(line, ValveConfig::limit(1)).expect("a good configuration");
    let (gate, inside) = (Arc::new(Semaphore::new(0)), regulator.clone());
    let opens = Arc::clone(&gate);
    let work = move || {
        let gate = Arc::clone(&opens);
        async move {
            gate.acquire().await.expect("it stays").forget();
            String::from("done\n")
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let server = tokio::spawn(async move {
        axum::serve(listener, tower_503::app(inside, work)).await.expect("it serves");
    });

    let first = call(address);
    reach(&regulator, 1, 0).await;
    let second = call(address);
    reach(&regulator, 1, 1).await;
    let shed = get(address, "/").await;
    assert!(shed.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{shed}");
    assert!(shed.contains("\r\nretry-after: 1\r\n"), "{shed}");
    assert!(shed.contains("\r\n\r\nthe line is full (after 0ns, try again in "), "{shed}");
    assert!(get(address, "/health").await.ends_with("\r\n\r\nwell"));

    gate.add_permits(1);
    assert!(first.await.expect("no panic").ends_with("\r\n\r\ndone\n"));
    reach(&regulator, 1, 0).await;
    // Who hangs up while it waits leaves the line.
    let third = call(address);
    reach(&regulator, 1, 1).await;
    third.abort();
    reach(&regulator, 1, 0).await;
    gate.add_permits(1);
    assert!(second.await.expect("no panic").starts_with("HTTP/1.1 200 OK\r\n"));
    let snapshot = reach(&regulator, 0, 0).await;
    assert_eq!((snapshot.admitted, snapshot.shed.queue_full, snapshot.abandoned), (2, 1, 0));
    server.abort();
}
