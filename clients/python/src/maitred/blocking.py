"""Client and worker for plain threads: the asyncio ones, on an event loop of their own."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from types import EllipsisType, TracebackType
from typing import Any, Self, TypeVar

from ._protocol import Protocol
from ._threads import Crew, LoopThread
from .client import AsyncClient, BrokerStatus
from .errors import Closed
from .message import Body, Message
from .security import Security
from .worker import AsyncRequest, AsyncWorker


class Client:
    """Calls services through one or several brokers. May be shared by any number of threads; all
    their calls go over one connection per broker.

    See [`AsyncClient`][maitred.AsyncClient], which takes the same and does the same.

    ```python
    with Client("tcp://127.0.0.1:5555") as client:
        print(client.call("upper", "hello").text)
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
        """See `AsyncClient`."""
        self._client = AsyncClient(
            *endpoints,
            protocol=protocol,
            timeout=timeout,
            security=security,
            pipelined=pipelined,
            window=window,
            heartbeat=heartbeat,
            liveness=liveness,
            message_bytes_max=message_bytes_max,
        )
        self._thread = LoopThread("maitred client")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def call(
        self,
        service: str | bytes,
        body: Body = None,
        *,
        timeout: float | None | EllipsisType = ...,
        retry: bool = True,
    ) -> Message:
        """Calls a service and gives its reply. See `AsyncClient.call`."""
        return self._thread.run(self._client.call(service, body, timeout=timeout, retry=retry))

    def submit(
        self,
        service: str | bytes,
        body: Body = None,
        *,
        timeout: float | None | EllipsisType = ...,
        retry: bool = True,
    ) -> "Future[Message]":
        """Calls a service and gives the future of its reply: the way to have many calls under way
        from one thread. Cancelling it gives the call up."""
        return self._thread.submit(self._client.call(service, body, timeout=timeout, retry=retry))

    def stream(
        self,
        service: str | bytes,
        body: Body = None,
        *,
        timeout: float | None | EllipsisType = ...,
        retry: bool = True,
    ) -> Generator[Message, None, None]:
        """Calls a service and gives its replies one by one, the final one last. See
        `AsyncClient.stream`."""
        replies = self._client.stream(service, body, timeout=timeout, retry=retry)
        try:
            while True:
                try:
                    yield self._thread.run(_next(replies))
                except StopAsyncIteration:
                    return
        finally:
            # Closed in between: the call is over anyway.
            with contextlib.suppress(Closed):
                self._thread.run(replies.aclose())

    def connected(self, timeout: float | None = None) -> None:
        """Waits until there is a connection to at least one broker. See `AsyncClient.connected`."""
        self._thread.run(self._client.connected(timeout))

    @property
    def brokers(self) -> list[BrokerStatus]:
        """What is known of each connection."""
        return self._client.brokers

    @property
    def calls_in_flight(self) -> int:
        """How many calls were started and have not ended."""
        return self._client.calls_in_flight

    def close(self) -> None:
        """Hangs up. Calls that are under way end with `Closed`; doing it twice is harmless."""
        with contextlib.suppress(Closed):
            self._thread.run(self._client.close())
        self._thread.stop()


async def _next(replies: Any) -> Message:
    message: Message = await anext(replies)
    return message


class Request:
    """A request, as a handler gets it that runs on a thread."""

    def __init__(self, request: AsyncRequest, loop: asyncio.AbstractEventLoop) -> None:
        self._request = request
        self._loop = loop

    @property
    def service(self) -> str:
        """The service it was sent to."""
        return self._request.service

    @property
    def message(self) -> Message:
        """What the client sent."""
        return self._request.message

    @property
    def frames(self) -> tuple[bytes, ...]:
        """The frames of the body."""
        return self._request.frames

    @property
    def body(self) -> bytes:
        """The body as one run of bytes."""
        return self._request.body

    @property
    def text(self) -> str:
        """The body as text."""
        return self._request.text

    def json(self) -> Any:
        """The body read as JSON."""
        return self._request.json()

    @property
    def is_abandoned(self) -> bool:
        """See `AsyncRequest.is_abandoned`."""
        return self._request.is_abandoned

    def partial(self, reply: Body) -> None:
        """Sends a partial reply; what the handler returns is the final one. See
        `AsyncRequest.partial`."""
        asyncio.run_coroutine_threadsafe(self._request.partial(reply), self._loop).result()


Handler = Callable[[Request], Body]
_H = TypeVar("_H", bound=Handler)


class Worker:
    """Serves services of one broker; handlers are functions that run on threads.

    Heartbeats come from a thread of their own, however long handlers work. See
    [`AsyncWorker`][maitred.AsyncWorker], which takes the same and does the same.

    ```python
    worker = Worker("tcp://127.0.0.1:5555")

    @worker.service("upper", concurrency=4)
    def upper(request: Request) -> bytes:
        return request.body.upper()

    worker.run()
    ```

    A handler on a thread cannot be cancelled: one that is cut off runs on, and what it returns is
    dropped.
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
        """See `AsyncWorker`."""
        self._worker = AsyncWorker(
            endpoint,
            protocol=protocol,
            security=security,
            heartbeat=heartbeat,
            liveness=liveness,
            grace=grace,
            message_bytes_max=message_bytes_max,
        )
        self._thread = LoopThread("maitred worker")
        self._crews: list[Crew] = []

    def service(self, name: str | bytes, *, concurrency: int = 1) -> Callable[[_H], _H]:
        """Makes the decorated function serve `name`, on up to `concurrency` threads."""

        def register(handler: _H) -> _H:
            self.add(name, handler, concurrency=concurrency)
            return handler

        return register

    def add(self, name: str | bytes, handler: Handler, *, concurrency: int = 1) -> None:
        """As `service`, without a decorator."""
        crew = Crew(concurrency, f"maitred {name!r}")

        async def serve(request: AsyncRequest) -> Body:
            blocking = Request(request, asyncio.get_running_loop())
            return await crew.run(lambda: handler(blocking))

        self._worker.add(name, serve, concurrency=concurrency)
        self._crews.append(crew)

    def run(self) -> None:
        """Serves until SIGINT or SIGTERM; requests in hand are finished, unless a second signal
        comes. On a thread other than the main one, which gets no signals, it serves until
        `stop`."""
        if threading.current_thread() is threading.main_thread():
            asyncio.run(self._worker.run())
            self._close()
        else:
            # `stop` ends the loop as soon as the worker has ended.
            with contextlib.suppress(CancelledError):
                self._thread.run(self._worker.run(signals=False))

    def start(self) -> None:
        """Starts serving and returns. `with` does it, and stops."""
        self._thread.run(self._worker.start())

    def stop(self, grace: float | None = None) -> int:
        """Stops without losing anything; gives how many handlers were cut off. See
        `AsyncWorker.stop`."""
        try:
            return self._thread.run(self._worker.stop(grace))
        except Closed:
            return 0
        finally:
            self._close()

    def connected(self, timeout: float | None = None) -> None:
        """Waits until it has said for each service that it is ready. See
        `AsyncWorker.connected`."""
        self._thread.run(self._worker.connected(timeout))

    @property
    def requests_in_hand(self) -> int:
        """How many requests its handlers work at."""
        return self._worker.requests_in_hand

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _close(self) -> None:
        for crew in self._crews:
            crew.close()
        self._thread.stop()
