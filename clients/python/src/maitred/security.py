"""Who we are for a broker that asks."""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import zmq
from zmq.utils import z85

from .errors import InvalidKey


@dataclass(frozen=True, slots=True)
class Curve:
    """Talks to nobody but the broker with the key `server`, and proves to it that we have
    `secret`; all traffic is sealed.

    Keys are 40 characters, as `maitred keygen` writes them.
    """

    server: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        for name, key in (("server", self.server), ("secret", self.secret)):
            try:
                if len(key) != 40 or len(z85.decode(key.encode())) != 32:
                    raise ValueError
            # What a character that is none and a group beyond 32 bits come to.
            except (KeyError, ValueError, struct.error):
                advice = "it is 40 characters, as maitred keygen writes them"
                raise InvalidKey(f"the {name} key is no key: {advice}") from None

    @classmethod
    def load(cls, *, server: str | Path, key: str | Path) -> Self:
        """Reads both from files: `broker.key.pub`, and our own secret `NAME.key`."""
        return cls(Path(server).read_text().strip(), Path(key).read_text().strip())


@dataclass(frozen=True, slots=True)
class Plain:
    """Gives a name and a password, which everybody on the way can read. Each has at most 255
    bytes."""

    username: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        for name, text in (("username", self.username), ("password", self.password)):
            if len(text.encode()) > 255:
                raise InvalidKey(f"the {name} has more than 255 bytes")


Security = Curve | Plain | None


def apply(security: Security, socket: "zmq.Socket[bytes]") -> None:
    """Sets what libzmq is to prove; before `connect`."""
    match security:
        case None:
            pass
        case Plain(username, password):
            socket.plain_username = username.encode()
            socket.plain_password = password.encode()
        case Curve(server, secret):
            key = secret.encode()
            socket.curve_serverkey = server.encode()
            socket.curve_secretkey = key
            socket.curve_publickey = zmq.curve_public(key)
