"""How long to wait before the next attempt."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """How a back-off grows; all times in seconds."""

    first: float
    longest: float
    # No wait is shorter than this part of the longest it might be.
    least: float
    # Only a connection that lasted so long counts as success.
    healthy: float


QUICK = Pace(first=0.1, longest=10.0, least=0.0, healthy=9.0)
"""Each wait is drawn from the whole span up to its ceiling."""
PIRATE = Pace(first=1.0, longest=32.0, least=0.5, healthy=3.0)
"""As the Paranoid Pirate pattern has it; queues of old have little room for haste."""


class Backoff:
    """Exponential back-off with jitter, so that the peers of a broker that restarts do not come
    back all at once."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.ceiling = pace.first

    def next(self) -> float:
        """The next wait in seconds; the one after it may be twice as long."""
        least = self._pace.least
        wait = self.ceiling * (least + (1.0 - least) * random.random())
        self.ceiling = min(self.ceiling * 2.0, self._pace.longest)
        return wait

    def connection_lasted(self, seconds: float) -> None:
        """To be told of each connection's end, so that a broker that accepts and hangs up at once
        is not hammered."""
        if seconds >= self._pace.healthy:
            self.ceiling = self._pace.first
