"""ZMTP 3.x by hand over a plain TCP socket, for peers that do what libzmq never would."""

import socket
import struct
import time
from urllib.parse import urlsplit

MORE, LONG, COMMAND = 0x01, 0x02, 0x04


def greeting(*, major=3, minor=1, mechanism=b"NULL", as_server=0):
    signature = b"\xff" + bytes(8) + b"\x7f"
    version = bytes([major, minor])
    return signature + version + mechanism.ljust(20, b"\0") + bytes([as_server]) + bytes(31)


def frame(body, *, more=False, command=False, long=False):
    flags = (MORE if more else 0) | (COMMAND if command else 0)
    if long or len(body) > 255:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return struct.pack(">BB", flags, len(body)) + body


def frame_header(size, *, more=False, command=False):
    """The head of a long frame that promises `size` octets and sends none."""
    return struct.pack(">BQ", LONG | (MORE if more else 0) | (COMMAND if command else 0), size)


def message(*frames):
    return b"".join(frame(f, more=i < len(frames) - 1) for i, f in enumerate(frames))


def command(name, data=b"", *, long=False):
    return frame(bytes([len(name)]) + name + data, command=True, long=long)


def metadata(properties):
    return b"".join(
        bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
        for name, value in properties
    )


def ready(socket_type=b"DEALER", identity=b""):
    return command(b"READY", metadata([(b"Socket-Type", socket_type), (b"Identity", identity)]))


def ping(ttl_tenths=0, context=b""):
    return command(b"PING", struct.pack(">H", ttl_tenths) + context)


class Closed(Exception):
    """The other end closed the connection."""


class RawPeer:
    """One TCP connection. `handshake=False` sends nothing at all, not even the greeting.

    PINGs are answered only while `pongs` is true; every command that arrives is kept in `commands`.
    """

    def __init__(
        self,
        endpoint,
        *,
        handshake=True,
        socket_type=b"DEALER",
        minor=1,
        identity=b"",
        pongs=True,
        timeout=5.0,
    ):
        url = urlsplit(endpoint)
        self.socket = self.connect(url.hostname, url.port, timeout)
        self.pongs = pongs
        self.commands = []
        self._timeout = timeout
        self._input = bytearray()
        self._frames = []
        if handshake:
            self.write(greeting(minor=minor) + ready(socket_type, identity))
            self.finish_handshake(timeout)

    def connect(self, host, port, timeout):
        plain = socket.create_connection((host, port), timeout=timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return plain

    def finish_handshake(self, timeout=5.0):
        deadline = time.monotonic() + timeout
        self._need(64, deadline)
        self.greeted = self._take(64)
        assert self.greeted[0] == 0xFF and self.greeted[9] == 0x7F, self.greeted
        assert self.greeted[10] == 3, self.greeted
        while True:
            flags, body = self._frame(deadline)
            assert flags & COMMAND, f"a message before READY: {body[:60]!r}"
            self.commands.append(body)
            if body.startswith(b"\x05READY"):
                return
            assert not body.startswith(b"\x05ERROR"), body

    def write(self, octets):
        self.socket.settimeout(self._timeout)
        self.socket.sendall(octets)

    def send(self, *frames):
        self.write(message(*frames))

    def recv(self, timeout=5.0):
        """The next whole message; commands before it are kept aside."""
        deadline = time.monotonic() + timeout
        while True:
            flags, body = self._frame(deadline)
            if flags & COMMAND:
                self._on_command(body)
                continue
            self._frames.append(body)
            if not flags & MORE:
                whole, self._frames = self._frames, []
                return whole

    def listen(self, seconds):
        """All messages of the next `seconds`, until the connection closes."""
        deadline = time.monotonic() + seconds
        messages = []
        try:
            while True:
                messages.append(self.recv(max(0.0, deadline - time.monotonic())))
        except (TimeoutError, Closed):
            return messages

    def wait_closed(self, timeout=5.0):
        """Reads, answering nothing but PINGs, until the other end closes."""
        deadline = time.monotonic() + timeout
        try:
            while True:
                flags, body = self._frame(deadline)
                if flags & COMMAND:
                    self._on_command(body)
        except Closed:
            return
        except TimeoutError:
            raise AssertionError(f"the connection is still open after {timeout} s") from None

    def wait_eof(self, timeout=5.0):
        """As `wait_closed`, for a peer whose input is not worth decoding."""
        deadline = time.monotonic() + timeout
        try:
            while True:
                self._fill(deadline)
                self._input.clear()
        except Closed:
            return
        except TimeoutError:
            raise AssertionError(f"the connection is still open after {timeout} s") from None

    def named(self, name):
        """The commands of this name that came so far, without the name."""
        head = bytes([len(name)]) + name
        return [body[len(head) :] for body in self.commands if body.startswith(head)]

    def close(self):
        self.socket.close()

    def reset(self):
        """RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _on_command(self, body):
        self.commands.append(body)
        if body.startswith(b"\x04PING") and self.pongs:
            self.write(command(b"PONG", body[7:]))

    def _frame(self, deadline):
        """One whole frame, or nothing taken at all: a wait that ran out can be taken up again."""
        self._need(2, deadline)
        head, size = 2, self._input[1]
        if self._input[0] & LONG:
            self._need(9, deadline)
            head, size = 9, struct.unpack(">Q", self._input[1:9])[0]
        self._need(head + size, deadline)
        flags = self._input[0]
        return flags, self._take(head + size)[head:]

    def _need(self, size, deadline):
        while len(self._input) < size:
            self._fill(deadline)

    def _take(self, size):
        taken = bytes(self._input[:size])
        del self._input[:size]
        return taken

    def _fill(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)
        try:
            octets = self.socket.recv(1 << 16)
        except (ConnectionError, BrokenPipeError) as error:
            raise Closed from error
        if not octets:
            raise Closed
        self._input += octets
