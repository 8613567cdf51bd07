"""Tasks: durable work over a broker's HTTP port, enqueued here and claimed there.

`Tasks` is for plain threads, `AsyncTasks` for asyncio; they need `httpx` (`pip install
'maitred[tasks]'`).
"""

import asyncio
import base64
import contextlib
import logging
import os
import socket
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from ._http import Http, path
from ._threads import LoopThread
from .errors import Cancelled, Closed, MaitredError, Refused, StaleLease, TaskFailed, Timeout
from .message import Body, as_message

logger = logging.getLogger("maitred.tasks")

_ENDED = ("done", "dead", "cancelled")
# Seconds of one long poll; proxies tend to allow 30.
_POLL = 20.0


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A task that is on stable storage."""

    id: int
    is_new: bool
    """Whether there was none with this key before."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task, as it stood when somebody looked."""

    id: int
    task_type: str
    state: str
    """`ready`, `scheduled`, `blocked`, `leased`, `done`, `dead` or `cancelled`."""
    attempt: int
    result: bytes | None
    last_error: str | None
    progress: bytes | None
    seen: Mapping[str, Any] = field(repr=False)
    """All that the broker says of it, by its names."""

    @property
    def has_ended(self) -> bool:
        """Whether it is done, dead or cancelled."""
        return self.state in _ENDED


class AsyncLease:
    """A task in hand: the right to work at it until `deadline`.

    In an `async with` it is extended for as long as the block runs. If the block raises, the
    attempt fails with the text of the exception, which goes no further; if it settles nothing, the
    task is complete with an empty result. If the lease is lost the block is cancelled, and the
    `async with` raises `StaleLease` or `Cancelled`.
    """

    def __init__(self, tasks: "AsyncTasks", lease: Mapping[str, Any], seconds: float) -> None:
        self.token = str(lease["token"])
        """Names this lease, and no other of the same task."""
        self.id = int(lease["id"])
        """The task's."""
        self.task_type = str(lease["type"])
        """The task's type."""
        self.attempt = int(lease["attempt"])
        """Which attempt this is, from 1 on."""
        self.payload = _bytes(lease, "payload") or b""
        """What was enqueued."""
        self.content_type: str | None = lease.get("content_type")
        """What the payload is, if whoever enqueued it said so."""
        self.seen = lease
        """All that the broker says of it, by its names."""
        self.is_settled = False
        """Whether it was completed, failed or given back."""
        self.lost: Refused | None = None
        """Why it is no longer ours, as far as we know."""
        self._tasks = tasks
        self._seconds = seconds
        self._keeper: asyncio.Task[None] | None = None

    async def complete(self, result: Body = None) -> None:
        """Ends the task with its result. Saying it twice is harmless.

        Raises:
            StaleLease: the lease has ended; nothing was changed.
            Cancelled: the task was.
        """
        await self._settle("complete", as_message(result).body)

    async def fail(
        self, error: str = "", *, retry: bool = True, retry_after: float | None = None
    ) -> None:
        """Ends this attempt. The task is tried again later, after its back-off or `retry_after`
        seconds, unless its attempts are used up or there is to be no `retry`: then it is dead.
        Raises as `complete`."""
        query = {} if retry else {"retry": "false"}
        if retry_after is not None:
            query["retry_after_ms"] = _ms(retry_after)
        await self._settle("fail", error.encode(), query)

    async def release(self) -> None:
        """Gives the task back unworked. Raises as `complete`."""
        await self._settle("release", b"")

    async def extend(self, seconds: float | None = None) -> None:
        """Holds the lease for so long from now; by default as it was claimed. Raises as
        `complete`."""
        query = {"lease_ms": _ms(self._seconds if seconds is None else seconds)}
        await self._hold("extend", b"", query)

    async def progress(self, progress: Body) -> None:
        """Tells those who look at the task how far it is, and extends the lease. Raises as
        `complete`."""
        await self._hold("progress", as_message(progress).body, {"lease_ms": _ms(self._seconds)})

    async def __aenter__(self) -> Self:
        owner = asyncio.current_task()
        assert owner is not None
        self._keeper = asyncio.create_task(self._keep(owner))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        assert self._keeper is not None
        self._keeper.cancel()
        owner = asyncio.current_task()
        assert owner is not None
        if self.lost is not None and isinstance(error, asyncio.CancelledError):
            # It was us who cancelled, unless somebody else did as well.
            if owner.uncancel() == 0:
                raise self.lost from None
            return False
        if self.is_settled:
            return False
        if error is None:
            await self.complete()
            return False
        if not isinstance(error, Exception):
            # We are told to leave: another may go on at once.
            with contextlib.suppress(MaitredError):
                await self.release()
            return False
        logger.exception("task %d of type %s: attempt %d failed", self.id, self.task_type, self.attempt)
        await self.fail(str(error) or type(error).__name__)
        return True

    async def _keep(self, owner: "asyncio.Task[Any]") -> None:
        """Extends the lease thrice as often as it needs; cancels its owner if it is lost."""
        while not self.is_settled:
            await asyncio.sleep(self._seconds / 3)
            try:
                await self.extend()
            except (StaleLease, Cancelled):
                if not self.is_settled:
                    owner.cancel()
                return
            except MaitredError as error:
                logger.warning("task %d: its lease was not extended: %s", self.id, error)

    async def _settle(self, what: str, body: bytes, query: Mapping[str, str] | None = None) -> None:
        await self._hold(what, body, query)
        self.is_settled = True

    async def _hold(self, what: str, body: bytes, query: Mapping[str, str] | None = None) -> None:
        try:
            await self._tasks._ask("POST", path("leases", self.token, what), query=query, body=body)
        except (StaleLease, Cancelled) as lost:
            self.lost = lost
            raise

    def __repr__(self) -> str:
        return f"<lease of task {self.id} of type {self.task_type!r}, attempt {self.attempt}>"


