"""A task in hand."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from .._http import path
from ..errors import Cancelled, MaitredError, Refused, StaleLease
from ..message import Body, as_message
from ._words import bytes_of, ms

logger = logging.getLogger("maitred.tasks")

Say = Callable[[str, Mapping[str, str], bytes], Awaitable[None]]
"""Says something of a lease to the broker: at a path, with a query and a body."""


class AsyncLease:
    """A task in hand: the right to work at it until `deadline`.

    In an `async with` it is extended for as long as the block runs. If the block raises, the
    attempt fails with the text of the exception, which goes no further; if it settles nothing, the
    task is complete with an empty result. If the lease is lost the block is cancelled, and the
    `async with` raises `StaleLease` or `Cancelled`.
    """

    def __init__(self, say: Say, lease: Mapping[str, Any], seconds: float) -> None:
        self.token = str(lease["token"])
        """Names this lease, and no other of the same task."""
        self.id = int(lease["id"])
        """The task's."""
        self.task_type = str(lease["type"])
        """The task's type."""
        self.attempt = int(lease["attempt"])
        """Which attempt this is, from 1 on."""
        self.payload = bytes_of(lease, "payload") or b""
        """What was enqueued."""
        self.content_type: str | None = lease.get("content_type")
        """What the payload is, if whoever enqueued it said so."""
        self.seen = lease
        """All that the broker says of it, by its names."""
        self.is_settled = False
        """Whether it was completed, failed or given back."""
        self.lost: Refused | None = None
        """Why it is no longer ours, as far as we know."""
        self._say = say
        self._seconds = seconds
        self._keeper: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        """How long it holds, if it is not extended."""
        return self._seconds

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
            query["retry_after_ms"] = ms(retry_after)
        await self._settle("fail", error.encode(), query)

    async def release(self) -> None:
        """Gives the task back unworked. Raises as `complete`."""
        await self._settle("release", b"")

    async def extend(self, seconds: float | None = None) -> None:
        """Holds the lease for so long from now; by default as it was claimed. Raises as
        `complete`."""
        query = {"lease_ms": ms(self._seconds if seconds is None else seconds)}
        await self._hold("extend", b"", query)

    async def progress(self, progress: Body) -> None:
        """Tells those who look at the task how far it is, and extends the lease. Raises as
        `complete`."""
        await self._hold("progress", as_message(progress).body, {"lease_ms": ms(self._seconds)})

    async def __aenter__(self) -> Self:
        owner = asyncio.current_task()
        assert owner is not None
        self._keeper = asyncio.create_task(self.keep(owner))
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

    async def keep(self, owner: "asyncio.Task[Any]") -> None:
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
            await self._say(path("leases", self.token, what), query or {}, body)
        except (StaleLease, Cancelled) as lost:
            self.lost = lost
            raise

    def __repr__(self) -> str:
        return f"<lease of task {self.id} of type {self.task_type!r}, attempt {self.attempt}>"
