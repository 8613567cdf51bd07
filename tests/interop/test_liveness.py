"""Who counts as alive: idle workers by what they say, busy ones by their connection."""

import time

import pytest

from broker import FAST, FAST_INTERVAL
from mdp import EMPTY, V01, Reply
from process import wait_until
from rawpeer import Closed, command, ping

# Well over three intervals of 200 ms.
LONG = 8 * FAST_INTERVAL


def raw_worker(broker, service, **keywords):
    """A registered worker over a hand-made connection."""
    before = broker.workers(service)
    worker = broker.raw(**keywords)
    worker.send(EMPTY, b"MDPW01", V01.ready, service.encode())
    broker.wait_workers(service, before + 1)
    return worker


def take(worker, timeout=5.0):
    """The address and body of the next REQUEST, heartbeats passed over."""
    deadline = time.monotonic() + timeout
    while True:
        frames = worker.recv(deadline - time.monotonic())
        assert frames[:2] == [EMPTY, b"MDPW01"], frames
        if frames[2] != V01.heartbeat:
            assert frames[2] == V01.request and frames[4] == EMPTY, frames
            return frames[3], frames[5:]


def test_a_beating_idle_worker_stays(fast):
    fast.serve("echo", interval=FAST_INTERVAL)
    fast.wait_workers("echo", 1)
    ends = time.monotonic() + LONG
    while time.monotonic() < ends:
        assert fast.workers("echo") == 1
        time.sleep(0.05)


def test_a_silent_idle_worker_leaves_after_its_time_not_before(start):
    """Liveness times the interval of silence, from its last word on."""
    broker = start('[mdp]\nheartbeat = "400ms"\nliveness = 3\n')
    worker = broker.worker("echo")
    spoken = time.monotonic()
    broker.wait_workers("echo", 1)
    broker.wait_workers("echo", 0, timeout=10.0)
    # A beat or two of grace; never before two whole intervals have passed.
    assert 0.8 <= time.monotonic() - spoken <= 4.0
    worker.heartbeat()
    worker.expect_disconnect()


def test_any_command_counts_as_a_sign_of_life(fast):
    """A worker that answers requests the whole time never has to beat."""
    worker, client = fast.idle_worker("echo"), fast.client()
    ends = time.monotonic() + LONG
    while time.monotonic() < ends:
        client.request("echo", b"x")
        worker.serve_one()
        client.reply()
        time.sleep(FAST_INTERVAL / 2)
    assert fast.workers("echo") == 1


def test_a_busy_silent_worker_keeps_its_request(fast):
    """An old worker says nothing while it works: its request stays its own all the while."""
    worker = fast.worker_process(
        "echo", "--busy", LONG, "--interval", FAST_INTERVAL, "--reply", "slow"
    )
    client = fast.client()
    client.request("echo", b"x")
    worker.busy()
    fast.serve("echo", lambda body: [b"stolen"], interval=FAST_INTERVAL)
    assert client.reply(timeout=LONG + 5.0) == Reply(b"echo", [b"slow"])
    assert fast.metric("maitred_redeliveries_total") == 0
    client.quiet()


def test_a_worker_is_counted_from_anew_when_it_has_answered(fast):
    """The long silence of its work is not held against it once it is idle again."""
    worker, client = fast.worker("echo"), fast.client()
    client.request("echo", b"x")
    job = worker.take()
    time.sleep(LONG)
    worker.answer(job, b"at last")
    assert client.reply().body == [b"at last"]
    for _ in range(3):
        worker.idle(FAST_INTERVAL)
        worker.heartbeat()
    assert fast.workers("echo") == 1


