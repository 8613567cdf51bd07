"""A request whose worker is lost goes to another, first in line, as often as its service allows."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker import FAST, FAST_INTERVAL
from mdp import V01, V02, Reply, retrying_call
from process import wait_until


def close_and_wait(broker, peer):
    """Until the broker has seen the connection end."""
    before = broker.metric("maitred_connections")
    peer.close()
    wait_until(lambda: broker.metric("maitred_connections") < before, "the peer is gone")


def test_kill_9_mid_request_loses_nothing(broker):
    """The idle worker has it at once, not after some heartbeats."""
    victim = broker.worker_process("echo", "--busy", "60")
    client = broker.client()
    client.request("echo", b"precious")
    victim.busy()
    heir = broker.idle_worker("echo")
    killed = time.monotonic()
    victim.kill()
    job = heir.take(timeout=1.0)
    assert time.monotonic() - killed < 1.0
    assert job.body == [b"precious"]
    heir.answer(job, b"done")
    assert client.reply() == Reply(b"echo", [b"done"])
    client.quiet()
    assert broker.metric("maitred_redeliveries_total") == 1


def test_a_redelivered_request_goes_to_the_head_of_the_line(broker):
    """It keeps its place in time: before all that came after it."""
    victim = broker.worker("echo")
    client = broker.client()
    for body in (b"1", b"2", b"3"):
        client.request("echo", body)
    assert victim.take().body == [b"1"]
    client.sync()
    victim.close()
    broker.wait_service("echo", waiting=3, leased=0)
    heir = broker.worker("echo")
    assert [heir.serve_one().body for _ in range(3)] == [[b"1"], [b"2"], [b"3"]]
    assert [client.reply().body for _ in range(3)] == [[b"1"], [b"2"], [b"3"]]


def test_without_another_worker_it_waits_for_one(broker):
    victim = broker.worker("echo")
    client = broker.client(req=True)
    client.request("echo", b"x")
    victim.take()
    victim.disconnect()
    broker.wait_service("echo", workers=0, waiting=1)
    client.quiet()
    broker.worker("echo").serve_one(b"later")
    assert client.reply() == Reply(b"echo", [b"later"])


@pytest.mark.parametrize("allowed", [1, 2, 3])
def test_max_deliveries_bounds_the_tries(start, allowed):
    """So many workers may be lost over a request; then it is given up, counted with its reason."""
    broker = start(f'[services."fatal"]\nmax_deliveries = {allowed}\n')
    client = broker.client()
    client.request("fatal", b"poison")
    for _ in range(allowed):
        victim = broker.worker("fatal")
        assert victim.take().body == [b"poison"]
        victim.close()
        broker.wait_workers("fatal", 0)
    broker.wait_metric("maitred_refusals_total", 1, reason="workers_failed")
    survivor = broker.idle_worker("fatal")
    survivor.idle()
    assert broker.metric("maitred_redeliveries_total") == allowed - 1
    # 0.1 has no word for a refusal: the client hears nothing of it.
    client.quiet(0.05)
    client.request("fatal", b"harmless")
    assert survivor.serve_one().body == [b"harmless"]
    assert client.reply().body == [b"harmless"]


def test_three_deliveries_unless_told_otherwise(broker):
    client = broker.client()
    client.request("fatal", b"poison")
    for _ in range(3):
        victim = broker.worker("fatal")
        victim.take()
        victim.close()
        broker.wait_workers("fatal", 0)
    broker.wait_metric("maitred_refusals_total", 1, reason="workers_failed")


def test_a_refusal_can_be_answered_where_the_service_says_so(start):
    """`answer_refusals`: the client gets a well-formed REPLY instead of silence."""
    broker = start('[services."fatal"]\nmax_deliveries = 1\nanswer_refusals = true\n')
    client = broker.client(req=True)
    client.request("fatal", b"poison")
    victim = broker.worker("fatal")
    victim.take()
    victim.close()
    reply = client.reply()
    assert reply.service == b"fatal"
    assert any(b"workers_failed" in frame for frame in reply.body), reply


@pytest.mark.parametrize("dialect", [V01, V02], ids=["0.1", "0.2"])
def test_execution_limit_takes_the_request_back(start, dialect):
    """A worker that takes longer than the service allows loses the request; its late reply too."""
    broker = start('[services."echo"]\nexecution_limit = "500ms"\n')
    slow = broker.worker("echo", dialect=dialect)
    client = broker.client()
    client.request("echo", b"x")
    job = slow.take()
    taken = time.monotonic()
    heir = broker.idle_worker("echo")
    again = heir.take(timeout=5.0)
    assert time.monotonic() - taken >= 0.3
    assert again.body == [b"x"]
    slow.answer(job, b"late")
    slow.expect_disconnect()
    client.quiet()
    heir.answer(again, b"in time")
    assert client.reply() == Reply(b"echo", [b"in time"])
    client.quiet()


def test_execution_limit_spares_the_quick(start):
    broker = start('[defaults]\nexecution_limit = "400ms"\n')
    worker, client = broker.worker("echo"), broker.client()
    for _ in range(6):
        client.request("echo", b"x")
        job = worker.take()
        time.sleep(0.1)
        worker.answer(job, b"y")
        assert client.reply().body == [b"y"]


def test_late_reply_after_redelivery_is_nobodys(fast):
    """The first holder's reply, once another holds the request, reaches no client."""
    mute = fast.worker_process(
        "echo", "--busy", "1", "--interval", FAST_INTERVAL, "--reply", "late"
    )
    client = fast.client()
    client.request("echo", b"x")
    mute.busy()
    mute.freeze()
    heir = fast.worker("echo")
    deadline = time.monotonic() + 10.0
    job = None
    while job is None and time.monotonic() < deadline:
        heir.heartbeat()
        if heir.socket.poll(100):
            octet, frames = heir._decode(heir.recv())
            job = (frames[0], frames[2:]) if octet == V01.request else None
    assert job is not None and job[1] == [b"x"]
    mute.thaw()
    client.quiet(1.0)
    heir.command(V01.reply, job[0], b"", b"heir")
    assert client.reply() == Reply(b"echo", [b"heir"])
    client.quiet()


