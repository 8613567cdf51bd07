"""The asyncio client: a book of calls, and one task per broker that keeps a connection.

```text
 call ─▶ waiting ─▶ a line: sent ─▶ done
            ▲          │
            └──────────┘ the line was lost, or its broker refused
```

A *line* is one connection to one broker, up or down. A call's bytes stay here until it is done, so
that they can be sent again, and nothing is sent that nobody waits for any more.
"""

import asyncio
import functools
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from types import EllipsisType, TracebackType
from typing import Self

import zmq

from . import _protocol
from ._backoff import QUICK, Backoff
from ._endpoint import check_endpoint, service_name
from ._protocol import FAILED, REFUSED, Protocol
from ._wire import Lost, Wire, WireConfig, new_context
from .errors import (
    ANOTHER_BROKER_MAY_HELP,
    Closed,
    ConnectionLost,
    EndpointError,
    Failed,
    MaitredError,
    RepliesTooLarge,
    Timeout,
    Unreachable,
    refused,
)
from .message import Body, Message, as_message
from .security import Security

logger = logging.getLogger("maitred.client")


class AsyncClient:
    """Calls services through one or several brokers, on the running event loop.

    Calls are pipelined: any number of them may be under way at once over one connection. Each goes
    to the broker with the fewest calls under way. A request whose connection is lost is sent again
    until its deadline: Majordomo assumes that serving a request twice does no harm. Where it does,
    say `retry=False`.

    ```python
    async with AsyncClient("tcp://127.0.0.1:5555") as client:
        reply = await client.call("upper", "hello")
    ```
    """

    def __init__(
        self,
        *endpoints: str,
        protocol: Protocol = Protocol.MDP02,
        timeout: float | None = 10.0,
        security: Security = None,
        pipelined: bool | None = None,
        window: int = 4096,
        heartbeat: float = 3.0,
        liveness: int = 3,
        message_bytes_max: int = 64 << 20,
    ) -> None:
        """A client of the brokers at `endpoints` (`tcp://host:port` or `ipc://path`). It connects
        when it is first used.

        Args:
            protocol: what the brokers speak.
            timeout: seconds a call may take that says nothing else; `None` for any time.
            security: `Curve` or `Plain`.
            pipelined: whether a connection carries many calls at once; by default it does in
                MDP/0.2 and does not in MDP/0.1 and Paranoid Pirate, whose well-known brokers
                ignore requests with an id. Without it a connection carries one call at a time, and
                is closed when a call under way is given up.
            window: most calls under way on one connection; more wait their turn here.
            heartbeat: seconds of silence after which a broker is asked for a sign of life …
            liveness: … and how many of them it may be silent.
            message_bytes_max: bytes of a message, sent or received.

        Raises:
            EndpointError: an endpoint cannot be read, or there is none.
        """
        if not endpoints:
            raise EndpointError("a client needs at least one endpoint, as tcp://127.0.0.1:5555")
        self._protocol = protocol
        self._timeout = timeout
        self._wire = WireConfig(security, heartbeat, liveness, message_bytes_max)
        self._pipelined = protocol is Protocol.MDP02 if pipelined is None else pipelined
        self._window = max(1, window) if self._pipelined else 1
        self._lines = [_Line(check_endpoint(endpoint)) for endpoint in endpoints]
        self._calls: dict[int, _Call] = {}
        self._waiting: deque[_Call] = deque()
        self._next_id = 1
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._any_up = asyncio.Event()
        self._closed = False

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def call(
        self,
        service: str | bytes,
        body: Body = None,
        *,
        timeout: float | None | EllipsisType = ...,
        retry: bool = True,
    ) -> Message:
        """Calls a service and gives its reply. Partial replies, if there are any, are joined: the
        frames of all of them, then those of the final one.

        Args:
            timeout: seconds to wait for the reply; `None` for any time.
            retry: whether the request may be sent again when its connection is lost. This is about
                our own sending: a broker may still give the request to another worker when the one
                that holds it is lost.

        Raises:
            Timeout: there was no reply in time; `Unreachable` if there was no broker.
            Refused: the broker refused; its subclasses are the reasons.
            Failed: the worker's handler failed.
            ConnectionLost: only without `retry`.
            TooLarge: of the request. `RepliesTooLarge`: of the replies.
        """
        call = self._submit(service, body, timeout, retry, streaming=False)
        try:
            while call.outcome is None:
                await call.wait()
        finally:
            self._forget(call)
        if isinstance(call.outcome, MaitredError):
            raise call.outcome
        frames = [frame for part in call.parts for frame in part]
        return Message((*frames, *call.outcome)) if frames else call.outcome

    def stream(
        self,
        service: str | bytes,
        body: Body = None,
        *,
        timeout: float | None | EllipsisType = ...,
        retry: bool = True,
    ) -> AsyncGenerator[Message, None]:
        """Calls a service and gives its replies one by one, the final one last.

        As `call`, but `timeout` counts for each reply from the one before it, and nothing is sent
        again once a reply came. To leave early, leave an `async with contextlib.aclosing(…)`.
        """
        return self._stream(service, body, timeout, retry)

    async def _stream(
        self,
        service: str | bytes,
        body: Body,
        timeout: float | None | EllipsisType,
        retry: bool,
    ) -> AsyncGenerator[Message, None]:
        call = self._submit(service, body, timeout, retry, streaming=True)
        try:
            while True:
                while not call.parts and call.outcome is None:
                    await call.wait()
                if not call.parts:
                    break
                part = call.parts.popleft()
                call.parts_bytes -= part.size
                self._arm(call)
                yield part
            if isinstance(call.outcome, MaitredError):
                raise call.outcome
            assert call.outcome is not None
            yield call.outcome
        finally:
            self._forget(call)

    async def connected(self, timeout: float | None = None) -> None:
        """Waits until there is a connection to at least one broker. Calls do so by themselves.

        Raises:
            Unreachable: there is none within `timeout` seconds.
        """
        self._start()
        try:
            async with asyncio.timeout(timeout):
                await self._any_up.wait()
        except TimeoutError:
            raise self._unreachable(timeout) from None

    @property
    def brokers(self) -> list["BrokerStatus"]:
        """What is known of each connection."""
        return [
            BrokerStatus(line.endpoint, line.is_up, len(line.calls), line.trouble)
            for line in self._lines
        ]

    @property
    def calls_in_flight(self) -> int:
        """How many calls were started and have not ended."""
        return len(self._calls)

    async def close(self) -> None:
        """Hangs up. Calls that are under way end with `Closed`; doing it twice is harmless."""
        if self._closed:
            return
        self._closed = True
        for call in list(self._calls.values()):
            call.finish(Closed("the client was closed"))
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._context is not None:
            self._context.term()

    # The way of a call.

    def _start(self) -> None:
        if self._closed:
            raise Closed("the client was closed")
        if not self._keepers:
            self._context = new_context(len(self._lines))
            self._keepers = [
                asyncio.create_task(self._keep(line), name=f"maitred {line.endpoint}")
                for line in self._lines
            ]

    def _submit(
        self,
        service: str | bytes,
        body: Body,
        timeout: float | None | EllipsisType,
        retry: bool,
        streaming: bool,
    ) -> "_Call":
        self._start()
        message = as_message(body)
        self._wire.check(message)
        seconds = self._timeout if isinstance(timeout, EllipsisType) else timeout
        call = _Call(self._next_id, service_name(service), message, seconds, retry, streaming)
        self._next_id += 1
        self._calls[call.id] = call
        self._arm(call)
        line = self._choose(call)
        if line is None:
            self._waiting.append(call)
        else:
            self._send(line, call)
        return call

    def _arm(self, call: "_Call") -> None:
        if call.deadline is not None:
            call.deadline.cancel()
        if call.timeout is not None:
            loop = asyncio.get_running_loop()
            call.deadline = loop.call_later(call.timeout, self._expire, call)

    def _expire(self, call: "_Call") -> None:
        if call.outcome is not None:
            return
        if call.line is None and not self._any_up.is_set():
            call.finish(self._unreachable(call.timeout))
        else:
            name = call.service.decode(errors="replace")
            call.finish(Timeout(f"no reply from service {name!r} within {call.timeout} s"))
        self._leave_line(call)

    def _forget(self, call: "_Call") -> None:
        if call.deadline is not None:
            call.deadline.cancel()
        if self._calls.pop(call.id, None) is None:
            return
        if call.outcome is None:
            call.outcome = Closed("given up")
        self._leave_line(call)
        if len(self._waiting) > 64 + 2 * len(self._calls):
            self._waiting = deque(each for each in self._waiting if each.outcome is None)

    def _leave_line(self, call: "_Call") -> None:
        """The line has room for another; without ids a late reply would be taken for another's."""
        line, call.line = call.line, None
        if line is None:
            return
        del line.calls[call.id]
        if not self._pipelined and line.wire is not None and not call.is_answered:
            line.hung_up = True
            line.wire.close()
        self._fill()

    def _choose(self, call: "_Call | None") -> "_Line | None":
        """Of the lines that have room and whose broker has not refused this call, one with the
        fewest calls."""
        refused_by = [] if call is None else call.refused_by
        able = [
            line
            for line in self._lines
            if line.is_up and len(line.calls) < self._window and line not in refused_by
        ]
        least = min((len(line.calls) for line in able), default=0)
        return random.choice([line for line in able if len(line.calls) == least]) if able else None

    def _fill(self) -> None:
        """Gives what waits to lines that have room, in its order."""
        while self._waiting:
            call = self._waiting[0]
            if call.outcome is None:
                # Rather one that has refused it than none: it may take it now, and others wait behind.
                line = self._choose(call) or self._choose(None)
                if line is None:
                    return
                self._waiting.popleft()
                self._send(line, call)
            else:
                self._waiting.popleft()

    def _send(self, line: "_Line", call: "_Call") -> None:
        assert line.wire is not None and call.line is None
        line.calls[call.id] = call
        call.line = line
        call_id = call.id if self._pipelined else None
        frames = _protocol.request(self._protocol, call_id, call.service, call.message.frames)
        line.wire.send(frames)

    def _hear(self, line: "_Line", frames: list[bytes]) -> None:
        head = _protocol.read_reply(self._protocol, frames)
        if head is None:
            logger.warning("%s: a message that makes no sense was dropped", line.endpoint)
            return
        if self._pipelined:
            call = line.calls.get(head.call_id) if head.call_id is not None else None
        else:
            call = next(iter(line.calls.values()), None)
        if call is None:
            return
        body = Message(tuple(frames[head.body_from :]) or (b"",))
        if not head.final:
            self._take_part(call, body)
            return
        call.is_answered = True
        outcome = _outcome(body)
        if isinstance(outcome, ANOTHER_BROKER_MAY_HELP) and not call.had_parts:
            call.refused_by.append(line)
            other = self._choose(call)
            if other is not None:
                self._leave_line(call)
                call.is_answered = False
                self._send(other, call)
                return
        call.finish(outcome)
        self._leave_line(call)

    def _take_part(self, call: "_Call", part: Message) -> None:
        limit = self._wire.message_bytes_max
        call.had_parts = True
        call.parts_bytes += part.size
        if call.parts_bytes <= limit:
            call.parts.append(part)
            if call.streaming:
                call.wake()
            return
        call.finish(RepliesTooLarge(f"the replies held for one call are more than {limit} bytes"))
        self._leave_line(call)

    # The way of a line.

    async def _keep(self, line: "_Line") -> None:
        """Keeps a connection to one broker, for as long as the client lives."""
        assert self._context is not None
        loop = asyncio.get_running_loop()
        backoff = Backoff(QUICK)
        hear = functools.partial(self._hear, line)
        while True:
            wire = None
            try:
                wire = Wire(self._context, line.endpoint, self._wire, hear)
                await wire.up
                logger.info("connected to %s", line.endpoint)
                since = loop.time()
                line.wire, line.trouble = wire, None
                self._any_up.set()
                self._fill()
                why = await asyncio.shield(wire.gone)
                backoff.connection_lasted(loop.time() - since)
                self._lose(line, str(why))
                if line.hung_up:
                    line.hung_up = False
                    continue
                logger.warning("lost %s: %s", line.endpoint, why)
            except Lost as why:
                logger.debug("no connection to %s: %s", line.endpoint, why)
                line.trouble = str(why)
            finally:
                if wire is not None:
                    wire.close()
            await asyncio.sleep(backoff.next())

    def _lose(self, line: "_Line", why: str) -> None:
        """A line lost its connection: its calls go elsewhere, or end."""
        line.wire = None
        line.trouble = why
        if not any(each.is_up for each in self._lines):
            self._any_up.clear()
        calls, line.calls = list(line.calls.values()), {}
        again = []
        for call in calls:
            call.line = None
            if call.retry and not (call.streaming and call.had_parts):
                call.start_over()
                again.append(call)
            else:
                call.finish(ConnectionLost(f"lost {line.endpoint}: {line.trouble}"))
        # Before those that were never sent.
        self._waiting.extendleft(reversed(again))
        self._fill()

    def _unreachable(self, seconds: float | None) -> Unreachable:
        troubles = ", ".join(f"{line.endpoint}: {line.trouble}" for line in self._lines)
        return Unreachable(f"no broker within {seconds} s ({troubles}); is one listening there?")


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """What is known of one connection."""

    endpoint: str
    connected: bool
    in_flight: int
    """Calls that were given to this connection and are not answered."""
    trouble: str | None
    """Why there is no connection."""