def test_a_frozen_busy_worker_is_found_by_its_missing_pong(fast):
    """SIGSTOP: TCP stays up, PONGs stop, the request moves on; the late reply goes nowhere."""
    frozen = fast.worker_process(
        "echo", "--busy", "1", "--interval", FAST_INTERVAL, "--reply", "late"
    )
    client = fast.client()
    client.request("echo", b"x")
    frozen.busy()
    frozen.freeze()
    heir = fast.serve("echo", lambda body: [b"heir"], interval=FAST_INTERVAL)
    assert client.reply(timeout=10.0) == Reply(b"echo", [b"heir"])
    assert fast.metric("maitred_redeliveries_total") == 1
    fast.wait_workers("echo", 1)
    frozen.thaw()
    client.quiet(1.0)
    # It starts a new conversation and works again.
    heir.close()
    fast.owned.remove(heir)
    fast.wait_workers("echo", 1, timeout=10.0)
    assert client.call("echo", b"y", timeout=10.0) == [b"late"]


def test_a_frozen_idle_worker_leaves(fast):
    frozen = fast.worker_process("echo", "--interval", FAST_INTERVAL)
    frozen.freeze()
    fast.wait_workers("echo", 0)
    client = fast.client()
    client.request("echo", b"x")
    client.sync()
    fast.worker("echo").serve_one(b"other")
    assert client.reply().body == [b"other"]


def test_a_frozen_client_costs_nobody_anything(fast):
    """A peer that stopped reading and answering is dropped; its queued requests are not run."""
    client = fast.raw(pongs=False)
    client.send(EMPTY, b"MDPC01", b"echo", b"x")
    fast.wait_service("echo", waiting=1)
    fast.wait_service("echo", waiting=0)
    client.wait_closed()
    worker = fast.idle_worker("echo")
    worker.idle()


def test_3_1_worker_that_never_pongs_loses_its_request(fast):
    """PING goes to a busy worker that announced 3.1; without any answer its lease ends."""
    mute = raw_worker(fast, "echo", pongs=False)
    client = fast.client()
    client.request("echo", b"x")
    take(mute)
    fast.serve("echo", lambda body: [b"heir"], interval=FAST_INTERVAL)
    assert client.reply(timeout=10.0).body == [b"heir"]
    mute.listen(0.1)
    assert mute.named(b"PING")


def test_3_1_worker_that_pongs_keeps_its_request(fast):
    """PONG alone is enough for a busy worker."""
    busy = raw_worker(fast, "echo")
    client = fast.client()
    client.request("echo", b"x")
    address, _ = take(busy)
    fast.serve("echo", lambda body: [b"stolen"], interval=FAST_INTERVAL)
    busy.listen(LONG)
    assert busy.named(b"PING")
    busy.send(EMPTY, b"MDPW01", V01.reply, address, EMPTY, b"mine")
    assert client.reply().body == [b"mine"]


def test_any_byte_counts_as_life_for_a_busy_worker(fast):
    """One that beats but never PONGs is alive."""
    busy = raw_worker(fast, "echo", pongs=False)
    client = fast.client()
    client.request("echo", b"x")
    address, _ = take(busy)
    fast.serve("echo", lambda body: [b"stolen"], interval=FAST_INTERVAL)
    ends = time.monotonic() + LONG
    while time.monotonic() < ends:
        busy.send(EMPTY, b"MDPW01", V01.heartbeat)
        busy.listen(FAST_INTERVAL / 2)
    busy.send(EMPTY, b"MDPW01", V01.reply, address, EMPTY, b"mine")
    assert client.reply().body == [b"mine"]


def test_3_0_worker_is_never_pinged_and_lives_by_its_connection(fast):
    """A 3.0 peer may close on PING, so it gets none; its busy silence ends with TCP only."""
    busy = raw_worker(fast, "echo", minor=0)
    client = fast.client()
    client.request("echo", b"x")
    take(busy)
    fast.serve("echo", lambda body: [b"heir"], interval=FAST_INTERVAL)
    busy.listen(LONG)
    client.quiet(0.05)
    assert not busy.named(b"PING")
    busy.close()
    assert client.reply(timeout=1.0).body == [b"heir"]


def test_3_0_client_is_never_pinged(fast):
    client = fast.raw(minor=0)
    client.listen(LONG)
    assert not client.named(b"PING")
    client.send(EMPTY, b"MDPC01", b"mmi.service", b"nobody")
    assert client.recv() == [EMPTY, b"MDPC01", b"mmi.service", b"404"]


