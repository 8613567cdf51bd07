"""Many connections, large bodies, long return stacks."""

import resource
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest
import zmq

from mdp import EMPTY, V01, V02, Reply
from process import wait_until
from rawpeer import RawPeer, greeting, ready

MIB = 1024 * 1024


@pytest.fixture
def many_files():
    """Room for the test's own end of the connections, once the broker was started without."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 6000, f"the hard limit of open files is {hard}: too low for 5,000 connections"

    def raise_it():
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    yield raise_it
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_5000_connections(start, many_files):
    """All at once, each with its own reply, from a broker that was started with 1,024 files."""
    count = 5000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    broker = start()
    many_files()
    for _ in range(2):
        broker.serve("echo")
    broker.wait_workers("echo", 2)
    idle_kib = broker.rss_kib()
    peers = []
    for _ in range(count):
        peer = broker.raw(handshake=False)
        # 3.0 peers are not pinged: this test answers at its own pace.
        peer.write(greeting(minor=0) + ready(b"REQ"))
        peers.append(peer)
    for peer in peers:
        peer.finish_handshake(20.0)
    wait_until(lambda: broker.metric("maitred_connections") >= count, "all are counted", 5.0, 0.1)
    assert broker.rss_kib() - idle_kib < count * 16
    for number, peer in enumerate(peers):
        peer.send(EMPTY, b"MDPC01", b"echo", b"%d" % number)
    for number, peer in enumerate(peers):
        assert peer.recv(20.0) == [EMPTY, b"MDPC01", b"echo", b"%d" % number]
    # Among all of them, a newcomer is served as ever.
    assert broker.client(req=True).call("echo", b"newcomer") == [b"newcomer"]
    for peer in peers:
        peer.close()
    wait_until(lambda: broker.metric("maitred_connections") < 100, "they are gone", 10.0, 0.1)
    broker.check_serving()


def test_a_storm_of_connections_is_let_in(start, many_files):
    """Thousands that reconnect at once do not wait for each other's lost SYNs, a second each."""
    many_files()
    broker = start()
    url = urlsplit(broker.endpoint)
    started = time.monotonic()
    for _ in range(3000):
        broker.own(socket.create_connection((url.hostname, url.port), timeout=5.0))
    assert time.monotonic() - started < 5.0


def test_1000_workers_of_libzmq(start, many_files):
    """A thousand idle workers, each of which gets exactly one of a thousand requests."""
    many_files()
    broker = start('[mdp]\nheartbeat = "10s"\n')
    count = 1000
    workers = [broker.worker("wide") for _ in range(count)]
    broker.wait_workers("wide", count, timeout=20.0)
    client = broker.client()
    for number in range(count):
        client.request("wide", b"%d" % number)
    for worker in workers:
        worker.serve_one(timeout=10.0)
    assert sorted(int(client.reply(timeout=10.0).body[0]) for _ in workers) == list(range(count))


