"""Fixtures of this suite and of the Python package's: a broker per test."""

import pytest

from broker import FAST, Broker


@pytest.fixture
def start(tmp_path):
    """Starts brokers: `start(config, mdp_option=…)`; each ends with the test."""
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
