//! One connection that speaks ZMTP as a DEALER, with its buffers and its signs of life.
//!
//! ```text
//!  driver ─▶ tx ─▶ io ─▶ socket            one write for all that was put into tx since the last
//!  driver ◀─ receive ◀─ rx ◀─ io ◀─ socket  one read for all that has arrived
//! ```
//!
//! Knows nothing of Majordomo.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use zmtp::{Connection, Event, Frames, Security, SocketType, Step, put_ping};

use crate::endpoint::Endpoint;
use crate::message::Message;
use crate::stream::Stream;
use crate::tls::Trust;

/// Why there is no connection, for people.
pub(crate) type Lost = Box<str>;

/// How to connect, and when to give up.
#[derive(Clone, Debug)]
pub(crate) struct WireConfig {
    pub(crate) security: Security,
    /// What brokers at `tls://` are checked with.
    pub(crate) trust: Option<Trust>,
    pub(crate) limits: zmtp::Limits,
    /// After this much silence the peer is asked for a sign of life.
    pub(crate) heartbeat: Duration,
    /// After this many intervals of silence it is given up.
    pub(crate) liveness: u32,
}

impl Default for WireConfig {
    fn default() -> WireConfig {
        WireConfig {
            security: Security::Null,
            trust: None,
            limits: zmtp::Limits::default(),
            heartbeat: Duration::from_secs(3),
            liveness: 3,
        }
    }
}

pub(crate) struct Wire {
    stream: Stream,
    config: WireConfig,
    zmtp_config: zmtp::Config,
    zmtp: Connection,
    /// Received, not consumed.
    rx: BytesMut,
    /// How long `rx` must be before there can be anything new in it.
    rx_need: usize,
    /// Where the frames of the message at the start of `rx` are.
    frames: Frames,
    /// To be sent; whoever fills it must look at [`Wire::has_room`] first.
    pub(crate) tx: Vec<u8>,
    /// Under CURVE, what was sealed of `tx`: only this is sent then.
    sealed: Vec<u8>,
    /// How much of `tx`, or `sealed`, was sent.
    tx_done: usize,
    /// When anything last came from the peer.
    heard: Instant,
    /// PINGs since then.
    pings: u32,
}

impl Wire {
    /// Connects and shakes hands.
    pub(crate) async fn connect(endpoint: &Endpoint, config: &WireConfig) -> Result<Wire, Lost> {
        let stream =
            timeout(CONNECT_TIMEOUT, Stream::connect(endpoint, config.trust.as_ref())).await;
        let stream = stream.map_err(|_| Lost::from("no answer to connecting"))?;
        let stream = stream.map_err(|error| error.to_string())?;
        let mut zmtp_config = zmtp::Config::new(SocketType::Dealer);
        zmtp_config.security = config.security.clone();
        zmtp_config.limits = config.limits;
        let mut tx = Vec::new();
        let zmtp = Connection::new(&zmtp_config, &mut tx);
        let mut wire = Wire {
            stream,
            config: config.clone(),
            zmtp_config,
            zmtp,
            rx: BytesMut::new(),
            rx_need: 1,
            frames: Frames::default(),
            tx,
            sealed: Vec::new(),
            tx_done: 0,
            heard: Instant::now(),
            pings: 0,
        };
        timeout(HANDSHAKE_TIMEOUT, wire.shake_hands())
            .await
            .map_err(|_| Lost::from("connected, but there was no ZMTP handshake"))??;
        Ok(wire)
    }

    async fn shake_hands(&mut self) -> Result<(), Lost> {
        while !self.zmtp.is_ready() {
            self.io().await?;
            // A peer may send messages behind its READY: they stay in `rx`.
            while !self.zmtp.is_ready() && self.step()?.is_some() {}
        }
        Ok(())
    }

    /// Whether more may be put into `tx` before what is there was sent.
    pub(crate) fn has_room(&self) -> bool {
        self.tx.len() + self.sealed.len() - self.tx_done < TX_BYTES_ENOUGH
    }

