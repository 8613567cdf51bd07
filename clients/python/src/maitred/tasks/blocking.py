"""Tasks for plain threads: the asyncio ones, on an event loop of their own."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from .._threads import Crew, LoopThread
from ..errors import Closed, MaitredError, Refused
from ..message import Body
from .client import AsyncTasks, Enqueued, Task
from .lease import AsyncLease
from .worker import AsyncTaskWorker

logger = logging.getLogger("maitred.tasks")

T = TypeVar("T")


class _Loop(Protocol):
    """What runs coroutines for a thread."""

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]": ...

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T: ...


class Lease:
    """A task in hand, for plain threads. See [`AsyncLease`][maitred.tasks.AsyncLease].

    In a `with` it is extended for as long as the block runs; a thread cannot be cancelled, so look
    at `lost` in what takes long.
    """

    def __init__(self, lease: AsyncLease, thread: _Loop) -> None:
        self._lease = lease
        self._thread = thread
        self._held: Any = None

    @property
    def id(self) -> int:
        """The task's."""
        return self._lease.id

    @property
    def token(self) -> str:
        """Names this lease, and no other of the same task."""
        return self._lease.token

    @property
    def task_type(self) -> str:
        """The task's type."""
        return self._lease.task_type

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1 on."""
        return self._lease.attempt

    @property
    def payload(self) -> bytes:
        """What was enqueued."""
        return self._lease.payload

    @property
    def content_type(self) -> str | None:
        """What the payload is, if whoever enqueued it said so."""
        return self._lease.content_type

    @property
    def seen(self) -> Mapping[str, Any]:
        """All that the broker says of it, by its names."""
        return self._lease.seen

    @property
    def is_settled(self) -> bool:
        """Whether it was completed, failed or given back."""
        return self._lease.is_settled

    @property
    def lost(self) -> Refused | None:
        """Why it is no longer ours, as far as we know."""
        return self._lease.lost

    def complete(self, result: Body = None) -> None:
        """Ends the task with its result. See `AsyncLease.complete`."""
        self._thread.run(self._lease.complete(result))

    def fail(
        self, error: str = "", *, retry: bool = True, retry_after: float | None = None
    ) -> None:
        """Ends this attempt. See `AsyncLease.fail`."""
        self._thread.run(self._lease.fail(error, retry=retry, retry_after=retry_after))

    def release(self) -> None:
        """Gives the task back unworked."""
        self._thread.run(self._lease.release())

    def extend(self, seconds: float | None = None) -> None:
        """Holds the lease for so long from now; by default as it was claimed."""
        self._thread.run(self._lease.extend(seconds))

    def progress(self, progress: Body) -> None:
        """Tells those who look at the task how far it is, and extends the lease."""
        self._thread.run(self._lease.progress(progress))

    def __enter__(self) -> Self:
        self._held = self._thread.submit(self._hold())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._held.cancel()
        if self.is_settled:
            return False
        if error is None:
            self.complete()
            return False
        if not isinstance(error, Exception):
            with contextlib.suppress(MaitredError):
                self.release()
            return False
        logger.exception("task %d of type %s: attempt %d failed", self.id, self.task_type, self.attempt)
        self.fail(str(error) or type(error).__name__)
        return True

    async def _hold(self) -> None:
        owner = asyncio.current_task()
        assert owner is not None
        await self._lease.keep(owner)

    def __repr__(self) -> str:
        return repr(self._lease)


class Tasks:
    """Enqueues, watches and claims tasks of the broker at `url`, from plain threads. May be shared
    by any number of them.

    See [`AsyncTasks`][maitred.tasks.AsyncTasks], which takes the same and does the same.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        token: str | None = None,
        timeout: float = 10.0,
    ) -> None:
        """See `AsyncTasks`."""
        self._tasks = AsyncTasks(url, token=token, timeout=timeout)
        self._thread = LoopThread("maitred tasks")

    def enqueue(
        self,
        task_type: str,
        payload: Body = None,
        *,
        key: str | None = None,
        content_type: str | None = None,
        priority: int | None = None,
        delay: float | None = None,
        deadline: float | None = None,
        max_attempts: int | None = None,
        then: Sequence[str] = (),
        settings: Mapping[str, str | int] | None = None,
    ) -> Enqueued:
        """Adds a task. When this returns it is on stable storage. See `AsyncTasks.enqueue`."""
        return self._thread.run(
            self._tasks.enqueue(
                task_type, payload, key=key, content_type=content_type, priority=priority,
                delay=delay, deadline=deadline, max_attempts=max_attempts, then=then,
                settings=settings,
            )
        )  # fmt: skip

    def get(self, task_id: int) -> Task:
        """The task as it stands."""
        return self._thread.run(self._tasks.get(task_id))

    def wait(self, task_id: int, *, timeout: float | None = None) -> Task:
        """Looks at a task until it is done. See `AsyncTasks.wait`."""
        return self._thread.run(self._tasks.wait(task_id, timeout=timeout))

    def cancel(self, task_id: int) -> None:
        """Cancels a task, waiting or running."""
        self._thread.run(self._tasks.cancel(task_id))

    def retry(self, task_id: int) -> None:
        """Makes a dead or cancelled task ready again."""
        self._thread.run(self._tasks.retry(task_id))

    def claim(
        self,
        *types: str,
        count: int = 1,
        wait: float | None = None,
        lease: float = 30.0,
        worker: str | None = None,
    ) -> list[Lease]:
        """Leases up to `count` tasks of these types, as soon as there are some. See
        `AsyncTasks.claim`."""
        leases = self._thread.run(
            self._tasks.claim(*types, count=count, wait=wait, lease=lease, worker=worker)
        )
        return [Lease(each, self._thread) for each in leases]

    def close(self) -> None:
        """Hangs up. Doing it twice is harmless."""
        with contextlib.suppress(Closed):
            self._thread.run(self._tasks.close())
        self._thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