@pytest.mark.parametrize(
    "client_dialect, req, worker_dialect",
    [
        (V01, True, V01),
        (V01, False, V02),
        (V02, False, V01),
    ],
    ids=["REQ-0.1", "DEALER-0.2", "0.2-0.1"],
)
def test_8_mb_bodies(broker, client_dialect, req, worker_dialect):
    """8 MiB there and back, alone and beside small and empty frames."""
    large = bytes(range(256)) * (8 * MIB // 256)
    client = broker.client(client_dialect, req=req)
    worker = broker.worker("echo", dialect=worker_dialect)
    for body in ([large], [b"head", large, EMPTY, large[::-1]]):
        client.request("echo", *body)
        job = worker.take(timeout=20.0)
        assert job.body == body
        worker.answer(job, *reversed(body))
        assert client.reply(timeout=20.0) == Reply(b"echo", body[::-1])


def test_many_8_mb_bodies_do_not_stay(broker):
    """What was delivered is not kept."""
    broker.serve("echo")
    client = broker.client()
    large = b"." * (8 * MIB)
    client.call("echo", large, timeout=20.0)
    before = broker.rss_kib()
    for _ in range(12):
        assert client.call("echo", large, timeout=20.0) == [large]
    assert broker.rss_kib() - before < 48 * 1024


class Proxy:
    """ROUTER in front, DEALER behind: what puts one more address on a request's return stack."""

    def __init__(self, context, behind):
        self.context, self.behind = context, behind
        self.front = context.socket(zmq.ROUTER)
        self.front.linger = 0
        self.endpoint = f"tcp://127.0.0.1:{self.front.bind_to_random_port('tcp://127.0.0.1')}"
        self.stopping = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        back = self.context.socket(zmq.DEALER)
        back.linger = 0
        back.connect(self.behind)
        poller = zmq.Poller()
        for end in (self.front, back):
            poller.register(end, zmq.POLLIN)
        while not self.stopping:
            for end, _ in poller.poll(50):
                other = back if end is self.front else self.front
                other.send_multipart(end.recv_multipart())
        back.close()
        self.front.close()

    def close(self):
        self.stopping = True
        self.thread.join(timeout=5.0)


@pytest.mark.parametrize("hops", [1, 2, 5])
def test_clients_behind_proxies(broker, hops):
    """Return stacks of several frames come back frame by frame, to the right one of the clients."""
    broker.serve("echo")
    endpoint = broker.endpoint
    for _ in range(hops):
        endpoint = broker.own(Proxy(broker.context, endpoint)).endpoint
    clients = [broker.client(endpoint=endpoint, req=number % 2 == 0) for number in range(4)]
    for turn in range(3):
        for number, client in enumerate(clients):
            client.request("echo", b"%d-%d" % (turn, number), EMPTY)
        for number, client in enumerate(clients):
            assert client.reply() == Reply(b"echo", [b"%d-%d" % (turn, number), EMPTY])
    # The broker's own answers find the way back as well.
    assert clients[0].call("mmi.service", "echo") == [b"200"]


@pytest.mark.parametrize(
    "stack",
    [
        [b"\0\1\2\3\4", b"x" * 255],
        [b"a"] * 8,
        [b"me", b"MDPW01"],
        [b"MDPW01"],
        [b"MDPC01", b"\x01"],
    ],
    ids=["binary", "eight", "header-second", "worker-header-first", "client-header-first"],
)
def test_return_stack_is_opaque(broker, stack):
    """Frames that look like headers or commands are addresses while they stand before the ∅."""
    worker = broker.worker("echo")
    peer = broker.peer()
    peer.send(*stack, EMPTY, b"MDPC01", b"echo", b"x")
    worker.serve_one()
    assert peer.recv() == [*stack, EMPTY, b"MDPC01", b"echo", b"x"]


def test_endless_return_stack(broker):
    """A stack beyond all reason is not served and harms nobody."""
    peer = broker.peer()
    peer.send(*[b"hop"] * 900, EMPTY, b"MDPC01", b"echo", b"x")
    broker.check_serving()


def test_req_correlate_and_relaxed(broker):
    """The modern REQ: its request id comes back, so replies to what it gave up are passed over."""
    client = broker.client(req=True, req_correlate=1, req_relaxed=1)
    client.request("echo", b"given up")
    client.request("echo", b"asked again")
    worker = broker.worker("echo")
    assert [worker.serve_one().body for _ in range(2)] == [[b"given up"], [b"asked again"]]
    assert client.reply() == Reply(b"echo", [b"asked again"])
    client.quiet()
    assert client.call("mmi.service", "echo") == [b"200"]


def test_many_services(broker):
    """Three hundred services of one worker each, all asked at once by one client."""
    count = 300
    workers = [broker.worker(f"service-{number}") for number in range(count)]
    client = broker.client()
    for number in range(count):
        client.request(f"service-{number}", b"%d" % number)
    for number, worker in enumerate(workers):
        assert worker.serve_one().body == [b"%d" % number]
    got = set()
    for _ in range(count):
        reply = client.reply()
        assert reply.service == b"service-" + reply.body[0]
        got.add(reply.body[0])
    assert len(got) == count


def test_many_clients_of_libzmq_pipelining(broker):
    """Fifty clients with fifty requests each in flight; each has its own, in its own order."""
    for _ in range(2):
        broker.serve("echo", options=["concurrency=16"])
    clients = [broker.client() for _ in range(50)]
    for number in range(50):
        for at, client in enumerate(clients):
            client.request("echo", b"%d-%d" % (at, number))
    for at, client in enumerate(clients):
        got = sorted(client.reply(timeout=20.0).body[0] for _ in range(50))
        assert got == sorted(b"%d-%d" % (at, number) for number in range(50))


def test_connections_that_come_and_go(broker):
    """Two thousand connections one after another leave nothing behind."""

    def visit():
        peer = RawPeer(broker.endpoint)
        peer.send(EMPTY, b"MDPW01", V01.ready, b"visitor")
        peer.send(EMPTY, b"MDPW01", V01.disconnect)
        peer.close()

    for _ in range(200):
        visit()
    before = broker.rss_kib()
    for _ in range(1800):
        visit()
    wait_until(lambda: broker.metric("maitred_connections") < 10, "they are gone", 10.0, 0.05)
    assert broker.workers("visitor") == 0
    assert broker.rss_kib() - before < 8 * 1024


def test_long_idle_broker_sleeps(broker):
    """With workers and clients connected and nothing to do, it uses next to no CPU."""
    for _ in range(50):
        broker.worker("echo")
    client = broker.client()
    client.sync()

    def ticks():
        with open(f"/proc/{broker.child.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(2.0)
    # A tick is 10 ms: at most 2 % of one core.
    assert ticks() - before <= 4
