"""What the broker answers itself: the `mmi.` services."""

import pytest

import mdp
from mdp import Reply
from process import wait_until


@pytest.mark.parametrize(
    "settings, expected",
    [
        ("", [b"3000", b"3"]),
        ('[mdp]\nheartbeat = "750ms"\nliveness = 5\n', [b"750", b"5"]),
    ],
    ids=["shipped", "configured"],
)
def test_heartbeat_tells_interval_and_liveness(start, settings, expected):
    """Two frames, decimal: the interval in ms and how many of them a silent peer is given."""
    assert start(settings).mmi("mmi.heartbeat", b"") == expected


@pytest.mark.parametrize(
    "name", ["mmi.nonsense", "mmi.", "mmi.SERVICE", "mmi.service.x", b"mmi.\0"]
)
def test_unknown_name_is_501(broker, name):
    assert broker.mmi(name, b"anything") == [b"501"]


def test_reply_looks_like_any_reply(broker):
    """Header, the mmi name as service, one body frame: over REQ and over DEALER."""
    broker.idle_worker("echo")
    for req in (True, False):
        client = broker.client(req=req)
        client.request("mmi.service", "echo")
        assert client.reply() == Reply(b"mmi.service", [b"200"])


def test_service_is_truthful_about_names_that_differ_a_little(broker):
    broker.idle_worker("echo")
    for name in ("ech", "echo ", "Echo", b"echo\0", b""):
        assert broker.mmi("mmi.service", name) == [b"404"], name


def test_workers_counts_connections_not_offers(broker):
    """mmi.workers: how many are registered, busy ones and wide ones counted once."""
    assert broker.mmi("mmi.workers", "echo") == [b"0"]
    broker.idle_worker("echo")
    wide = broker.idle_worker("echo", "concurrency=8")
    broker.idle_worker("other")
    assert broker.mmi("mmi.workers", "echo") == [b"2"]
    client = broker.client()
    client.request("echo", b"x")
    client.request("echo", b"y")
    wide.take()
    assert broker.mmi("mmi.workers", "echo") == [b"2"]


@pytest.mark.parametrize("leave", ["disconnect", "close"])
@pytest.mark.parametrize("busy", [False, True])
def test_truthful_at_once_after_a_worker_leaves(broker, leave, busy):
    """No heartbeat has to be missed for it: far less than one interval of 3 s passes."""
    worker = broker.idle_worker("echo")
    if busy:
        broker.client().request("echo", b"x")
        worker.take()
    getattr(worker, leave)()
    wait_until(lambda: broker.mmi("mmi.service", "echo") == [b"404"], "404", timeout=1.0)
    assert broker.mmi("mmi.workers", "echo") == [b"0"]


def test_leaves_nothing_behind(broker):
    """Asking about names does not make services of them."""
    for number in range(200):
        broker.mmi("mmi.service", f"name-{number}")
    assert broker.get("/v1/services").json()["services"] == []


@pytest.mark.parametrize("body", [[], [b""], [b"echo", b"more"]], ids=["none", "empty", "two"])
@pytest.mark.parametrize("name", ["mmi.service", "mmi.workers", "mmi.heartbeat", "mmi.x"])
def test_odd_bodies_are_answered_or_dropped(broker, name, body):
    """The asker gets one reply of the right form or none, and the broker serves on."""
    broker.idle_worker("echo")
    client = broker.client()
    client.request(name, *body)
    # The reply to this one is the last that can come.
    client.request("mmi.marker", b"")
    replies = [client.reply()]
    while replies[-1].service != b"mmi.marker":
        replies.append(client.reply())
    assert len(replies) <= 2
    assert all(reply.service == name.encode() and reply.body for reply in replies[:-1])
    broker.check_serving()


@pytest.mark.parametrize("dialect", [mdp.V02, mdp.V02_DELIMITED], ids=["plain", "delimited"])
def test_over_0_2(broker, dialect):
    """The same answers in the words of 0.2, as FINAL."""
    broker.idle_worker("echo")
    client = broker.client(dialect)
    client.request("mmi.service", "echo")
    assert client.reply() == Reply(b"mmi.service", [b"200"], final=True)
    assert client.call("mmi.service", "nobody") == [b"404"]
    assert client.call("mmi.workers", "echo") == [b"1"]
    assert client.call("mmi.heartbeat", b"") == [b"3000", b"3"]
    assert client.call("mmi.other", b"") == [b"501"]


@pytest.mark.parametrize(
    "dialect", [mdp.V01, mdp.V02, mdp.V02_DELIMITED], ids=["0.1", "0.2", "0.2d"]
)
def test_reserved_names_are_refused_to_workers_of_every_dialect(broker, dialect):
    worker = broker.worker("mmi.mine", dialect=dialect)
    worker.expect_disconnect()
    assert broker.mmi("mmi.mine", b"") == [b"501"]
    assert broker.workers("mmi.mine") == 0