TaskHandler = Callable[[Lease], Body]
_H = TypeVar("_H", bound=TaskHandler)


class TaskWorker:
    """Claims tasks of the broker at `url` and works at them; handlers are functions that run on
    threads.

    See [`AsyncTaskWorker`][maitred.tasks.AsyncTaskWorker], which takes the same and does the same.

    ```python
    worker = TaskWorker("http://127.0.0.1:8080")

    @worker.task("thumbnail", concurrency=4)
    def thumbnail(lease: Lease) -> bytes:
        return lease.payload[:100]

    worker.run()
    ```

    A handler on a thread cannot be cancelled: one whose task was given back runs on, and what it
    returns is dropped.
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
        """See `AsyncTaskWorker`."""
        self._worker = AsyncTaskWorker(url, token=token, lease=lease, grace=grace, name=name)
        self._crews: list[Crew] = []

    def task(self, task_type: str, *, concurrency: int = 1) -> Callable[[_H], _H]:
        """Makes the decorated function work at tasks of a type, on up to `concurrency` threads."""

        def register(handler: _H) -> _H:
            self.add(task_type, handler, concurrency=concurrency)
            return handler

        return register

    def add(self, task_type: str, handler: TaskHandler, *, concurrency: int = 1) -> None:
        """As `task`, without a decorator."""
        crew = Crew(concurrency, f"maitred {task_type!r}")

        async def work(lease: AsyncLease) -> Body:
            blocking = Lease(lease, _ThisLoop(asyncio.get_running_loop()))
            return await crew.run(lambda: handler(blocking))

        self._worker.add(task_type, work, concurrency=concurrency)
        self._crews.append(crew)

    def run(self) -> None:
        """Works until SIGINT or SIGTERM; tasks in hand are finished, unless a second signal comes.
        Only the main thread gets signals."""
        try:
            asyncio.run(self._worker.run())
        finally:
            for crew in self._crews:
                crew.close()


class _ThisLoop:
    """A loop that runs already, for leases of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.submit(coroutine).result()
