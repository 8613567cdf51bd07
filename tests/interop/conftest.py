"""A test that cannot run fails; none is skipped."""

from fixtures import broker, fast, start  # noqa: F401, found by their names


def pytest_sessionfinish(session, exitstatus):
    """A skipped test is a failed run: nothing here is optional."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = 1