class AsyncTasks:
    """Enqueues, watches and claims tasks of the broker at `url`, on the running event loop.

    Whatever may safely be said twice is said again when an answer is lost, for up to `timeout`
    seconds.

    ```python
    async with AsyncTasks("http://127.0.0.1:8080") as tasks:
        task = await tasks.enqueue("resize", "photo 1")
        done = await tasks.wait(task.id)
    ```
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        token: str | None = None,
        timeout: float = 10.0,
    ) -> None:
        """Tasks of the broker at `url`.

        Args:
            token: the bearer token, for a broker that wants one.
            timeout: seconds a request may take, with all its attempts.

        Raises:
            EndpointError: the URL cannot be read.
        """
        self._http = Http(url, token)
        self._timeout = timeout

    async def enqueue(
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
        """Adds a task. When this returns it is on stable storage.

        Args:
            key: enqueueing again under the same key makes no second task. Without one, this call
                has a key of its own, so that it may be sent again.
            content_type: what the payload is.
            priority: of those that are ready, the highest goes first.
            delay: seconds until it may run.
            deadline: seconds after which it is too late to run it.
            max_attempts: how often it is tried before it is a dead letter.
            then: types of the tasks that follow, each with the result of the one before.
            settings: any other setting, by the broker's name.

        Raises:
            Conflict: another task has this key.
            Invalid: a setting is none. `NoSpace`, `Busy`, `Unavailable`, `NoStore`, `Denied`: as
                their names say.
            Unreachable: there was no broker.
        """
        words = {
            "priority": priority,
            "delay_ms": None if delay is None else _ms(delay),
            "deadline_ms": None if deadline is None else _ms(deadline),
            "max_attempts": max_attempts,
            "then": ",".join(then) or None,
            **(settings or {}),
        }
        headers = {"idempotency-key": key or uuid.uuid4().hex}
        if content_type is not None:
            headers["content-type"] = content_type
        status, made = await self._ask(
            "POST",
            path("tasks", task_type),
            query={name: str(value) for name, value in words.items() if value is not None},
            headers=headers,
            body=as_message(payload).body,
        )
        return Enqueued(int(made["id"]), status == 201)

    async def get(self, task_id: int) -> Task:
        """The task as it stands.

        Raises:
            UnknownTask: there is none.
        """
        _, seen = await self._ask("GET", path("tasks", task_id))
        return Task(
            id=int(seen["id"]),
            task_type=str(seen["type"]),
            state=str(seen["state"]),
            attempt=int(seen["attempt"]),
            result=_bytes(seen, "result"),
            last_error=seen.get("last_error"),
            progress=_bytes(seen, "progress"),
            seen=seen,
        )

    async def wait(self, task_id: int, *, timeout: float | None = None) -> Task:
        """Looks at a task until it is done.

        Raises:
            Timeout: it is not within `timeout` seconds.
            TaskFailed: it is dead.
            Cancelled: it was cancelled.
        """
        loop = asyncio.get_running_loop()
        until = None if timeout is None else loop.time() + timeout
        pause = 0.02
        while True:
            task = await self.get(task_id)
            if task.state == "done":
                return task
            if task.state == "dead":
                why = task.last_error or task.seen.get("reason") or "no reason given"
                raise TaskFailed(f"task {task_id} is dead after {task.attempt} attempts: {why}")
            if task.state == "cancelled":
                raise Cancelled(f"task {task_id} was cancelled")
            if until is not None and loop.time() + pause > until:
                raise Timeout(f"task {task_id} is {task.state} after {timeout} s")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 1.0)

    async def cancel(self, task_id: int) -> None:
        """Cancels a task, waiting or running.

        Raises:
            Ended: it has ended already. `UnknownTask`: there is none.
        """
        await self._ask("DELETE", path("tasks", task_id))

    async def retry(self, task_id: int) -> None:
        """Makes a dead or cancelled task ready again.

        Raises:
            Conflict: it is neither. `UnknownTask`: there is none.
        """
        await self._ask("POST", path("tasks", task_id, "retry"), again=False)

    async def claim(
        self,
        *types: str,
        count: int = 1,
        wait: float | None = None,
        lease: float = 30.0,
        worker: str | None = None,
    ) -> list[AsyncLease]:
        """Leases up to `count` tasks of these types, as soon as there are some.

        Args:
            wait: seconds to wait for a task; `None` for any time, 0 to take what is ready. An
                empty list tells that there was none.
            lease: seconds each lease holds, if it is not extended.
            worker: what we are called where tasks are looked at; host and process by default.

        Raises:
            Draining: the broker is stopping. `Denied`, `NoStore`, `Unreachable`: as their names
                say.
        """
        loop = asyncio.get_running_loop()
        until = None if wait is None else loop.time() + wait
        while True:
            poll = _POLL if until is None else max(0.0, min(_POLL, until - loop.time()))
            ask = {
                "types": list(types),
                "max": count,
                "wait_ms": int(poll * 1000),
                "lease_ms": int(lease * 1000),
                "worker": worker or _own_name(),
            }
            _, answer = await self._ask(
                "POST", path("leases"), json=ask, timeout=poll + self._timeout
            )
            leases = [AsyncLease(self, each, lease) for each in answer["leases"]]
            if leases or (until is not None and loop.time() >= until):
                return leases

    async def close(self) -> None:
        """Hangs up. Doing it twice is harmless."""
        await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _ask(
        self,
        method: str,
        where: str,
        *,
        again: bool = True,
        timeout: float | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes | None = None,
    ) -> tuple[int, dict[str, Any]]:
        return await self._http.ask(
            method, where, timeout=timeout or self._timeout, again=again,
            query=query, headers=headers, json=json, body=body,
        )  # fmt: skip


class Lease:
    """A task in hand, for plain threads. See [`AsyncLease`][maitred.tasks.AsyncLease].

    In a `with` it is extended for as long as the block runs; a thread cannot be cancelled, so look
    at `lost` in what takes long.
    """

    def __init__(self, lease: AsyncLease, thread: LoopThread) -> None:
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
        await self._lease._keep(owner)

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

    def work(self, *types: str, lease: float = 30.0) -> Generator[Lease, None, None]:
        """Claims one task after another, for ever.

        ```python
        for lease in tasks.work("resize"):
            with lease:
                lease.complete(resize(lease.payload))
        ```
        """
        while True:
            yield from self.claim(*types, lease=lease)

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


def _own_name() -> str:
    return f"{socket.gethostname()}/{os.getpid()}"


def _ms(seconds: float) -> str:
    return str(max(0, round(seconds * 1000)))


def _bytes(seen: Mapping[str, Any], name: str) -> bytes | None:
    """Bytes as JSON has them: as text, or else in base64."""
    if (text := seen.get(name)) is not None:
        return str(text).encode()
    if (text := seen.get(f"{name}_base64")) is not None:
        return base64.b64decode(text)
    return None


__all__ = ["AsyncLease", "AsyncTasks", "Enqueued", "Lease", "Task", "Tasks"]
