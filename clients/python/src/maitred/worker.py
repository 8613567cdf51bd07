"""The asyncio worker: one connection per service, kept by a task, and a task per request.

The task that keeps the connection never waits for a handler, so that the broker hears from it
however long they work, as long as they do not block the event loop.
"""

import asyncio
import contextlib
import functools
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import zmq

from . import _protocol, _signals
from ._backoff import PIRATE, QUICK, Backoff
from ._endpoint import check_endpoint, service_name
from ._protocol import FAILED, Control, Delivery, Protocol
from ._wire import Lost, Wire, WireConfig, new_context
from .errors import Closed, Failed, MaitredError, TooLarge, Unreachable
from .message import Body, Message, as_message
from .security import Security

logger = logging.getLogger("maitred.worker")


class AsyncRequest:
    """A request, as an asyncio handler gets it."""

    def __init__(self, service: str, message: Message, held: "_Held") -> None:
        self.service = service
        """The service it was sent to."""
        self.message = message
        """What the client sent."""
        self._held = held

    @property
    def frames(self) -> tuple[bytes, ...]:
        """The frames of the body."""
        return self.message.frames

    @property
    def body(self) -> bytes:
        """The body as one run of bytes."""
        return self.message.body

    @property
    def text(self) -> str:
        """The body as text."""
        return self.message.text

    def json(self) -> Any:
        """The body read as JSON."""
        return self.message.json()

    @property
    def is_abandoned(self) -> bool:
        """Whether the connection the request came on was lost: no reply can reach the client any
        more, and the broker gives the request to another worker. A long job may look here whether
        to go on."""
        return self._held.session.is_lost

    async def partial(self, reply: Body) -> None:
        """Sends a partial reply; what the handler returns is the final one. Waits while the broker
        is slow to take them.

        Over MDP/0.1 and Paranoid Pirate, which know none, partial replies are kept and joined to
        the final one.

        Raises:
            Closed: the request is abandoned.
            TooLarge: the reply is.
        """
        message = as_message(reply)
        held = self._held
        held.session.config.check(message)
        await held.session.wire.drained()
        if held.session.is_lost:
            raise Closed("the connection of this request was lost")
        if held.session.protocol.has_partials:
            held.session.say(
                _protocol.reply(held.session.protocol, False, held.address, message.frames)
            )
        else:
            held.joined += message.frames


AsyncHandler = Callable[[AsyncRequest], Awaitable[Body]]
_H = TypeVar("_H", bound=AsyncHandler)


