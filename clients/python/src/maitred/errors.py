"""What can go wrong, and what to do about it.

Every error of this package is a [`MaitredError`][maitred.MaitredError]. What a broker refuses is a
[`Refused`][maitred.Refused] of a class that has the name of the broker's reason.
"""


class MaitredError(Exception):
    """Why a call, a connection, a worker or a task did not come to its end."""


class EndpointError(MaitredError, ValueError):
    """An endpoint cannot be read."""


class ServiceNameError(MaitredError, ValueError):
    """A service name no broker would take."""


class InvalidKey(MaitredError, ValueError):
    """A key, name or password that no broker would take."""


class TooLarge(MaitredError, ValueError):
    """A message is larger than brokers take; sending it would make the broker hang up."""


class RepliesTooLarge(MaitredError):
    """The replies held for one call are more than the limit: take them faster, or raise it."""


class Timeout(MaitredError, TimeoutError):
    """The deadline passed without a final reply. Whether the request was served is unknown."""


class Unreachable(Timeout):
    """The deadline passed while no broker was connected. The request was not served as far as we
    know: the only exception is one that had been sent when its connection was lost."""


class ConnectionLost(MaitredError, ConnectionError):
    """The connection was lost after the request was sent, and the call must not be sent twice or
    has already had a partial reply. Whether the request was served is unknown."""


class Closed(MaitredError):
    """The client or worker was closed."""


class Failed(MaitredError):
    """The worker's handler failed. A handler that raises it says so to its client, and nothing is
    logged."""


class Refused(MaitredError):
    """The broker refused: nothing was done, except after `WorkersFailed`."""

    reason: str = ""
    """The broker's word for it."""
    retry_after: float | None = None
    """Seconds after which to try again, where the broker said so."""
    _meaning = "refused"

    def __init__(self, message: str | None = None, *, reason: str | None = None) -> None:
        if reason is not None:
            self.reason = reason
        text = message or self._meaning
        super().__init__(f"{text} ({self.reason})" if self.reason else text)


class NoWorkers(Refused):
    """Nobody serves that service."""

    reason = "no_workers"
    _meaning = "no worker serves this name"


class QueueFull(Refused):
    """The service's line is full."""

    reason = "queue_full"
    _meaning = "the service's line is full"


class Expired(Refused):
    """It waited in line as long as the service allows."""

    reason = "expired"
    _meaning = "it waited as long as the service allows"


class Overload(Refused):
    """The service is overloaded, and the broker keeps its line short."""

    reason = "overload"
    _meaning = "the service is overloaded"


class Draining(Refused):
    """The broker is about to stop."""

    reason = "draining"
    _meaning = "the broker is stopping"


class Denied(Refused):
    """Whoever we are may not do this."""

    reason = "denied"
    _meaning = "this is not allowed"


class WorkersFailed(Refused):
    """Every worker that was given the request was lost while it held it."""

    reason = "workers_failed"
    _meaning = "every worker that tried was lost"


class UnknownTask(Refused):
    """There is no such task: it never was, or was kept long enough."""

    reason = "unknown_task"
    _meaning = "there is no such task"


class StaleLease(Refused):
    """The lease has ended, and the task may be another's by now: nothing was changed."""

    reason = "stale_lease"
    _meaning = "the lease has ended"


class Cancelled(Refused):
    """The task was cancelled while it was worked at: nothing was changed."""

    reason = "cancelled"
    _meaning = "the task was cancelled"


class Conflict(Refused):
    """Another task has this key, or the task is in a state that does not allow it."""

    reason = "conflict"
    _meaning = "the task is in another state"


class Ended(Refused):
    """The task has ended already."""

    reason = "ended"
    _meaning = "the task has ended"


class Invalid(Refused):
    """The broker does not take such a setting."""

    reason = "invalid"
    _meaning = "a setting is not valid"


class NoSpace(Refused):
    """The broker's disk is full: it takes no tasks, but they can be settled."""

    reason = "no_space"
    _meaning = "the broker's disk is full"


class Busy(Refused):
    """The broker's store has too much to do."""

    reason = "busy"
    _meaning = "the store is busy"


class Unavailable(Refused):
    """The broker's store cannot be reached at the moment."""

    reason = "unavailable"
    _meaning = "the store cannot be reached"


class NoStore(Refused):
    """The broker keeps no tasks: it has no store."""

    reason = "no_store"
    _meaning = "this broker keeps no tasks"


class TaskFailed(MaitredError):
    """The task is dead: all its attempts failed, or it was too late."""


_ALL = (
    *(NoWorkers, QueueFull, Expired, Overload, Draining, Denied, WorkersFailed),
    *(UnknownTask, StaleLease, Cancelled, Conflict, Ended, Invalid),
    *(NoSpace, Busy, Unavailable, NoStore),
)
_BY_REASON: dict[str, type[Refused]] = {kind.reason: kind for kind in _ALL}

ANOTHER_BROKER_MAY_HELP = (NoWorkers, QueueFull, Overload, Draining)
"""Refusals after which the request did not run, and another broker may well take it."""


def refused(reason: str, message: str | None = None) -> Refused:
    """The error for a broker's reason; a plain `Refused` for one this version does not know."""
    return _BY_REASON.get(reason, Refused)(message, reason=reason)