@pytest.mark.parametrize(
    "context", [b"", b"x", b"sixteen octets!!"], ids=["none", "one", "sixteen"]
)
def test_ping_is_answered_with_its_context(broker, context):
    peer = broker.raw()
    peer.write(ping(0, context))
    peer.send(EMPTY, b"MDPC01", b"mmi.service", b"nobody")
    peer.recv()
    wait_until(lambda: peer.listen(0.05) or peer.named(b"PONG"), "a PONG", timeout=2.0)
    assert peer.named(b"PONG") == [context]


def test_ping_with_ttl_asks_to_be_given_up(broker):
    """After TTL without another word the broker lets the peer go, and with it what it had asked."""
    peer = broker.raw(pongs=False)
    peer.send(EMPTY, b"MDPC01", b"echo", b"x")
    peer.write(ping(10, b""))
    broker.wait_service("echo", waiting=1)
    peer.wait_closed(timeout=4.0)
    broker.wait_service("echo", waiting=0)


def test_libzmq_heartbeats_of_a_peer_are_answered(broker):
    """A peer that PINGs by itself and would hang up without PONG stays connected."""
    client = broker.client(heartbeat_ivl=100, heartbeat_timeout=300, heartbeat_ttl=1000)
    client.request("echo", b"x")
    client.sync()
    time.sleep(1.0)
    broker.worker("echo").serve_one(b"still here")
    assert client.reply().body == [b"still here"]


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_last_word_does_not_hide_the_end(broker, end):
    """Octets and the connection's end arrive in one moment: both are noticed there and then."""
    clients = [broker.raw() for _ in range(20)]
    with broker.child.frozen():
        for client in clients:
            client.send(EMPTY, b"MDPC01", b"echo", b"x")
            getattr(client, end)()
    broker.wait_metric("maitred_connections", 0, timeout=2.0)
    broker.wait_service("echo", waiting=0)
    broker.idle_worker("echo").idle()


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_busy_workers_last_word_does_not_hide_its_end(broker, end):
    """The same from a worker: its request goes on at once, not when PONGs are missed."""
    victim = raw_worker(broker, "echo")
    client = broker.client()
    client.request("echo", b"x")
    take(victim)
    heir = broker.idle_worker("echo")
    with broker.child.frozen():
        victim.send(EMPTY, b"MDPW01", V01.heartbeat)
        getattr(victim, end)()
    heir.serve_one(b"heir", timeout=1.0)
    assert client.reply() == Reply(b"echo", [b"heir"])


def test_the_old_lua_worker_is_not_starved(start):
    """It beats only when its poll of 5/6 of an interval runs out: the broker's beats leave room."""
    broker = start('[mdp]\nheartbeat = "600ms"\nliveness = 3\n')
    worker = broker.worker("echo")
    broker.wait_workers("echo", 1)
    ends = time.monotonic() + 4.5
    while time.monotonic() < ends:
        if worker.socket.poll(500):
            octet, _ = worker._decode(worker.recv())
            assert octet == V01.heartbeat
        else:
            worker.heartbeat()
    assert broker.workers("echo") == 1


def test_a_pong_nobody_asked_for_harms_nobody(broker):
    peer = broker.raw()
    peer.write(command(b"PONG", b"what") * 3)
    try:
        peer.send(EMPTY, b"MDPC01", b"mmi.service", b"nobody")
        assert peer.recv()[3] == b"404"
    except (Closed, OSError):
        pass
    broker.check_serving()


def test_clients_and_workers_survive_the_brokers_restart(start):
    """kill -9 of the broker: on the same port again, the same sockets go on being served."""
    broker = start(FAST)
    broker.serve("echo", interval=FAST_INTERVAL)
    client = broker.client()
    assert client.call("echo", b"before") == [b"before"]
    broker.kill()
    broker.restart()
    broker.wait_workers("echo", 1, timeout=10.0)
    wait_until(lambda: _called(client), "a reply on the old socket", timeout=10.0)


def _called(client):
    client.request("echo", b"after")
    return bool(client.socket.poll(500)) and client.reply().body == [b"after"]
