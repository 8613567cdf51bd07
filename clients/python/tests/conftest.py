"""Fixtures: a broker per test, from the binary in MAITRED_BIN. Nothing is skipped."""

import asyncio

import pytest
from fixtures import broker, fast, start  # noqa: F401, found by their names


@pytest.fixture
def run():
    """Runs a coroutine; tasks and futures that failed unheard of are failures of the test."""

    def run_one(coroutine):
        unheard = []

        async def watched():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: unheard.append(context))
            return await asyncio.wait_for(coroutine, 50)

        result = asyncio.run(watched())
        assert not unheard
        return result

    return run_one


def pytest_sessionfinish(session, exitstatus):
    """A skipped test is a failed run: nothing here is optional."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = 1
