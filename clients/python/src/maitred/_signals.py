"""SIGINT and SIGTERM as a request to stop."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def heard(on_signal: Callable[[bool], None]) -> Iterator[None]:
    """While this lasts, the event loop calls `on_signal` for each of them, saying whether it is the
    first. Only the main thread can have signals."""
    loop = asyncio.get_running_loop()
    count = 0

    def on_any() -> None:
        nonlocal count
        count += 1
        on_signal(count == 1)

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in numbers:
            loop.add_signal_handler(number, on_any)
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
