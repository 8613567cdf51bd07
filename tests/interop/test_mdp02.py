"""MDP/0.2: streamed replies, with and without the delimiter, and mixed with 0.1 on one port."""

import pytest

from broker import FAST_INTERVAL
from mdp import EMPTY, V01, V02, V02_DELIMITED, V02_MAJORTOMO, Reply

BOTH = pytest.mark.parametrize("dialect", [V02, V02_DELIMITED], ids=["plain", "delimited"])
CLIENTS = {
    "0.1-REQ": (V01, True),
    "0.1-DEALER": (V01, False),
    "0.2": (V02, False),
    "0.2-delimited": (V02_DELIMITED, False),
}
WORKERS = {"0.1": V01, "0.2": V02, "0.2-delimited": V02_DELIMITED}


@pytest.mark.parametrize("worker_dialect", WORKERS.values(), ids=WORKERS)
@pytest.mark.parametrize("client_dialect, req", CLIENTS.values(), ids=CLIENTS)
def test_every_client_is_served_by_every_worker(broker, client_dialect, req, worker_dialect):
    """Each side sees its own dialect only, and bodies cross it unchanged."""
    client = broker.client(client_dialect, req=req)
    worker = broker.worker("echo", dialect=worker_dialect)
    for body in ([b"x"], [EMPTY], [b"a", EMPTY, b"MDPC01"], [EMPTY, b"\x01", EMPTY]):
        client.request("echo", *body)
        job = worker.take()
        assert job.body == body
        worker.answer(job, *reversed(body))
        assert client.reply() == Reply(b"echo", [*reversed(body)], final=True)


@BOTH
def test_partial_replies_reach_a_0_2_client_as_they_come(broker, dialect):
    """PARTIALs are passed on before the FINAL exists."""
    client, worker = broker.client(dialect), broker.worker("count", dialect=dialect)
    client.request("count", b"3")
    job = worker.take()
    for part in (b"one", b"two"):
        worker.partial(job, part, EMPTY)
        assert client.reply() == Reply(b"count", [part, EMPTY], final=False)
    worker.answer(job, b"three")
    assert client.reply() == Reply(b"count", [b"three"], final=True)
    client.quiet()


@pytest.mark.parametrize("req", [False, True], ids=["DEALER", "REQ"])
def test_partial_replies_are_joined_for_a_0_1_client(broker, req):
    """0.1 knows one reply per request: the frames of all parts, in order, with the FINAL."""
    client, worker = broker.client(req=req), broker.worker("count", dialect=V02)
    client.request("count", b"3")
    job = worker.take()
    worker.partial(job, b"one", EMPTY)
    worker.partial(job, b"two")
    client.quiet()
    worker.answer(job, b"three", b"end")
    assert client.reply() == Reply(b"count", [b"one", EMPTY, b"two", b"three", b"end"])
    client.request("count", b"again")
    worker.serve_one(b"alone")
    assert client.reply().body == [b"alone"]


def test_parts_of_a_lost_worker_are_not_joined_with_its_heirs(broker):
    """The reply to a 0.1 client comes whole from one worker."""
    client, victim = broker.client(), broker.worker("count", dialect=V02)
    client.request("count", b"3")
    victim.partial(victim.take(), b"half a reply")
    heir = broker.idle_worker("count", dialect=V02)
    victim.close()
    job = heir.take()
    heir.partial(job, b"first")
    heir.answer(job, b"last")
    assert client.reply() == Reply(b"count", [b"first", b"last"])
    client.quiet()


def test_a_stream_that_breaks_off_is_not_run_again(start):
    """A 0.2 client has seen a part of the reply, so another worker must not begin anew."""
    broker = start("[defaults]\nanswer_refusals = true\n")
    client, victim = broker.client(V02), broker.worker("count", dialect=V02)
    client.request("count", b"3")
    victim.partial(victim.take(), b"half a reply")
    assert client.reply() == Reply(b"count", [b"half a reply"], final=False)
    heir = broker.idle_worker("count", dialect=V02)
    victim.close()
    refusal = [b"MAITRED-REFUSED", b"workers_failed"]
    assert client.reply() == Reply(b"count", refusal, final=True)
    heir.quiet()


