//! Handshakes of TLS: read here record by record, computed by the helper thread.

use engine::{ConnId, Time};

use super::{Reactor, is_there};
use crate::tls::{Gathered, Stepped};

/// The label of connections that are refused below ZMTP.
const KIND: &str = "tls";

impl Reactor {
    /// Reads the next record of a handshake and gives it out.
    pub(super) fn shake(&mut self, now: Time, id: ConnId) {
        let Some(socket) = self.socket(id) else { return };
        let Some(stream) = socket.stream.tls() else { return };
        match stream.gather() {
            Gathered::Waits => socket.readable = false,
            // Whoever is gone waits for nothing.
            Gathered::Away if socket.ending => self.close(now, id),
            // It stays readable and is queued again when the step has come back.
            Gathered::Away => {}
            Gathered::Ended => self.close(now, id),
            Gathered::Refused(why) => self.shard.fail_below(now, id, KIND, why),
            Gathered::Step(step) => {
                if socket.ending {
                    // No further edge will come.
                    socket.queued = true;
                    self.ready.push_back(id);
                }
                let most = self.shard.config().limits.handshakes;
                let queue = self.handshakes.as_mut();
                let queue = queue.expect("there is a thread if there is a listener with TLS");
                let sockets = &self.sockets;
                if !queue.push(id, step, most, |id| is_there(sockets, id)) {
                    self.shard.crowd_out(now, id);
                }
            }
        }
    }

    /// A step came back.
    pub(super) fn shaken(&mut self, now: Time, id: ConnId, stepped: Stepped) {
        let Some(socket) = self.socket(id) else { return };
        let Some(stream) = socket.stream.tls() else { return };
        let taken = stream.take_back(stepped);
        // Whatever was to be written, what TLS has to say is first, and may go now.
        socket.blocked = false;
        if let Err(why) = taken {
            return self.shard.fail_below(now, id, KIND, why);
        }
        if socket.readable && !socket.queued {
            socket.queued = true;
            self.ready.push_back(id);
        }
        self.flush(now, id);
    }
}