    /// Sends what there is to send, until something was received or everything is sent that there
    /// was no room behind. May be dropped and called again at any time.
    pub(crate) async fn io(&mut self) -> Result<(), Lost> {
        let had_room = self.has_room();
        self.seal();
        let Wire { stream, rx, rx_need, tx_done, .. } = self;
        let tx = if self.zmtp.is_sealed() { &mut self.sealed } else { &mut self.tx };
        let missing = rx_need.saturating_sub(rx.len()).max(1);
        // What was announced is not reserved before it comes.
        rx.reserve(missing.clamp(RX_BYTES_MIN, RX_BYTES_MAX));
        let read = poll_fn(|cx| {
            while *tx_done < tx.len() {
                match Pin::new(&mut *stream).poll_write(cx, &tx[*tx_done..]) {
                    Poll::Ready(Ok(len)) => *tx_done += len,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            if *tx_done == tx.len() {
                // Under TLS, what was taken may still stand before the socket.
                if let Poll::Ready(Err(error)) = Pin::new(&mut *stream).poll_flush(cx) {
                    return Poll::Ready(Err(error));
                }
                tx.clear();
                *tx_done = 0;
                if tx.capacity() > TX_BYTES_KEPT {
                    tx.shrink_to(TX_BYTES_KEPT);
                }
            }
            match pin!(stream.read_buf(rx)).poll(cx) {
                Poll::Pending if !had_room && tx.is_empty() => Poll::Ready(Ok(None)),
                Poll::Pending => Poll::Pending,
                Poll::Ready(read) => Poll::Ready(read.map(Some)),
            }
        });
        match read.await {
            Ok(None) => Ok(()),
            Ok(Some(0)) => Err("the broker closed the connection".into()),
            Ok(Some(_)) => {
                self.heard = Instant::now();
                self.pings = 0;
                Ok(())
            }
            Err(error) => Err(error.to_string().into()),
        }
    }

    /// Under CURVE all that is to be sent is sealed first. The handshake itself is not, and was
    /// sent before the broker could end it.
    fn seal(&mut self) {
        if self.zmtp.is_sealed() && !self.tx.is_empty() {
            self.zmtp.seal(&self.tx, &mut self.sealed);
            self.tx.clear();
        }
    }

    /// Hands all complete messages in `rx` to `on_message`.
    pub(crate) fn receive(
        &mut self,
        mut on_message: impl FnMut(&Incoming<'_>),
    ) -> Result<(), Lost> {
        while let Some(message_bytes) = self.step()? {
            match message_bytes {
                0 => (),
                len if len >= OWN_BLOCK_BYTES => {
                    let block = self.rx.split_to(len).freeze();
                    let view = self.frames.view(&block);
                    on_message(&Incoming { view, block: Some(&block) });
                }
                len => {
                    on_message(&Incoming { view: self.frames.view(&self.rx), block: None });
                    self.rx.advance(len);
                }
            }
        }
        Ok(())
    }

    /// One step of the protocol: `None` if more bytes are needed, else the length of the message at
    /// the start of `rx`, 0 if what was there was no message.
    fn step(&mut self) -> Result<Option<usize>, Lost> {
        if self.rx.len() < self.rx_need {
            return Ok(None);
        }
        let step = self.zmtp.next(&self.zmtp_config, &mut self.rx, &mut self.frames, &mut self.tx);
        self.rx_need = 1;
        match step.map_err(|error| explain(&error))? {
            Step::More { need } => {
                self.rx_need = need;
                return Ok(None);
            }
            Step::Skip { len, event } => {
                self.rx.advance(len);
                self.on_event(event)?;
            }
            Step::Cut { len, event } => {
                self.rx.truncate(self.rx.len() - len);
                self.on_event(event)?;
            }
            Step::Message { len } => return Ok(Some(len)),
        }
        Ok(Some(0))
    }

    /// The codec answers PINGs itself, and nearly all else that is worth knowing is asked of it
    /// directly.
    fn on_event(&mut self, event: Option<Event>) -> Result<(), Lost> {
        match event {
            None | Some(Event::Ready | Event::Ping { .. } | Event::Pong) => Ok(()),
            Some(Event::Work) => {
                let random = &mut |octets: &mut [u8]| {
                    getrandom::fill(octets).expect("the system has randomness once it has booted");
                };
                let worked = self.zmtp.work(&self.zmtp_config, random, &mut self.tx);
                worked.map(drop).map_err(|error| error.to_string().into())
            }
            // Brokers make no claims.
            Some(Event::Claim) => Err(self.zmtp.deny(&mut self.tx).to_string().into()),
        }
    }

    /// Asks a silent peer for a sign of life, or gives it up. Returns when to call this again.
    ///
    /// Peers that do not know PING are not judged.
    pub(crate) fn watch(&mut self, now: Instant) -> Result<Instant, Lost> {
        let WireConfig { heartbeat, liveness, .. } = self.config;
        let due = self.heard + heartbeat * (self.pings + 1);
        if now < due || !self.zmtp.supports_ping() {
            return Ok(due.max(now + heartbeat / 4));
        }
        if self.pings >= liveness {
            let silence = now - self.heard;
            return Err(format!("the broker's machine was silent for {silence:.1?}").into());
        }
        put_ping(&mut self.tx, 0, b"");
        self.pings += 1;
        Ok(now + heartbeat)
    }

    /// Sends what is left, says that nothing more comes, and waits for the peer to hang up, so that
    /// nothing that was sent gets lost.
    pub(crate) async fn close(mut self) {
        let _ = timeout(CLOSE_TIMEOUT, async {
            self.seal();
            let tx = if self.zmtp.is_sealed() { &self.sealed } else { &self.tx };
            let _ = self.stream.write_all(&tx[self.tx_done..]).await;
            let _ = self.stream.shutdown().await;
            loop {
                self.rx.clear();
                if !matches!(self.stream.read_buf(&mut self.rx).await, Ok(1..)) {
                    break;
                }
            }
        })
        .await;
    }
}

/// What to look at when a broker hangs up on us.
fn explain(error: &zmtp::Error) -> Lost {
    if let zmtp::Error::PeerError { reason } = error {
        match &**reason {
            "400" => return "the broker does not know us, or not with this key or password".into(),
            "bad_box" => {
                return "the broker cannot open our handshake: is this its public key?".into();
            }
            _ => {}
        }
    }
    if let zmtp::Error::Mechanism { ours, got } = error {
        return format!("the broker speaks {got}, and we were told to speak {ours}").into();
    }
    error.to_string().into()
}

/// A message in the receive buffer, or in a block of its own if it is large.
pub(crate) struct Incoming<'a> {
    pub(crate) view: zmtp::Message<'a>,
    block: Option<&'a Bytes>,
}

impl Incoming<'_> {
    /// The frames `from..`, kept: small ones are copied, so that they do not pin the buffer.
    pub(crate) fn body(&self, from: usize) -> Message {
        Message::frames((from..self.view.len()).filter_map(|i| self.bytes(i)))
    }

    fn bytes(&self, i: usize) -> Option<Bytes> {
        let frame = self.view.frame(i)?;
        Some(match self.block {
            Some(block) => block.slice_ref(frame),
            None => Bytes::copy_from_slice(frame),
        })
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For the last reply to leave and the broker to hang up.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Enough to send at once; one message may go beyond it.
const TX_BYTES_ENOUGH: usize = 128 << 10;
/// What `tx` keeps when all was sent.
const TX_BYTES_KEPT: usize = 256 << 10;
/// Room for a read: at least this much, so that many small messages come at once.
const RX_BYTES_MIN: usize = 32 << 10;
/// And at most this much beyond what is there.
const RX_BYTES_MAX: usize = 512 << 10;
/// From this length on, a message keeps the memory it was read into; the next bytes get new memory.
const OWN_BLOCK_BYTES: usize = 32 << 10;
