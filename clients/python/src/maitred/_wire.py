"""One connection to a broker: made, shaken hands, used, lost, and never used again.

libzmq would reconnect by itself and in silence, and nobody could tell what was sent before and what
after. So each connection is a socket of its own, and the socket's monitor says when it begins and
ends.

```text
 send ─▶ unsent ─▶ socket            at once, unless libzmq's pipe is full
 on_message ◀─ turn ◀─ socket         all that has arrived, up to a budget per turn
 up, gone   ◀─ turn ◀─ monitor
```
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import zmq

from ._protocol import ENVELOPE_BYTES_MAX, ENVELOPE_FRAMES
from .errors import TooLarge
from .message import Message
from .security import Security, apply


class Lost(Exception):
    """Why there is no connection, for people."""


@dataclass(frozen=True, slots=True)
class WireConfig:
    """How to connect, and when to give up."""

    security: Security = None
    # Seconds of silence after which the broker is asked for a sign of life.
    heartbeat: float = 3.0
    # Intervals of silence after which it is given up.
    liveness: int = 3
    # Bytes of a message, sent or received; the same as what maitred takes unless told otherwise.
    message_bytes_max: int = 64 << 20

    def check(self, message: Message) -> None:
        """Raises for what a broker would hang up for, which would harm all others on the
        connection."""
        room = self.message_bytes_max - ENVELOPE_BYTES_MAX
        if message.size > room:
            raise TooLarge(f"the message has {message.size} bytes, the limit is {room}")
        if len(message) > _FRAMES_MAX - ENVELOPE_FRAMES:
            limit = _FRAMES_MAX - ENVELOPE_FRAMES
            raise TooLarge(f"the message has {len(message)} frames, the limit is {limit}")


class Wire:
    """One connection. Must be made, used and closed on the thread of the running loop."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        endpoint: str,
        config: WireConfig,
        on_message: Callable[[list[bytes]], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self.up: asyncio.Future[None] = self._loop.create_future()
        """Done once hands were shaken; fails with `Lost` if they never will be."""
        self.gone: asyncio.Future[Lost] = self._loop.create_future()
        """Done once the connection has ended, with the reason."""
        self._unsent: deque[Sequence[bytes]] = deque()
        self._drained: asyncio.Future[None] | None = None
        self._turn_is_due = False
        self._closed = False

        try:
            self._socket, self._monitor = _open(context, config)
            self._fds = [self._socket.fileno(), self._monitor.fileno()]
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            # libzmq has as many sockets as it may, for one.
            raise Lost(f"cannot make a socket: {error}") from error
        for fd in self._fds:
            self._loop.add_reader(fd, self._turn)
        # Covers what libzmq says nothing of: names that do not resolve, hosts that do not answer.
        self._giving_up = self._loop.call_later(_CONNECT_MAX, self._give_up)
        self._soon()

    @property
    def is_up(self) -> bool:
        """Whether hands were shaken and the connection has not ended."""
        return self.up.done() and not self.gone.done()

    @property
    def has_room(self) -> bool:
        """Whether what was given to `send` is out of our hands."""
        return not self._unsent

    def send(self, frames: Sequence[bytes]) -> None:
        """Sends a message, or keeps it until there is room. Whoever sends without an end must wait
        for `drained`."""
        if self._closed:
            return
        if self._unsent or not self._try_send(frames):
            self._unsent.append(frames)
        # A send may swallow the signal that something arrived.
        self._soon()

    async def drained(self) -> None:
        """Waits until `has_room`, or until the connection has ended."""
        while self._unsent and not self.gone.done():
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def close(self, linger: float = 0.0) -> None:
        """Ends the connection. What was sent still goes out, for up to `linger` seconds: the
        context's end waits for it."""
        if self._closed:
            return
        self._closed = True
        self._giving_up.cancel()
        for fd in self._fds:
            self._loop.remove_reader(fd)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(int(linger * 1000) if self.is_up else 0)
        self._end(Lost("closed"))

    def _try_send(self, frames: Sequence[bytes]) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def _soon(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Takes all there is. The sockets' signals are edges: nothing may be left behind unless
        another turn is due."""
        self._turn_is_due = False
        if self._closed:
            return
        lost = self._hear_monitor()
        if not self._hear_socket():
            self._soon()
            if lost is None:
                return
        if self._closed:
            return
        while self._unsent and self._try_send(self._unsent[0]):
            self._unsent.popleft()
        if not self._unsent:
            self._wake_senders()
        if lost is not None and not self._closed:
            # What arrived before the end still counts.
            while not self._closed and not self._hear_socket():
                pass
            self._end(lost)

    def _hear_socket(self) -> bool:
        """Whether all that had arrived was taken; others are to have their turn, too."""
        for _ in range(_TURN_MESSAGES):
            if self._closed:
                return True
            try:
                frames = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return True
            self._on_message(frames)
        return False

    def _hear_monitor(self) -> Lost | None:
        while True:
            try:
                event, _address = self._monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return None
            kind, value = struct.unpack("=HI", event)
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._giving_up.cancel()
                if not self.up.done():
                    self.up.set_result(None)
            elif (lost := _ending(kind, value)) is not None:
                return lost

    def _give_up(self) -> None:
        self._end(Lost(f"no connection within {_CONNECT_MAX:.0f} s"))

    def _end(self, why: Lost) -> None:
        if not self.gone.done():
            self.gone.set_result(why)
        if not self.up.done():
            self.up.set_exception(why)
            # Whoever does not ask is not told.
            self.up.exception()
        self._wake_senders()

    def _wake_senders(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None


def new_context(wires: int) -> "zmq.Context[zmq.Socket[bytes]]":
    """A context with room for so many connections at a time: each is two sockets, and libzmq frees
    closed ones a moment later."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, max(1023, 8 * wires))
    return context


def _open(
    context: "zmq.Context[zmq.Socket[bytes]]", config: WireConfig
) -> tuple["zmq.Socket[bytes]", "zmq.Socket[bytes]"]:
    """A socket that is not connected yet, and its monitor."""
    socket = context.socket(zmq.DEALER)
    try:
        _configure(socket, config)
        return socket, socket.get_monitor_socket()
    except zmq.ZMQError:
        socket.close(0)
        raise


def _configure(socket: "zmq.Socket[bytes]", config: WireConfig) -> None:
    beat = max(1, int(config.heartbeat * 1000))
    socket.linger = 0
    socket.ipv6 = True
    # No second connection of libzmq's own: we close the socket long before. Saying so outright
    # (-1), or with IMMEDIATE, makes libzmq drop replies that arrived just before the end.
    socket.reconnect_ivl = 3_600_000
    socket.handshake_ivl = int(_HANDSHAKE_MAX * 1000)
    socket.maxmsgsize = config.message_bytes_max
    socket.heartbeat_ivl = beat
    socket.heartbeat_timeout = beat * config.liveness
    apply(config.security, socket)


def _ending(kind: int, value: int) -> Lost | None:
    if kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return Lost(f"the broker does not let us in (ZeroMQ's error {value}): check our key")
    if kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return Lost("the handshake failed: check mechanism, keys, name and password of both sides")
    if kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return Lost("connected, but there was no ZeroMQ handshake")
    if kind == zmq.EVENT_DISCONNECTED:
        return Lost("the broker closed the connection, or stopped answering")
    if kind == zmq.EVENT_CLOSED:
        return Lost("cannot connect")
    return None


_CONNECT_MAX = 15.0
_HANDSHAKE_MAX = 10.0
_TURN_MESSAGES = 512
# What maitred and the Rust library take at most.
_FRAMES_MAX = 1024