def test_a_reply_to_a_vanished_client_costs_the_worker_nothing(broker):
    """It did its work: it is neither sent away nor passed over."""
    worker, client = broker.worker("echo"), broker.client()
    client.request("echo", b"x")
    job = worker.take()
    close_and_wait(broker, client)
    worker.answer(job, b"for nobody")
    worker.idle()
    other = broker.client()
    other.request("echo", b"y")
    assert worker.serve_one().body == [b"y"]
    assert other.reply().body == [b"y"]


def test_a_vanished_clients_request_is_not_redelivered(broker):
    """Nobody waits for it any more when its worker is lost."""
    victim, client = broker.worker("echo"), broker.client()
    client.request("echo", b"x")
    victim.take()
    close_and_wait(broker, client)
    heir = broker.idle_worker("echo")
    victim.close()
    broker.wait_workers("echo", 1)
    heir.idle()


def test_concurrency_n_requests_in_flight(broker):
    """READY with `concurrency=4`: four requests at once on a connection, the next after a reply."""
    worker, client = broker.worker("echo", "concurrency=4"), broker.client()
    for number in range(6):
        client.request("echo", b"%d" % number)
    jobs = [worker.take() for _ in range(4)]
    assert [job.body for job in jobs] == [[b"%d" % number] for number in range(4)]
    assert len({job.address for job in jobs}) == 4
    worker.idle()
    worker.answer(jobs[2], b"two")
    assert client.reply().body == [b"two"]
    jobs[2] = worker.take()
    assert jobs[2].body == [b"4"]
    worker.idle()
    for job in jobs:
        worker.answer(job, *job.body)
    worker.serve_one()
    assert sorted(client.reply().body[0] for _ in range(5)) == [b"0", b"1", b"3", b"4", b"5"]


