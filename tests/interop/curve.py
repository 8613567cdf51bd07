"""Keys, principals and peers that prove who they are; and a wire that can be listened to."""

import socket
import subprocess
import threading
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

from broker import binary, quiet_environment
from process import wait_until


class Keys:
    """Key pairs made by `maitred keygen`, each in a file of its own."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir(exist_ok=True)

    def make(self, name):
        command = [binary(), "keygen", self.path(name)]
        subprocess.run(command, check=True, capture_output=True, env=quiet_environment())
        return self.public(name)

    def path(self, name):
        return self.directory / f"{name}.key"

    def public(self, name):
        return (self.directory / f"{name}.key.pub").read_text().strip()

    def secret(self, name):
        return self.path(name).read_text().strip()

    def word(self, name, text):
        """A password or token in a file of its own."""
        path = self.directory / f"{name}.word"
        path.write_text(text + "\n")
        path.chmod(0o600)
        return path

    def curve(self, name, server="server"):
        """What a pyzmq socket is told to be a CURVE client."""
        return {
            "curve_serverkey": self.public(server).encode(),
            "curve_publickey": self.public(name).encode(),
            "curve_secretkey": self.secret(name).encode(),
        }


def plain(name, password):
    return {"plain_username": name.encode(), "plain_password": password.encode()}


class Monitored:
    """A DEALER whose handshake can be watched."""

    def __init__(self, broker, endpoint, **options):
        self.socket = broker.context.socket(zmq.DEALER)
        self.socket.linger = 0
        for name, value in options.items():
            setattr(self.socket, name, value)
        self.monitor = self.socket.get_monitor_socket()
        self.socket.connect(endpoint)
        broker.own(self)

    def outcome(self, timeout=5.0):
        """The first event that settles a handshake, and its value."""
        wanted = (
            zmq.EVENT_HANDSHAKE_SUCCEEDED,
            zmq.EVENT_HANDSHAKE_FAILED_AUTH,
            zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
            zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
        )

        def settled():
            if not self.monitor.poll(50):
                return None
            event = recv_monitor_message(self.monitor)
            return event if event["event"] in wanted else None

        event = wait_until(settled, "a handshake to be settled", timeout)
        return event["event"], event["value"]

    def close(self):
        if not self.socket.closed:
            self.socket.disable_monitor()
            self.socket.close(0)


class Tap:
    """A wire between a peer and the broker that keeps, and may change, what the peer says."""

    def __init__(self, endpoint, change=None):
        host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
        self.target = (host, int(port))
        self.change = change
        self.said, self.answered = bytearray(), bytearray()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"
        self.sockets = [self.listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.target)
            except OSError:
                return
            self.sockets += [near, far]
            for source, sink, kept in ((near, far, self.said), (far, near, self.answered)):
                args = (source, sink, kept)
                threading.Thread(target=self._pump, args=args, daemon=True).start()

    def _pump(self, source, sink, kept):
        try:
            while octets := source.recv(1 << 16):
                before = len(kept)
                kept += octets
                if self.change is not None and kept is self.said:
                    octets = self.change(before, bytearray(octets))
                sink.sendall(octets)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        for each in self.sockets:
            each.close()
