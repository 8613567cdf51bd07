//! A scripted broker: a ROUTER that says and hears single messages, as text.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use zmtp::{Config, Connection, Event, Frames, SocketType, Step, put_frame};

/// Listens on loopback.
pub(crate) struct Broker {
    listener: TcpListener,
}

/// One connection to it.
pub(crate) struct Peer {
    stream: TcpStream,
    config: Config,
    zmtp: Connection,
    frames: Frames,
    rx: Vec<u8>,
    out: Vec<u8>,
    /// PINGs that came.
    pub(crate) pings: usize,
    /// PONGs that came.
    pongs: usize,
}

impl Broker {
    pub(crate) async fn start() -> Broker {
        Broker::start_on(0).await
    }

    pub(crate) async fn start_on(port: u16) -> Broker {
        Broker { listener: TcpListener::bind(("127.0.0.1", port)).await.unwrap() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port())
    }

    /// The next connection, hands shaken.
    pub(crate) async fn accept(&self) -> Peer {
        self.accept_speaking(1).await
    }

    /// As one that speaks ZMTP 3.`minor`; 3.0 knows no PING.
    pub(crate) async fn accept_speaking(&self, minor: u8) -> Peer {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        let config = Config::new(SocketType::Router);
        let mut out = Vec::new();
        let zmtp = Connection::new(&config, &mut out);
        out[11] = minor;
        let (frames, rx) = Default::default();
        let mut peer = Peer { stream, config, zmtp, frames, rx, out, pings: 0, pongs: 0 };
        peer.flush().await;
        while !peer.zmtp.is_ready() {
            assert_eq!(soon(peer.step()).await, Some(None), "a message before the handshake");
        }
        peer
    }
}

impl Peer {
    /// The next message; `None` when the connection ends.
    pub(crate) async fn recv(&mut self) -> Option<Vec<Vec<u8>>> {
        loop {
            if let Some(message) = soon(self.step()).await? {
                return Some(message);
            }
        }
    }

    /// The next message, as [`text`].
    pub(crate) async fn hear(&mut self) -> String {
        self.recv().await.map_or_else(|| "the end".into(), |message| text(&message))
    }

    /// The next message that is no heartbeat, as [`text`].
    pub(crate) async fn hear_work(&mut self) -> String {
        loop {
            let heard = self.hear().await;
            if ![r"MDPW02|\x05", r"∅|MDPW01|\x04", r"\x02"].contains(&&heard[..]) {
                return heard;
            }
        }
    }

    /// A request to `echo` over MDP/0.2: its id and its body.
    pub(crate) async fn request(&mut self) -> (Vec<u8>, Vec<u8>) {
        let message = self.recv().await.expect("a request");
        let [id, delimiter, header, command, service, body] = &message[..] else {
            panic!("{}", text(&message));
        };
        assert_eq!(
            [delimiter, header, command, service],
            [&b""[..], b"MDPC02", b"\x01", b"echo"],
            "{}",
            text(&message)
        );
        (id.clone(), body.clone())
    }

    pub(crate) async fn reply(&mut self, id: &[u8], body: &[u8]) {
        self.send(&[id, b"", b"MDPC02", b"\x03", b"echo", body]).await;
    }

    pub(crate) async fn partial(&mut self, id: &[u8], body: &[u8]) {
        self.send(&[id, b"", b"MDPC02", b"\x02", b"echo", body]).await;
    }

    pub(crate) async fn send(&mut self, message: &[&[u8]]) {
        for (i, frame) in message.iter().enumerate() {
            put_frame(&mut self.out, i + 1 < message.len(), frame);
        }
        self.flush().await;
    }

    /// Sends a PING and waits for its PONG: what was sent before it was heard.
    pub(crate) async fn ping(&mut self) {
        zmtp::put_ping(&mut self.out, 0, b"");
        self.flush().await;
        let before = self.pongs;
        while self.pongs == before {
            let message = soon(self.step()).await.expect("the connection ended");
            let heartbeat = message.is_none_or(|message| text(&message) == r"MDPW02|\x05");
            assert!(heartbeat, "a message came before the PONG");
        }
    }

    /// Answers requests to `echo` over MDP/0.2 until the connection ends; returns how many.
    pub(crate) async fn echo(mut self, delay: Duration) -> usize {
        let mut count = 0;
        while let Some(message) = self.step().await {
            let Some(message) = message else { continue };
            tokio::time::sleep(delay).await;
            self.reply(&message[0], &message[5]).await;
            count += 1;
        }
        count
    }

    async fn flush(&mut self) {
        // The other side may be gone; that is heard when reading.
        let _ = self.stream.write_all(&self.out).await;
        self.out.clear();
    }

    /// `None` at the end, `Some(None)` for what is no message.
    async fn step(&mut self) -> Option<Option<Vec<Vec<u8>>>> {
        loop {
            match self.zmtp.next(&self.config, &mut self.rx, &mut self.frames, &mut self.out) {
                Ok(Step::Message { len }) => {
                    let view = self.frames.view(&self.rx);
                    let message = (0..view.len()).map(|i| view.frame(i).unwrap().to_vec());
                    let message = message.collect();
                    self.rx.drain(..len);
                    return Some(Some(message));
                }
                Ok(Step::Skip { len, event }) => {
                    self.rx.drain(..len);
                    match event {
                        Some(Event::Ping { .. }) => self.pings += 1,
                        Some(Event::Pong) => self.pongs += 1,
                        Some(Event::Ready) | None => (),
                        Some(Event::Work | Event::Claim) => panic!("NULL takes no work"),
                    }
                    self.flush().await;
                    return Some(None);
                }
                Ok(Step::Cut { .. }) => panic!("a command inside a message"),
                Ok(Step::More { .. }) => {
                    if !matches!(self.stream.read_buf(&mut self.rx).await, Ok(1..)) {
                        return None;
                    }
                }
                Err(error) => panic!("the library broke the protocol: {error}"),
            }
        }
    }
}

/// Frames as text: `∅` for an empty one, `|` between two.
pub(crate) fn text(message: &[Vec<u8>]) -> String {
    let frame = |frame: &Vec<u8>| match &frame[..] {
        [] => "∅".into(),
        frame => frame.escape_ascii().to_string(),
    };
    message.iter().map(frame).collect::<Vec<_>>().join("|")
}

/// Fails rather than hangs.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), future).await.expect("it never happened")
}
