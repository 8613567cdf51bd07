"""Fixtures: a broker per test, from the binary in MAITRED_BIN. Nothing is skipped."""

import asyncio

import pytest
from broker import FAST, Broker


@pytest.fixture
def start(tmp_path):
    """Starts brokers: `start(config)`; each ends with the test."""
    brokers = []

    def start_one(config="", **keywords):
        directory = tmp_path / f"broker-{len(brokers)}"
        directory.mkdir()
        brokers.append(Broker(directory, config, **keywords))
        return brokers[-1].start()

    yield start_one
    failures = []
    for broker in brokers:
        try:
            broker.close()
        except Exception as failure:  # the others must be closed as well
            failures.append(failure)
    if failures:
        raise failures[0]


@pytest.fixture
def broker(start):
    """A broker with the settings it ships with."""
    return start()


@pytest.fixture
def fast(start):
    """A broker that beats every 200 ms and gives a silent peer three of those."""
    return start(FAST)


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
