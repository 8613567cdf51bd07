"""Words of Majordomo (RFC 7 and RFC 18) and Paranoid Pirate (RFC 6), as clients and workers say
and hear them.

Knows frames only: nothing of sockets, of time, or of who called whom.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Protocol(enum.Enum):
    """What is spoken with a broker."""

    MDP01 = "MDP/0.1"
    """RFC 7, spoken by every Majordomo broker. It knows no partial replies."""
    MDP02 = "MDP/0.2"
    """RFC 18, with partial replies."""
    PPP = "PPP"
    """Paranoid Pirate, of a client to the front end or of a worker to the back end of a queue. The
    endpoint stands for the service: names are not sent. It knows neither partial replies nor
    concurrency nor a goodbye."""

    @property
    def has_partials(self) -> bool:
        """Whether a worker may send partial replies."""
        return self is Protocol.MDP02


@dataclass(frozen=True, slots=True)
class _Words:
    """What a version of Majordomo calls things."""

    client: bytes
    worker: bytes
    # 0.1 has the empty frame a REQ socket would add.
    delimiter: bool
    partial: bytes | None
    reply: bytes
    heartbeat: bytes
    disconnect: bytes

    def worker_head(self, command: bytes) -> list[bytes]:
        head = [self.worker, command]
        return [b"", *head] if self.delimiter else head


_WORDS = {
    Protocol.MDP01: _Words(b"MDPC01", b"MDPW01", True, None, b"\x03", b"\x04", b"\x05"),
    Protocol.MDP02: _Words(b"MDPC02", b"MDPW02", False, b"\x03", b"\x04", b"\x05", b"\x06"),
}

# Commands that all versions have.
_READY = b"\x01"
_REQUEST = b"\x02"
# Of Paranoid Pirate.
_PIRATE_HEARTBEAT = b"\x02"
_STACK_MAX = 8

REFUSED = b"MAITRED-REFUSED"
"""The first frame of a two-frame final reply that is a broker's refusal; the second is its reason."""
FAILED = b"MAITRED-FAILED"
"""The first frame of a two-frame final reply that says the handler failed; the second is why."""

ENVELOPE_FRAMES = 6
"""Frames around a body in the longest envelope."""
ENVELOPE_BYTES_MAX = 512
"""Bytes of the longest envelope: a service name or a client's address has at most 255."""


def request(
    protocol: Protocol, call_id: int | None, service: bytes, body: Sequence[bytes]
) -> list[bytes]:
    """A request. The id travels as a return stack of one frame, which brokers that follow RFC 28
    give back in front of the replies."""
    stack = [] if call_id is None else [call_id.to_bytes(8, "big")]
    words = _WORDS.get(protocol)
    if words is None:
        return [*stack, b"", *body]
    if words.delimiter or stack:
        stack.append(b"")
    command = [] if words.partial is None else [_READY]
    return [*stack, words.client, *command, service, *body]


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """What a client hears."""

    call_id: int | None
    final: bool
    body_from: int


def read_reply(protocol: Protocol, frames: Sequence[bytes]) -> ReplyHead | None:
    """Reads a reply's envelope; `None` if it is none."""
    words = _WORDS.get(protocol)
    if words is None:
        delimiter = _delimiter(frames)
        if delimiter is None:
            return None
        return ReplyHead(_call_id(frames, delimiter), True, delimiter + 1)
    header = next((i for i, frame in enumerate(frames[:3]) if frame == words.client), None)
    if header is None:
        return None
    final, service = True, header + 1
    if words.partial is not None:
        if frames[service : service + 1] not in ([b"\x02"], [b"\x03"]):
            return None
        final = frames[service] == b"\x03"
        service += 1
    if service >= len(frames):
        return None
    return ReplyHead(_call_id(frames, header), final, service + 1)


def _call_id(frames: Sequence[bytes], stack_len: int) -> int | None:
    if stack_len == 0 or len(frames[0]) != 8:
        return None
    return int.from_bytes(frames[0], "big")


def ready(protocol: Protocol, service: bytes, concurrency: int) -> list[bytes]:
    """READY. A concurrency above one stands in an option frame that other brokers ignore."""
    words = _WORDS.get(protocol)
    if words is None:
        return [_READY]
    option = [f"concurrency={concurrency}".encode()] if concurrency > 1 else []
    return [*words.worker_head(_READY), service, *option]


def heartbeat(protocol: Protocol) -> list[bytes]:
    """A worker's sign of life."""
    words = _WORDS.get(protocol)
    return [_PIRATE_HEARTBEAT] if words is None else words.worker_head(words.heartbeat)


def disconnect(protocol: Protocol) -> list[bytes] | None:
    """A worker's goodbye, where there is a word for it."""
    words = _WORDS.get(protocol)
    return None if words is None else words.worker_head(words.disconnect)


def reply(
    protocol: Protocol, final: bool, address: Sequence[bytes], body: Sequence[bytes]
) -> list[bytes]:
    """A reply to `address`, as its request named it."""
    words = _WORDS.get(protocol)
    if words is None:
        return [*address, b"", *body]
    command = words.reply if final else words.partial
    assert command is not None, "the protocol has partial replies"
    return [*words.worker_head(command), *address, b"", *body]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request, as a worker hears it."""

    address: tuple[bytes, ...]
    """To be given back with the reply."""
    body: tuple[bytes, ...]


class Control(enum.Enum):
    """What a worker hears beside requests."""

    HEARTBEAT = enum.auto()
    DISCONNECT = enum.auto()


def read_command(protocol: Protocol, frames: Sequence[bytes]) -> Delivery | Control | None:
    """Reads what a broker tells a worker; `None` if it is no such thing."""
    words = _WORDS.get(protocol)
    if words is None:
        return _read_pirate(frames)
    header = 1 if frames[:1] == [b""] else 0
    if len(frames) < header + 2 or frames[header] != words.worker:
        return None
    command, rest = frames[header + 1], frames[header + 2 :]
    if command == _REQUEST:
        if not rest:
            return None
        body_from = 2 if rest[1:2] == [b""] else 1
        return Delivery((rest[0],), tuple(rest[body_from:]) or (b"",))
    if command == words.heartbeat:
        return Control.HEARTBEAT
    return Control.DISCONNECT if command == words.disconnect else None


def _read_pirate(frames: Sequence[bytes]) -> Delivery | Control | None:
    if len(frames) == 1:
        is_beat = frames[0] in (_PIRATE_HEARTBEAT, b"HEARTBEAT")
        return Control.HEARTBEAT if is_beat else None
    delimiter = _delimiter(frames)
    if delimiter is None:
        return None
    return Delivery(tuple(frames[:delimiter]), tuple(frames[delimiter + 1 :]) or (b"",))


def _delimiter(frames: Sequence[bytes]) -> int | None:
    return next((i for i, frame in enumerate(frames[: _STACK_MAX + 1]) if not frame), None)
