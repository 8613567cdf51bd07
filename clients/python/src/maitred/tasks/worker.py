"""The asyncio task worker: one task per type that claims, and one per lease that works."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .. import _signals
from .._backoff import QUICK, Backoff
from ..errors import Cancelled, MaitredError, StaleLease
from ..message import Body
from .client import AsyncTasks
from .lease import AsyncLease

logger = logging.getLogger("maitred.tasks")

AsyncTaskHandler = Callable[[AsyncLease], Awaitable[Body]]
_H = TypeVar("_H", bound=AsyncTaskHandler)


class AsyncTaskWorker:
    """Claims tasks of the broker at `url` and works at them, on the running event loop.

    ```python
    worker = AsyncTaskWorker("http://127.0.0.1:8080")

    @worker.task("thumbnail", concurrency=8)
    async def thumbnail(lease: AsyncLease) -> bytes:
        return lease.payload[:100]

    asyncio.run(worker.run())
    ```

    What a handler returns is the task's result, unless it settled the lease itself; if it raises,
    the attempt has failed. Leases are extended for as long as handlers work, and a handler whose
    lease is lost is cancelled.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        token: str | None = None,
        lease: float = 30.0,
        grace: float = 30.0,
        name: str | None = None,
    ) -> None:
        """A worker of the broker at `url`.

        Args:
            token: the bearer token, for a broker that wants one.
            lease: seconds after which a task goes to another worker when this one is gone.
            grace: seconds that tasks in hand are given to end when the worker stops.
            name: what it is called where tasks are looked at; host and process by default.

        Raises:
            EndpointError: the URL cannot be read.
        """
        self._tasks = AsyncTasks(url, token=token)
        self._lease = lease
        self._grace = grace
        self._name = name
        self._pullers: list[tuple[str, int, AsyncTaskHandler]] = []
        self._working: set[asyncio.Task[None]] = set()
        # Loop time at which what is in hand is given back.
        self._stop_at: float | None = None
        self._bell = asyncio.Event()

    def task(self, task_type: str, *, concurrency: int = 1) -> Callable[[_H], _H]:
        """Makes the decorated coroutine function work at tasks of a type, up to `concurrency` at a
        time."""

        def register(handler: _H) -> _H:
            self.add(task_type, handler, concurrency=concurrency)
            return handler

        return register

    def add(self, task_type: str, handler: AsyncTaskHandler, *, concurrency: int = 1) -> None:
        """As `task`, without a decorator."""
        if concurrency < 1:
            raise ValueError(f"concurrency is 1 or more, not {concurrency}")
        if any(task_type == known for known, _, _ in self._pullers):
            raise ValueError(f"tasks of type {task_type!r} have a handler already")
        self._pullers.append((task_type, concurrency, handler))

    @property
    def tasks_in_hand(self) -> int:
        """How many tasks its handlers work at."""
        return len(self._working)

    def stop(self, grace: float | None = None) -> None:
        """Tells `run` to end: it claims no more, and what is in hand is finished, or else given
        back after `grace` seconds."""
        at = asyncio.get_running_loop().time() + (self._grace if grace is None else grace)
        self._stop_at = at if self._stop_at is None else min(at, self._stop_at)
        self._bell.set()

    async def run(self, *, signals: bool = True) -> None:
        """Works until it is stopped or cancelled.

        With `signals`, SIGINT and SIGTERM stop it: tasks in hand are finished. The second such
        signal gives them back. Only the main thread can have them.
        """
        if not self._pullers:
            raise MaitredError("the worker has no tasks: decorate a handler with @worker.task")
        async with self._tasks:
            pullers = [
                asyncio.create_task(self._pull(*puller), name=f"maitred {puller[0]!r}")
                for puller in self._pullers
            ]
            try:
                with _signals.heard(self._on_signal) if signals else contextlib.nullcontext():
                    while self._stop_at is None:
                        await self._ring(None)
                    await self._finish(pullers)
            except asyncio.CancelledError:
                self.stop()
                raise
            except BaseException:
                self.stop(grace=0.0)
                raise
            finally:
                await self._finish(pullers)

    def _on_signal(self, first: bool) -> None:
        logger.info("stopping: %d tasks in hand", self.tasks_in_hand)
        self.stop(None if first else 0.0)

    async def _ring(self, seconds: float | None) -> None:
        """Sleeps until the bell is rung, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bell.wait()
        self._bell.clear()

    async def _finish(self, pullers: list["asyncio.Task[None]"]) -> None:
        """Claims no more, lets what is in hand end in its grace, and gives back the rest."""
        for each in pullers:
            each.cancel()
        await asyncio.gather(*pullers, return_exceptions=True)
        loop = asyncio.get_running_loop()
        while self._working and self._stop_at is not None and loop.time() < self._stop_at:
            await self._ring(self._stop_at - loop.time())
        left = list(self._working)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _pull(self, task_type: str, concurrency: int, handler: AsyncTaskHandler) -> None:
        """Claims as many tasks of a type as there are hands free."""
        hands = asyncio.Semaphore(concurrency)
        backoff = Backoff(QUICK)
        while self._stop_at is None:
            await hands.acquire()
            free = 1
            while not hands.locked():
                await hands.acquire()
                free += 1
            leases: list[AsyncLease] = []
            claim = asyncio.create_task(
                self._tasks.claim(
                    task_type, count=free, wait=_POLL, lease=self._lease, worker=self._name
                )
            )
            try:
                leases = await claim
                backoff = Backoff(QUICK)
            except asyncio.CancelledError:
                if claim.done() and not claim.cancelled() and claim.exception() is None:
                    await asyncio.gather(*(lease.release() for lease in claim.result()))
                raise
            except MaitredError as error:
                logger.warning("no tasks of type %s: %s", task_type, error)
                await asyncio.sleep(_wait_after(error, backoff.next()))
            finally:
                for _ in range(free - len(leases)):
                    hands.release()
            for lease in leases:
                task = asyncio.create_task(self._work(lease, handler))
                self._working.add(task)
                task.add_done_callback(functools.partial(self._on_done, hands))

    def _on_done(self, hands: asyncio.Semaphore, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        hands.release()
        self._bell.set()

    async def _work(self, lease: AsyncLease, handler: AsyncTaskHandler) -> None:
        try:
            async with lease:
                result = await handler(lease)
                if not lease.is_settled:
                    await lease.complete(result)
        except (StaleLease, Cancelled) as error:
            logger.warning("%r is lost: %s", lease, error)
        except MaitredError as error:
            # It ends by itself, and the task goes to another worker.
            logger.warning("%r was not settled: %s", lease, error)


def _wait_after(error: MaitredError, usual: float) -> float:
    """Seconds before the next try: what the broker asks for, or else the usual."""
    return getattr(error, "retry_after", None) or usual


# Seconds of one long poll.
_POLL = 20.0