def test_a_partial_does_not_free_the_worker(broker):
    """One request at a time: the next comes after FINAL, not after PARTIAL."""
    client, worker = broker.client(V02), broker.worker("echo", dialect=V02)
    client.request("echo", b"1")
    client.request("echo", b"2")
    job = worker.take()
    worker.partial(job, b"p")
    assert client.reply() == Reply(b"echo", [b"p"], final=False)
    worker.idle()
    worker.answer(job, b"f")
    assert client.reply() == Reply(b"echo", [b"f"])
    assert worker.serve_one().body == [b"2"]
    assert client.reply() == Reply(b"echo", [b"2"])


@BOTH
@pytest.mark.parametrize("late", ["partial", "answer"])
def test_nothing_follows_final(broker, dialect, late):
    """After FINAL the client hears no more of it, and the worker that goes on is sent away."""
    client, worker = broker.client(V02), broker.worker("echo", dialect=dialect)
    client.request("echo", b"x")
    job = worker.serve_one(b"final")
    getattr(worker, late)(job, b"late")
    worker.expect_disconnect()
    assert client.reply() == Reply(b"echo", [b"final"])
    client.quiet()


def wrong(dialect):
    d, address = dialect, b"nobody"
    return {
        "second READY": [d.ready, b"echo"],
        "REQUEST": [d.request, address, EMPTY, b"x"],
        "PARTIAL unasked": [d.partial, address, EMPTY, b"x"],
        "FINAL unasked": [d.reply, address, EMPTY, b"x"],
    }


@BOTH
@pytest.mark.parametrize("what", wrong(V02))
def test_valid_but_unexpected_commands_get_disconnect(broker, dialect, what):
    worker = broker.idle_worker("echo", dialect=dialect)
    worker.command(*wrong(dialect)[what])
    worker.expect_disconnect()
    broker.wait_workers("echo", 0)
    broker.check_serving()


@BOTH
@pytest.mark.parametrize("what", ["PARTIAL", "FINAL", "HEARTBEAT"])
def test_commands_before_ready_get_disconnect(broker, dialect, what):
    worker = broker.worker(dialect=dialect)
    if what == "HEARTBEAT":
        worker.heartbeat()
    else:
        octet = dialect.partial if what == "PARTIAL" else dialect.reply
        worker.command(octet, b"nobody", EMPTY, b"x")
    worker.expect_disconnect()


@BOTH
def test_beats_and_expiry(fast, dialect):
    """Beats come in the worker's dialect; a silent worker goes, and is told if it beats again."""
    worker = fast.idle_worker("echo", dialect=dialect)
    for _ in range(5):
        worker.idle(FAST_INTERVAL)
        worker.heartbeat()
    assert worker.heartbeats >= 2
    fast.wait_workers("echo", 0)
    worker.heartbeat()
    worker.expect_disconnect()


@pytest.mark.parametrize("heir_dialect", [V01, V02], ids=["to-0.1", "to-0.2"])
def test_redelivery_crosses_versions(broker, heir_dialect):
    victim_dialect = V01 if heir_dialect.v2 else V02
    client, victim = broker.client(V02), broker.worker("echo", dialect=victim_dialect)
    client.request("echo", b"a", EMPTY)
    victim.take()
    heir = broker.idle_worker("echo", dialect=heir_dialect)
    victim.disconnect()
    job = heir.take(timeout=1.0)
    assert job.body == [b"a", EMPTY]
    heir.answer(job, b"done")
    assert client.reply() == Reply(b"echo", [b"done"])