def test_all_requests_of_a_lost_concurrent_worker_return_in_order(broker):
    victim, client = broker.worker("echo", "concurrency=4"), broker.client()
    for number in range(6):
        client.request("echo", b"%d" % number)
    for _ in range(4):
        victim.take()
    client.sync()
    victim.close()
    broker.wait_service("echo", waiting=6)
    heir = broker.worker("echo", "concurrency=6")
    jobs = [heir.take() for _ in range(6)]
    assert [job.body for job in jobs] == [[b"%d" % number] for number in range(6)]
    for job in jobs:
        heir.answer(job, b"done")
    assert [client.reply().body for _ in range(6)] == [[b"done"]] * 6


@pytest.mark.parametrize(
    "options",
    [
        ["labels=a,b"],
        ["concurrency=2", "later=1"],
        ["later=1", "", "concurrency=2"],
        [b"\xff\xfe\0binary", b"=", b"=="],
    ],
    ids=str,
)
def test_unknown_option_frames_are_ignored(broker, options):
    """They belong to a later version; those that are known count wherever they stand."""
    worker, client = broker.worker("echo", *options), broker.client()
    client.request("echo", b"1")
    client.request("echo", b"2")
    first = worker.take()
    if "concurrency=2" in options:
        worker.answer(worker.take(), b"2")
        assert client.reply().body == [b"2"]
        worker.answer(first, b"1")
    else:
        worker.idle()
        worker.answer(first, b"1")
        worker.serve_one()
    client.reply()


@pytest.mark.parametrize(
    "value", ["0", "-1", "", "x", "4x", "18446744073709551616", "1e3", "9" * 300]
)
def test_nonsense_concurrency_harms_nobody(broker, value):
    """Whether such a worker is sent away or serves one by one, nothing else suffers."""
    worker = broker.worker("odd", f"concurrency={value}")
    client = broker.client()
    client.request("odd", b"x")
    client.sync()
    if worker.socket.poll(200):
        octet, _ = worker._decode(worker.recv())
        assert octet in (V01.request, V01.disconnect)
    broker.check_serving()


def test_token_is_printable_and_distinct(broker):
    """What stands where 0.1 has the client's address: printable octets, no old UUID codec's `@`."""
    worker = broker.worker("echo")
    seen = set()
    for client in (broker.client(), broker.client(req=True), broker.client(V02)):
        for _ in range(3):
            client.request("echo", b"x")
            token = worker.serve_one().address
            client.reply()
            assert 1 <= len(token) <= 64, token
            assert all(0x21 <= octet <= 0x7E for octet in token), token
            assert not (token.startswith(b"@") and len(token) == 33), token
            seen.add(token)
    assert len(seen) == 9


def test_killing_workers_under_load_loses_nothing(broker):
    """kill -9 of two workers of four under load: each request has exactly one reply."""
    arguments = ("echo", "--busy", "0.002", "--option", "concurrency=4")
    workers = [broker.worker_process(*arguments) for _ in range(4)]
    client, count = broker.client(), 600
    for number in range(count):
        client.request("echo", b"%d" % number)
    replies = Counter()
    for turn in range(count):
        if turn in (50, 200):
            workers.pop().kill()
        replies[client.reply(timeout=10.0).body[0]] += 1
    assert replies == Counter(b"%d" % number for number in range(count))
    client.quiet(0.1)
    assert broker.metric("maitred_redeliveries_total") >= 2


def test_broker_killed_and_restarted_under_load(start):
    """kill -9 of the broker: retrying clients and reconnecting workers finish all their calls."""
    broker = start(FAST)
    for _ in range(3):
        broker.serve("echo", interval=FAST_INTERVAL)
    broker.wait_workers("echo", 3)
    done = []

    def calls(client):
        for number in range(40):
            body = b"%d-%d" % (client, number)
            answer = retrying_call(broker.context, broker.endpoint, "echo", body)
            assert answer == [body]
            done.append(body)
            time.sleep(0.01)

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(calls, client) for client in range(6)]
        wait_until(lambda: len(done) >= 60, "the load is under way", timeout=20.0)
        broker.kill()
        broker.restart()
        for each in running:
            each.result(timeout=40.0)
    assert len(done) == len(set(done)) == 240
