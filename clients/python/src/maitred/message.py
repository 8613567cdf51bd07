"""What requests and replies carry."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, Union


@dataclass(frozen=True, slots=True)
class Message:
    """The body of a request or a reply: one or more frames of any bytes."""

    frames: tuple[bytes, ...] = (b"",)

    @property
    def body(self) -> bytes:
        """All frames as one run of bytes; of most messages this is their only frame."""
        return self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)

    @property
    def text(self) -> str:
        """The body as text for people; what is not UTF-8 becomes `�`."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body read as JSON.

        Raises `ValueError` if it is none.
        """
        return json.loads(self.body)

    @property
    def size(self) -> int:
        """How many bytes all frames have together."""
        return sum(map(len, self.frames))

    def __bytes__(self) -> bytes:
        return self.body

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.frames)

    def __len__(self) -> int:
        return len(self.frames)


Body: TypeAlias = Union[bytes, bytearray, memoryview, str, Message, Sequence[bytes | str], None]
"""What is taken for a body: bytes, text (sent as UTF-8), a message, several frames, or nothing."""


def as_message(body: Body) -> Message:
    """The message a body stands for; of one empty frame for nothing, since Majordomo knows no body
    of no frames."""
    match body:
        case Message():
            return body
        case bytes():
            return Message((body,))
        case None:
            return Message()
        case str() | bytearray() | memoryview():
            return Message((_frame(body),))
        case Sequence():
            return Message(tuple(_frame(frame) for frame in body) or (b"",))
        case _:
            kind = type(body).__name__
            raise TypeError(f"a body is bytes, str, a Message, a sequence of those, or None: {kind}")


def _frame(frame: object) -> bytes:
    match frame:
        case bytes():
            return frame
        case str():
            return frame.encode()
        case bytearray() | memoryview():
            return bytes(frame)
        case _:
            raise TypeError(f"a frame is bytes or str, not {type(frame).__name__}")