@pytest.mark.parametrize(
    "frames",
    [
        [b"MDPC02", b"\x01"],
        [b"MDPC02", b"\x01", b"echo"],
        [b"MDPC02", b"\x01", EMPTY],
        [b"MDPC02", EMPTY, b"echo", b"x"],
        [b"MDPC02", b"\x02", b"echo", b"x"],
        [b"MDPC02", b"\x09", b"echo", b"x"],
        [b"MDPC02", b"echo", b"x"],
        [b"MDPW02", EMPTY, b"echo"],
        [b"MDPW02", b"\x7f", b"echo"],
        [b"MDPW02", b"\x03"],
        [b"MDPW02", b"\x04", b"nobody"],
        [b"MDPC03", b"\x01", b"echo", b"x"],
        [b"mdpc02", b"\x01", b"echo", b"x"],
    ],
    ids=lambda frames: "|".join(repr(frame)[2:-1] for frame in frames),
)
@pytest.mark.parametrize("delimiter", [False, True], ids=["plain", "delimited"])
def test_malformed_messages_harm_nobody(broker, frames, delimiter):
    peer = broker.peer()
    peer.send(*([EMPTY] if delimiter else []), *frames)
    broker.check_serving()


TWO_LISTENERS = """
[[mdp.listen]]
endpoint = "tcp://127.0.0.1:0"
mdp02_service_frame = false
[[mdp.listen]]
endpoint = "tcp://127.0.0.1:0"
"""


def test_listener_without_service_frame_speaks_majortomo(start):
    """There, replies to 0.2 clients name no service; everything else is as anywhere."""
    broker = start(TWO_LISTENERS, mdp_option=False)
    assert len(broker.endpoints) == 2
    majortomo, usual = broker.endpoints
    worker = broker.worker("echo", dialect=V02_MAJORTOMO, endpoint=majortomo)
    client = broker.client(V02_MAJORTOMO, endpoint=majortomo)
    client.request("echo", b"x", EMPTY)
    job = worker.take()
    assert job.body == [b"x", EMPTY]
    worker.partial(job, b"part")
    worker.answer(job, b"end", EMPTY)
    assert client.reply() == Reply(None, [b"part"], final=False)
    assert client.reply() == Reply(None, [b"end", EMPTY], final=True)
    # The broker's own answers have no service there either.
    assert client.call("mmi.service", "echo") == [b"200"]
    # A 0.1 client of that listener, and a 0.2 client of the other, get the service they asked for.
    for other in (
        broker.client(V01, endpoint=majortomo),
        broker.client(V02, endpoint=usual),
        broker.client(V02_DELIMITED, endpoint=usual),
    ):
        other.request("echo", b"y")
        worker.serve_one()
        assert other.reply() == Reply(b"echo", [b"y"])


def test_0_2_workers_may_be_concurrent_too(broker):
    """The option frame of READY means the same in 0.2."""
    worker = broker.worker("echo", "concurrency=3", dialect=V02)
    client = broker.client(V02)
    for body in (b"1", b"2", b"3", b"4"):
        client.request("echo", body)
    jobs = [worker.take() for _ in range(3)]
    worker.idle()
    worker.partial(jobs[1], b"part of 2")
    assert client.reply() == Reply(b"echo", [b"part of 2"], final=False)
    for job in reversed(jobs):
        worker.answer(job, *job.body)
    worker.serve_one()
    assert [client.reply().body for _ in range(4)] == [[b"3"], [b"2"], [b"1"], [b"4"]]


def test_both_versions_share_one_line(broker):
    """Requests of 0.1 and 0.2 clients for one service are served in the order they came."""
    old, new = broker.client(), broker.client(V02)
    for body in (b"1", b"3", b"5"):
        old.request("echo", body)
        old.sync()
        new.request("echo", b"%d" % (int(body) + 1))
        new.sync()
    worker = broker.worker("echo")
    seen = [worker.serve_one().body[0] for _ in range(6)]
    assert seen == [b"1", b"2", b"3", b"4", b"5", b"6"]
