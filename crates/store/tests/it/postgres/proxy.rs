//! A way to a server that can be interrupted.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

/// What becomes of what passes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// It arrives.
    Pass,
    /// It does not arrive, and nobody is told: a cable that was pulled.
    Hold,
    /// The next COMMIT does not arrive; from then on as with [`Mode::Hold`].
    HoldCommit,
    /// The next COMMIT arrives and its answer does not: the connection ends.
    LoseReply,
}

pub(crate) struct Proxy {
    mode: Arc<AtomicU8>,
    port: u16,
}

impl Proxy {
    /// A way to `port` of this machine.
    pub(crate) fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let here = listener.local_addr().expect("its number").port();
        let mode = Arc::new(AtomicU8::new(Mode::Pass as u8));
        let shared = Arc::clone(&mode);
        // Ends with the process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                join(client, server, &shared);
            }
        });
        Proxy { mode, port: here }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }
}

fn is(mode: &AtomicU8, wanted: Mode) -> bool {
    mode.load(Ordering::SeqCst) == wanted as u8
}

fn join(client: TcpStream, server: TcpStream, mode: &Arc<AtomicU8>) {
    let doomed = Arc::new(AtomicU8::new(0));
    let pair = |from: &TcpStream, to: &TcpStream| {
        (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"))
    };
    let (mut from, mut to) = pair(&client, &server);
    let (shared, marks) = (Arc::clone(mode), Arc::clone(&doomed));
    thread::spawn(move || {
        pump(&mut from, &mut to, |bytes| {
            let commits = bytes.windows(6).any(|word| word == b"COMMIT");
            if commits && is(&shared, Mode::HoldCommit) {
                shared.store(Mode::Hold as u8, Ordering::SeqCst);
            }
            if commits && is(&shared, Mode::LoseReply) {
                shared.store(Mode::Pass as u8, Ordering::SeqCst);
                marks.store(1, Ordering::SeqCst);
            }
            while is(&shared, Mode::Hold) {
                thread::sleep(Duration::from_millis(5));
            }
            true
        });
    });
    let (mut from, mut to) = pair(&server, &client);
    let shared = Arc::clone(mode);
    thread::spawn(move || {
        let mut held = Vec::new();
        pump(&mut from, &mut to, |bytes| {
            while is(&shared, Mode::Hold) {
                thread::sleep(Duration::from_millis(5));
            }
            if doomed.load(Ordering::SeqCst) == 0 {
                return true;
            }
            // The tag of the answer, after which the commit is a fact.
            held.extend_from_slice(bytes);
            !held.windows(7).any(|word| word == b"COMMIT\0")
        });
    });
}

/// Moves bytes while `passes` says so, then ends both ways.
fn pump(from: &mut TcpStream, to: &mut TcpStream, mut passes: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 65_536];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || !passes(&buffer[..count]) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
