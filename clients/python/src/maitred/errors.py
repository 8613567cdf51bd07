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


_BY_REASON: dict[str, type[Refused]] = {
    kind.reason: kind
    for kind in (NoWorkers, QueueFull, Expired, Overload, Draining, Denied, WorkersFailed)
}

ANOTHER_BROKER_MAY_HELP = (NoWorkers, QueueFull, Overload, Draining)
"""Refusals after which the request did not run, and another broker may well take it."""


def refused(reason: str, message: str | None = None) -> Refused:
    """The error for a broker's reason; a plain `Refused` for one this version does not know."""
    return _BY_REASON.get(reason, Refused)(message, reason=reason)


def register(kind: type[Refused]) -> type[Refused]:
    """Makes `refused` know a reason of another surface."""
    _BY_REASON[kind.reason] = kind
    return kind