@dataclass(eq=False, slots=True)
class _Line:
    endpoint: str
    wire: Wire | None = None
    calls: dict[int, "_Call"] = field(default_factory=dict)
    trouble: str | None = "not connected yet"
    # We ended the connection, because the reply to a call that was given up would be taken for
    # another's.
    hung_up: bool = False

    @property
    def is_up(self) -> bool:
        return self.wire is not None and self.wire.is_up


@dataclass(eq=False, slots=True)
class _Call:
    id: int
    service: bytes
    message: Message
    timeout: float | None
    retry: bool
    streaming: bool
    line: _Line | None = None
    deadline: asyncio.TimerHandle | None = None
    refused_by: list[_Line] = field(default_factory=list)
    # Partial replies nobody took yet, and their bytes.
    parts: deque[Message] = field(default_factory=deque)
    parts_bytes: int = 0
    # Whether there were any since the request was sent.
    had_parts: bool = False
    # The final reply came.
    is_answered: bool = False
    outcome: Message | MaitredError | None = None
    _waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Until something happens to the call."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def finish(self, outcome: Message | MaitredError) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.message = Message()
            self.wake()

    def start_over(self) -> None:
        self.parts.clear()
        self.parts_bytes = 0
        self.had_parts = False


def _outcome(body: Message) -> Message | MaitredError:
    match body.frames:
        case (frame, reason) if frame == REFUSED:
            return refused(reason.decode(errors="replace"))
        case (frame, text) if frame == FAILED:
            return Failed(text.decode(errors="replace"))
        case _:
            return body