class AsyncWorker:
    """Serves services of one broker, on the running event loop.

    It reconnects and registers again whenever it loses its broker.

    ```python
    worker = AsyncWorker("tcp://127.0.0.1:5555")

    @worker.service("upper", concurrency=16)
    async def upper(request: AsyncRequest) -> bytes:
        return request.body.upper()

    asyncio.run(worker.run())
    ```

    A handler that raises does not make the request vanish: its client gets `Failed` with the text
    of the exception. A request may come twice: a broker gives it to another worker when it loses
    the one that held it.
    """

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5555",
        *,
        protocol: Protocol = Protocol.MDP02,
        security: Security = None,
        heartbeat: float | None = None,
        liveness: int = 3,
        grace: float = 30.0,
        message_bytes_max: int = 64 << 20,
    ) -> None:
        """A worker of the broker at `endpoint`.

        Args:
            heartbeat: seconds between signs of life; by default 3, and 1 over Paranoid Pirate.
            liveness: intervals of silence after which the broker is given up.
            grace: seconds that requests in hand are given to end when the worker stops.

        Raises:
            EndpointError: the endpoint cannot be read.
        """
        self._endpoint = check_endpoint(endpoint)
        self._protocol = protocol
        if heartbeat is None:
            heartbeat = 1.0 if protocol is Protocol.PPP else 3.0
        self._wire = WireConfig(security, heartbeat, liveness, message_bytes_max)
        self._grace = grace
        self._servers: list[_Server] = []
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._tasks: list[asyncio.Task[int]] = []
        self._cut_off = 0

    def service(self, name: str | bytes, *, concurrency: int = 1) -> Callable[[_H], _H]:
        """Makes the decorated coroutine function serve `name`, for up to `concurrency` requests at
        a time. More than one needs a broker that understands it, as maitred does; others give out
        one at a time."""

        def register(handler: _H) -> _H:
            self.add(name, handler, concurrency=concurrency)
            return handler

        return register

    def add(self, name: str | bytes, handler: AsyncHandler, *, concurrency: int = 1) -> None:
        """As `service`, without a decorator."""
        if self._tasks:
            raise MaitredError("the worker has started: add services before")
        if concurrency < 1:
            raise ValueError(f"concurrency is 1 or more, not {concurrency}")
        wire_name = service_name(name)
        if any(server.service == wire_name for server in self._servers):
            raise ValueError(f"service {name!r} has a handler already")
        if self._protocol is Protocol.PPP:
            if self._servers:
                raise ValueError("a Paranoid Pirate queue has one service")
            concurrency = 1
        self._servers.append(
            _Server(self._endpoint, self._protocol, self._wire, wire_name, concurrency, handler)
        )

    async def start(self) -> None:
        """Starts serving and returns. `async with` does it, and stops."""
        if not self._servers:
            raise MaitredError("the worker has no service: decorate a handler with @worker.service")
        if self._tasks:
            raise MaitredError("the worker has started already")
        self._context = context = new_context(len(self._servers))
        self._tasks = [
            asyncio.create_task(server.run(context), name=f"maitred {server.service!r}")
            for server in self._servers
        ]

    async def stop(self, grace: float | None = None) -> int:
        """Stops without losing anything: new requests are left to other workers, those in hand are
        finished and answered, then the broker is told. What is not finished after `grace` seconds
        is cancelled, and the broker gives it to other workers.

        Returns how many handlers were cut off; doing it twice is harmless.
        """
        seconds = self._grace if grace is None else grace
        for server in self._servers:
            server.stop(asyncio.get_running_loop().time() + seconds)
        await self._join()
        return self._cut_off

    async def run(self, *, signals: bool = True) -> None:
        """Serves until it is stopped or cancelled.

        With `signals`, SIGINT and SIGTERM stop it: requests in hand are finished. The second such
        signal cuts them off. Only the main thread can have them.
        """
        await self.start()
        try:
            with _signals.heard(self._on_signal) if signals else contextlib.nullcontext():
                await self._join()
        except asyncio.CancelledError:
            await self.stop()
            raise
        except BaseException:
            await self.stop(grace=0.0)
            raise

    async def connected(self, timeout: float | None = None) -> None:
        """Waits until it has said for each service that it is ready. Brokers do not answer that.

        Raises:
            Unreachable: it has not within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                for server in self._servers:
                    await server.is_ready.wait()
        except TimeoutError:
            troubles = {server.trouble for server in self._servers if server.trouble}
            why = ", ".join(sorted(troubles)) or "not started"
            raise Unreachable(f"no broker within {timeout} s ({self._endpoint}: {why})") from None

    @property
    def requests_in_hand(self) -> int:
        """How many requests its handlers work at."""
        return sum(len(server.tasks) for server in self._servers)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _join(self) -> None:
        """Waits for the end of all services, whoever cancels."""
        if not self._tasks:
            return
        ended = await asyncio.gather(*map(asyncio.shield, self._tasks), return_exceptions=True)
        if self._context is None:
            return
        context, self._context = self._context, None
        # Waits until goodbyes are out, for _LINGER at most.
        context.term()
        for end in ended:
            if isinstance(end, BaseException):
                raise end
            self._cut_off += end

    def _on_signal(self, first: bool) -> None:
        logger.info("stopping: %d requests in hand", self.requests_in_hand)
        now = asyncio.get_running_loop().time()
        for server in self._servers:
            server.stop(now + (self._grace if first else 0.0))


@dataclass(eq=False)
class _Session:
    """One connection that said READY."""

    wire: Wire
    config: WireConfig
    protocol: Protocol
    # Loop times at which we last said anything, and the broker did or last owed us nothing.
    said: float
    heard: float
    is_lost: bool = False
    # Why it must end, if the broker does not end it.
    trouble: Lost | None = None
    held: set["_Held"] = field(default_factory=set)
    backlog: deque[Delivery] = field(default_factory=deque)

    def say(self, frames: list[bytes]) -> None:
        self.wire.send(frames)
        self.said = asyncio.get_running_loop().time()


@dataclass(eq=False)
class _Held:
    """A request in hand."""

    session: _Session
    # To be given back with the reply.
    address: tuple[bytes, ...]
    # Frames of partial replies, where the protocol knows none.
    joined: tuple[bytes, ...] = ()


class _Server:
    """Serves one service, over one connection after another."""

    def __init__(
        self,
        endpoint: str,
        protocol: Protocol,
        config: WireConfig,
        service: bytes,
        concurrency: int,
        handler: AsyncHandler,
    ) -> None:
        self.service = service
        self.is_ready = asyncio.Event()
        self.trouble: str | None = None
        # Handlers at work, also those whose connection is gone: they count against the
        # concurrency.
        self.tasks: set[asyncio.Task[Message]] = set()
        self._endpoint = endpoint
        self._protocol = protocol
        self._config = config
        self._concurrency = concurrency
        self._handler = handler
        self._session: _Session | None = None
        self._stop_at: float | None = None
        # Rung when the keeper has something to do.
        self._bell = asyncio.Event()

    def stop(self, at: float) -> None:
        """Takes no more requests, and ends at that loop time at the latest."""
        self._stop_at = at if self._stop_at is None else min(at, self._stop_at)
        self._bell.set()

    async def run(self, context: "zmq.Context[zmq.Socket[bytes]]") -> int:
        """Serves until it is stopped; gives how many handlers were cut off."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(PIRATE if self._protocol is Protocol.PPP else QUICK)
        try:
            while self._stop_at is None:
                wire = None
                try:
                    wire = Wire(context, self._endpoint, self._config, self._hear)
                    await self._until_up(wire)
                    if self._stop_at is not None:
                        break
                    since = loop.time()
                    try:
                        await self._keep(wire)
                    finally:
                        backoff.connection_lasted(loop.time() - since)
                except Lost as why:
                    known, self.trouble = self.trouble, str(why)
                    level = logging.DEBUG if known == self.trouble else logging.WARNING
                    logger.log(level, "%s: no broker at %s: %s", self.name, self._endpoint, why)
                finally:
                    self.is_ready.clear()
                    if wire is not None:
                        wire.close(_LINGER)
                if self._stop_at is None:
                    await self._ring(backoff.next())
            return await self._drop_handlers()
        finally:
            for task in self.tasks:
                task.cancel()

    @property
    def name(self) -> str:
        return self.service.decode(errors="replace")

    async def _until_up(self, wire: Wire) -> None:
        wire.up.add_done_callback(lambda _: self._bell.set())
        while self._stop_at is None and not wire.up.done():
            await self._ring(None)
        if wire.up.done():
            wire.up.result()

    async def _keep(self, wire: Wire) -> None:
        """Serves over one connection until we stop, or it is lost (raises `Lost`)."""
        loop = asyncio.get_running_loop()
        session = _Session(wire, self._config, self._protocol, loop.time(), loop.time())
        self._session = session
        wire.gone.add_done_callback(lambda _: self._bell.set())
        session.say(_protocol.ready(self._protocol, self.service, self._concurrency))
        logger.info("serving %s at %s", self.name, self._endpoint)
        self.trouble = None
        self.is_ready.set()
        try:
            while True:
                wait = self._beat(session)
                if self._stop_at is not None:
                    session.backlog.clear()
                    wait = min(wait, self._stop_at - loop.time())
                    if not session.held or wait <= 0.0:
                        break
                await self._ring(wait)
        finally:
            session.is_lost = True
            self._session = None
        # Before the broker gives what they served to others.
        for task in self.tasks:
            task.cancel()
        goodbye = _protocol.disconnect(self._protocol)
        if goodbye is not None:
            session.say(goodbye)

    async def _ring(self, seconds: float | None) -> None:
        """Sleeps until the bell is rung, or so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._bell.wait()
        except TimeoutError:
            pass
        self._bell.clear()

    async def _drop_handlers(self) -> int:
        """Ends the handlers that are still at work; gives how many. The event loop gets one chance
        to run each: whoever swallows its cancellation is left behind."""
        left = {task for task in self.tasks if not task.done()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1.0)
        return len(left)

    def _hear(self, frames: list[bytes]) -> None:
        session = self._session
        if session is None or session.trouble is not None:
            return
        command = _protocol.read_command(self._protocol, frames)
        match command:
            case None:
                self._break_off(session, "the broker sent something that makes no sense")
                return
            case Control.DISCONNECT:
                self._break_off(session, "the broker said DISCONNECT")
            case Control.HEARTBEAT:
                pass
            # The broker gives it to another worker when we say DISCONNECT.
            case Delivery() if self._stop_at is not None:
                pass
            case Delivery() if len(session.held) + len(session.backlog) >= self._concurrency:
                self._break_off(session, "the broker sent more requests than it was offered")
            case Delivery():
                session.backlog.append(command)
                self._begin(session)
        session.heard = asyncio.get_running_loop().time()

    def _break_off(self, session: _Session, why: str) -> None:
        session.trouble = Lost(why)
        self._bell.set()

    def _begin(self, session: _Session) -> None:
        """Starts handlers for what has arrived."""
        while session.backlog and len(self.tasks) < self._concurrency:
            delivery = session.backlog.popleft()
            held = _Held(session, delivery.address)
            request = AsyncRequest(self.name, Message(delivery.body), held)
            session.held.add(held)
            task = asyncio.get_running_loop().create_task(self._serve(request))
            self.tasks.add(task)
            task.add_done_callback(functools.partial(self._finish, held))

    async def _serve(self, request: AsyncRequest) -> Message:
        return as_message(await self._handler(request))

    def _finish(self, held: _Held, task: asyncio.Task[Message]) -> None:
        """A handler came to its end: its request is answered."""
        self.tasks.discard(task)
        session = held.session
        session.held.discard(held)
        reply = self._outcome(task, held)
        # If the connection is gone, another worker has the request.
        if not session.is_lost:
            frames = _protocol.reply(self._protocol, True, held.address, reply.frames)
            session.say(frames)
            session.heard = session.said
        if self._session is not None:
            self._begin(self._session)
        if self._stop_at is not None:
            self._bell.set()

    def _outcome(self, task: asyncio.Task[Message], held: _Held) -> Message:
        try:
            reply = task.result()
            whole = Message((*held.joined, *reply.frames)) if held.joined else reply
            self._config.check(whole)
            return whole
        except asyncio.CancelledError:
            text = "the handler was cancelled"
        except (Failed, TooLarge) as error:
            text = str(error)
        except Exception as error:
            if not held.session.is_lost:
                logger.exception("%s: the handler failed", self.name, exc_info=error)
            text = str(error) or type(error).__name__
        return Message((FAILED, text.encode()))

    def _beat(self, session: _Session) -> float:
        """Gives signs of life and demands them (raises `Lost`); gives when to look again.

        Brokers owe heartbeats to idle workers only; while we hold requests, the signs of life of
        ZMTP have to do.
        """
        if session.wire.gone.done():
            raise session.wire.gone.result()
        if session.trouble is not None:
            raise session.trouble
        now = asyncio.get_running_loop().time()
        beat, liveness = self._config.heartbeat, self._config.liveness
        if now >= session.said + beat:
            # Old Paranoid Pirate queues take any word of a busy worker for an offer.
            if session.wire.has_room and not (self._protocol is Protocol.PPP and session.held):
                session.say(_protocol.heartbeat(self._protocol))
            session.said = now
        due = session.said + beat
        if not session.held and not session.backlog:
            dead = session.heard + beat * liveness
            if now >= dead:
                silence = now - session.heard
                raise Lost(f"the broker sent no heartbeat for {silence:.1f} s")
            due = min(due, dead)
        return due - now


# What goodbyes and last replies may take to go out, in seconds.
_LINGER = 1.0
