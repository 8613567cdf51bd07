"""Enqueues, watches and claims tasks, with asyncio."""

import asyncio
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from .._http import Http, path
from ..errors import Cancelled, TaskFailed, Timeout
from ..message import Body, as_message
from ._words import bytes_of, ms
from .lease import AsyncLease

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
            "delay_ms": None if delay is None else ms(delay),
            "deadline_ms": None if deadline is None else ms(deadline),
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
            result=bytes_of(seen, "result"),
            last_error=seen.get("last_error"),
            progress=bytes_of(seen, "progress"),
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
            leases = [AsyncLease(self._say, each, lease) for each in answer["leases"]]
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

    async def _say(self, where: str, query: Mapping[str, str], body: bytes) -> None:
        await self._ask("POST", where, query=query, body=body)

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


def _own_name() -> str:
    return f"{socket.gethostname()}/{os.getpid()}"
