"""Peers that break every rule of the transport: each harms itself at most.

After each of them another client is served, and the broker's memory has not outgrown its limits.
"""

import random
import socket
import time

import pytest
import zmq

import rawpeer
from mdp import EMPTY, V01, Reply
from process import wait_until
from rawpeer import Closed, frame, frame_header, greeting, message, metadata, ready

MIB = 1024 * 1024
SMALL = '[limits]\nframe_bytes = "1MiB"\nmessage_bytes = "2MiB"\nframes = 64\nhandshake = "500ms"\n'
MMI = (EMPTY, b"MDPC01", b"mmi.service", b"nobody")
NOT_FOUND = [EMPTY, b"MDPC01", b"mmi.service", b"404"]


def flood(peer, octets, times):
    """Writes the same octets again and again, until the broker hangs up or reads no further."""
    try:
        for _ in range(times):
            peer.write(octets)
    except OSError:
        pass


@pytest.fixture
def watched(start):
    """A broker with small limits that must neither fall nor grow nor stop serving."""
    broker = start(SMALL)
    broker.check_serving()
    before = broker.rss_kib()
    yield broker
    broker.check_serving()
    grown = broker.rss_kib() - before
    assert grown < 32 * 1024, f"grew by {grown} KiB"


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 2**63 - 1, 2**62, 2**32, MIB + 1], ids=hex)
@pytest.mark.parametrize("kind", ["message", "more", "command"])
def test_frame_header_beyond_the_limit(watched, size, kind):
    """A length nobody may send: the connection ends on its head alone."""
    peer = watched.raw()
    peer.write(frame_header(size, more=kind == "more", command=kind == "command"))
    peer.wait_closed()


def test_promised_frames_reserve_no_memory(start):
    """Two hundred connections promise 60 MiB each and send nothing of it."""
    broker = start()
    before = broker.rss_kib()
    for _ in range(200):
        broker.raw().write(frame_header(60 * MIB))
    broker.check_serving()
    assert broker.rss_kib() - before < 48 * 1024


@pytest.mark.parametrize("chunk", [b"", b"x", b"x" * 60_000], ids=["empty", "tiny", "large"])
def test_endless_multipart(watched, chunk):
    """A message that never ends is cut at the limit of frames or of bytes."""
    peer = watched.raw()
    piece = frame(chunk, more=True)
    flood(peer, piece * max(1, 65_536 // len(piece)), 800)
    peer.wait_eof()


def test_a_message_just_within_the_limits_passes(start):
    """The bounds are bounds, not estimates."""
    broker = start(SMALL)
    worker, client = broker.worker("echo"), broker.client()
    for body in ([b"x" * MIB], [b"y"] * 58, [b"z" * (MIB - 64)] * 2):
        client.request("echo", *body)
        assert worker.serve_one(b"ok").body == body
        assert client.reply().body == [b"ok"]


@pytest.mark.parametrize(
    "body", [[b"x" * (MIB + 1)], [b"z" * MIB] * 3, [b"y"] * 80], ids=["frame", "message", "frames"]
)
def test_a_libzmq_client_beyond_the_limits_hurts_only_itself(watched, body):
    """Through libzmq, which sends it again on a new connection as long as it lives."""
    worker, client = watched.worker("echo"), watched.client()
    client.request("echo", *body)
    watched.check_serving()
    client.close()
    worker.idle()


def test_oversized_reply_of_a_worker(watched):
    """The worker is cut off, the request goes to another."""
    worker, client = watched.worker("echo"), watched.client()
    client.request("echo", b"x")
    worker.answer(worker.take(), b"x" * (MIB + 1))
    watched.worker("echo").serve_one(b"fits")
    assert client.reply() == Reply(b"echo", [b"fits"])


def test_half_greetings(watched):
    """Connections that stop anywhere in the greeting are closed at the handshake limit."""
    whole = greeting()
    peers = []
    for length in [0, 1, 9, 10, 11, 12, 32, 33, 63] * 8:
        peer = watched.raw(handshake=False)
        peer.write(whole[:length])
        peers.append(peer)
    for peer in peers:
        peer.wait_eof()


def test_handshake_that_never_ends(watched):
    """The greeting alone is not a handshake."""
    peer = watched.raw(handshake=False)
    peer.write(greeting())
    peer.wait_eof()


def test_slow_loris(watched):
    """One octet at a time does not stretch the limit."""
    peer = watched.raw(handshake=False)
    started = time.monotonic()
    try:
        for octet in greeting() + ready():
            peer.write(bytes([octet]))
            time.sleep(0.1)
            if time.monotonic() - started > 8.0:
                break
    except OSError:
        pass
    peer.wait_eof(1.0)
    assert time.monotonic() - started < 6.0


def test_slow_loris_by_commands(watched):
    """Nor do commands that are no READY."""
    peer = watched.raw(handshake=False)
    peer.write(greeting())
    started = time.monotonic()
    try:
        while time.monotonic() - started < 8.0:
            peer.write(rawpeer.ping())
            time.sleep(0.1)
    except OSError:
        pass
    peer.wait_eof(1.0)
    assert time.monotonic() - started < 6.0


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /v1/services/echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\nhello"
        + b"x" * 200,
        b"CONNECT\naccept-version:1.2\n\n\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
        b"SSH-2.0-probe\r\n",
        b"\x01\x00",
        b"\x01\x00\x00\x01x",
        b"\xff" + bytes(7) + b"\x01\x7f\x01\x05" + b"\x00\x00",
        b"\x00" * 4096,
        b"\xff" * 4096,
    ],
    ids=[
        "http-get",
        "http-post",
        "stomp",
        "tls",
        "ssh",
        "zmtp1",
        "zmtp1-message",
        "zmtp2",
        "zeros",
        "ones",
    ],
)
def test_another_protocol_on_the_port(watched, octets):
    """Whatever it is, it is closed at once or at the handshake limit; nothing is downgraded to."""
    peer = watched.raw(handshake=False)
    try:
        peer.write(octets)
    except OSError:
        pass
    peer.wait_eof()


@pytest.mark.parametrize("seed", range(6))
def test_garbage_after_the_handshake(watched, seed):
    """Random octets where frames belong, many times over."""
    dice = random.Random(seed)
    for _ in range(20):
        peer = watched.raw()
        flood(peer, dice.randbytes(dice.choice([1, 9, 100, 5000, 100_000])), 1)
        peer.close()


@pytest.mark.parametrize("seed", range(4))
def test_garbage_within_the_handshake(watched, seed):
    """A good greeting or a part of it, then random octets."""
    dice = random.Random(seed)
    for _ in range(20):
        peer = watched.raw(handshake=False)
        flood(peer, greeting()[: dice.choice([10, 11, 12, 64])] + dice.randbytes(500), 1)
        peer.close()


@pytest.mark.parametrize(
    "octets",
    [
        frame(b"", command=True),
        frame(b"\xff", command=True),
        frame(b"\x05READY", command=True),
        rawpeer.command(b"READY", b"\xff"),
        rawpeer.command(b"READY", b"\x0bSocket-Type\xff\xff\xff\xff"),
        rawpeer.command(b"READY", b"\x0bSocket-Type\x00\x00\x00\x06DEAL"),
        rawpeer.command(b"READY", metadata([(b"", b"")])),
        rawpeer.command(b"READY", metadata([(b"Identity", b"who")])),
        rawpeer.command(b"READY", metadata([(b"Socket-Type", b"NONSENSE")])),
        rawpeer.command(
            b"READY", metadata([(b"Socket-Type", b"DEALER"), (b"Identity", b"x" * 256)])
        ),
        rawpeer.command(b"ERROR", b"\x04oops"),
        rawpeer.command(b"ERROR", b"\xff"),
        rawpeer.command(b"HELLO", b"\x04user\x04pass"),
        rawpeer.command(b"READY", bytes(100_000), long=True),
        frame_header(2**63, command=True),
        frame(b"\x05READY" + bytes(10)),
        bytes([0xFF]) * 64,
    ],
    ids=lambda octets: octets[:24].hex(),
)
def test_wrong_handshakes(watched, octets):
    peer = watched.raw(handshake=False)
    peer.write(greeting())
    flood(peer, octets, 1)
    watched.check_serving()
    peer.close()


@pytest.mark.parametrize(
    "kind", [b"SUB", b"PUB", b"PUSH", b"PULL", b"PAIR", b"REP", b"XSUB", b"XPUB"]
)
def test_socket_types_that_do_not_fit(watched, kind):
    """Only REQ, DEALER and ROUTER can talk to the broker; others are told and closed."""
    peer = watched.raw(handshake=False)
    peer.write(greeting() + ready(kind))
    try:
        peer.finish_handshake()
    except (AssertionError, Closed):
        pass
    peer.wait_closed()


@pytest.mark.parametrize("kind", [b"REQ", b"DEALER", b"ROUTER"])
def test_socket_types_that_fit(broker, kind):
    peer = broker.raw(socket_type=kind)
    peer.send(*MMI)
    assert peer.recv() == NOT_FOUND


def test_sub_socket_of_libzmq(watched):
    """It connects, subscribes, and tries again for as long as it lives."""
    peer = watched.peer(zmq.SUB)
    peer.socket.setsockopt(zmq.SUBSCRIBE, b"")
    peer.quiet(0.5)


def test_plain_client_of_libzmq(watched):
    """A mechanism the listener does not offer: no way in, and no harm."""
    client = watched.client(plain_username=b"guest", plain_password=b"guest")
    client.request("mmi.service", "nobody")
    client.quiet(0.5)


@pytest.mark.parametrize(
    "mechanism", [b"PLAIN", b"CURVE", b"GSSAPI", b"", b"NULLX", b"null", b"x" * 20]
)
def test_other_mechanisms(watched, mechanism):
    peer = watched.raw(handshake=False)
    peer.write(greeting(mechanism=mechanism))
    peer.wait_eof()


@pytest.mark.parametrize("major, minor", [(3, 0), (3, 1), (3, 2), (3, 200), (4, 0)])
def test_later_versions_are_spoken_to_in_ours(broker, major, minor):
    peer = broker.raw(handshake=False)
    peer.write(greeting(major=major, minor=minor) + ready())
    peer.finish_handshake()
    peer.send(*MMI)
    assert peer.recv() == NOT_FOUND


@pytest.mark.parametrize("step", [1, 3, 11, 64])
def test_any_fragmentation(broker, step):
    """Greeting, handshake and message in pieces of any size."""
    peer = broker.raw(handshake=False)
    octets = greeting() + ready(identity=b"pieces") + message(*MMI)
    for at in range(0, len(octets), step):
        peer.write(octets[at : at + step])
        time.sleep(0.001)
    peer.finish_handshake()
    assert peer.recv() == NOT_FOUND


def test_everything_in_one_segment(broker):
    """Requests sent before the broker's greeting was read are served."""
    peer = broker.raw(handshake=False)
    peer.write(greeting() + ready() + message(*MMI) * 3)
    peer.finish_handshake()
    assert [peer.recv() for _ in range(3)] == [NOT_FOUND] * 3


def test_legal_oddities_of_framing(broker):
    """Long form for short frames, commands between the frames of a message, names in any case."""
    peer = broker.raw(handshake=False)
    properties = [(b"socket-TYPE", b"DEALER"), (b"X-Anything", b"y" * 300)]
    peer.write(greeting() + rawpeer.command(b"READY", metadata(properties), long=True))
    peer.finish_handshake()
    first, *rest = MMI
    peer.write(frame(first, more=True, long=True) + rawpeer.ping(0, b"in between"))
    peer.write(rawpeer.command(b"UNHEARD", b"of") + message(*rest))
    assert peer.recv() == NOT_FOUND
    wait_until(lambda: peer.listen(0.05) or peer.named(b"PONG"), "a PONG", timeout=2.0)
    assert peer.named(b"PONG") == [b"in between"]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_connection_cut_within_a_message(watched, cut):
    """What was not sent whole was not sent."""
    worker = watched.idle_worker("echo")
    peer = watched.raw()
    octets = message(EMPTY, b"MDPC01", b"echo", b"x" * 100)
    peer.write(octets[:-cut])
    peer.close()
    worker.idle()


def test_connections_reset(watched):
    """RST instead of FIN, in every state of a connection."""
    for number in range(60):
        peer = watched.raw(handshake=number % 3 > 0)
        if number % 3 == 2:
            peer.send(EMPTY, b"MDPC01", b"echo", b"x")
        peer.reset()
    watched.check_serving()
    watched.wait_service("echo", waiting=0)


def test_two_clients_of_one_announced_id(broker):
    """Duplicate routing ids are two peers; neither takes the other's replies."""
    worker = broker.worker("echo")
    one, two = (broker.client(routing_id=b"same") for _ in range(2))
    for body in (b"1", b"2"):
        one.request("echo", b"one", body)
        two.request("echo", b"two", body)
    for _ in range(4):
        worker.serve_one()
    for client, name in ((one, b"one"), (two, b"two")):
        assert [client.reply().body for _ in range(2)] == [[name, b"1"], [name, b"2"]]
    one.close()
    two.request("echo", b"two", b"alone")
    worker.serve_one()
    assert two.reply().body == [b"two", b"alone"]


def test_two_workers_of_one_announced_id(broker):
    """As the old C++ examples have it: both serve, and one's leaving is not the other's."""
    one = broker.idle_worker("echo", routing_id=b"D716-64F6")
    two = broker.idle_worker("echo", routing_id=b"D716-64F6")
    client = broker.client(routing_id=b"D716-64F6")
    client.request("echo", b"1")
    client.request("echo", b"2")
    one.serve_one(b"one")
    two.serve_one(b"two")
    assert [client.reply().body for _ in range(2)] == [[b"one"], [b"two"]]
    one.close()
    broker.wait_workers("echo", 1)
    client.request("echo", b"3")
    two.serve_one(b"two")
    assert client.reply().body == [b"two"]


@pytest.mark.parametrize(
    "name", [b"n" * 255, b"\xff\xfe\x80", "größe", b"a b/c?d=e", b"\n", b'"\\']
)
def test_any_octets_make_a_service_name(broker, name):
    worker, client = broker.worker(name), broker.client()
    client.request(name, b"x")
    worker.serve_one()
    assert client.reply().body == [b"x"]
    assert broker.mmi("mmi.service", name) == [b"200"]
    # Nor do they spoil what the broker says about itself.
    assert len(broker.get("/v1/services").json()["services"]) == 1
    assert broker.get("/metrics").body.endswith(b"# EOF\n")


def test_names_beyond_255_octets(watched):
    """Refused or served, they harm nobody."""
    for length in (256, 1000, 100_000):
        watched.worker(b"n" * length)
        watched.client().request(b"n" * length, b"x")
    watched.check_serving()


def test_many_service_names_of_one_client(start):
    """Thousands of names that nobody serves go with their client, once idle for long enough."""
    broker = start('[limits]\nservice_idle = "500ms"\n')
    client = broker.client()
    for number in range(5000):
        client.request(b"name-%d" % number, b"x")
    client.sync()
    broker.wait_metric("maitred_queue_length", 5000)
    client.close()
    broker.wait_metric("maitred_queue_length", 0)
    wait_until(lambda: broker.get("/v1/services").json()["services"] == [], "none left", 10.0, 0.1)


def test_a_flooding_client_that_never_reads(start):
    """Its replies are its own burden: memory stays bounded and others are served all the while."""
    broker = start('[limits]\nout_bytes = "4MiB"\n[defaults]\nqueue_bytes = "16MiB"\n')
    broker.serve("echo")
    broker.wait_workers("echo", 1)
    before = broker.rss_kib()
    glutton = broker.raw(timeout=1.0)
    glutton.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    flood(glutton, message(EMPTY, b"MDPC01", b"echo", b"x" * 65_536), 1500)
    other = broker.client()
    for _ in range(20):
        assert other.call("echo", b"me too") == [b"me too"]
    assert broker.rss_kib("VmHWM") - before < 64 * 1024
    glutton.close()
    broker.check_serving()


def test_a_worker_that_never_reads(start):
    """It is given requests up to its bound, then up: they go to a worker that reads."""
    broker = start('[mdp]\nheartbeat = "500ms"\n[limits]\nout_bytes = "4MiB"\n')
    deaf = broker.raw()
    deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.send(EMPTY, b"MDPW01", V01.ready, b"echo", b"concurrency=1000")
    broker.wait_workers("echo", 1)
    client, count = broker.client(), 300
    for number in range(count):
        client.request("echo", b"%d" % number, b"x" * 65_536)
    # By the bound, or by the PONGs it does not send.
    broker.wait_workers("echo", 0, timeout=10.0)
    broker.serve("echo", lambda body: body[:1], interval=0.5)
    replies = sorted(int(client.reply(timeout=10.0).body[0]) for _ in range(count))
    assert replies == list(range(count))


def test_disconnect_storm_is_damped(broker):
    """A worker that asks for a reserved name over and over, at once on each DISCONNECT."""
    ends = time.monotonic() + 2.0
    told = 0
    while (left := ends - time.monotonic()) > 0:
        worker = broker.worker("mmi.mine")
        if worker.socket.poll(round(left * 1000)):
            worker.expect_disconnect()
            told += 1
        worker.close()
        broker.owned.remove(worker)
    assert 1 <= told < 50, told
    broker.check_serving()


def test_one_disconnect_per_conversation(broker):
    """A thousand wrong commands on one connection earn one DISCONNECT, then silence."""
    worker = broker.raw()
    for _ in range(1000):
        try:
            worker.send(EMPTY, b"MDPW01", V01.heartbeat)
        except OSError:
            break
    told = worker.listen(1.0)
    assert told == [[EMPTY, b"MDPW01", V01.disconnect]], told[:3]
    broker.check_serving()


def test_connection_limit(start):
    """One more than allowed does not get in; when one leaves there is room again."""
    broker = start("[limits]\nconnections = 10\n")
    peers = [broker.raw() for _ in range(10)]
    with pytest.raises((Closed, OSError)):
        broker.raw(timeout=1.0)
    peers[0].send(*MMI)
    assert peers[0].recv() == NOT_FOUND

    def let_in():
        try:
            peer = broker.raw(timeout=1.0)
            peer.send(*MMI)
            return peer.recv(1.0) == NOT_FOUND
        except (Closed, OSError):
            return False

    peers.pop().close()
    wait_until(let_in, "room for another connection")


def test_queue_bound_holds_back_instead_of_dropping(start):
    """0.1 clients beyond the bound are read no further until there is room; then all is served."""
    broker = start("[defaults]\nqueue_max = 10\n")
    clients, count = [broker.client() for _ in range(3)], 200
    for at, client in enumerate(clients):
        for number in range(count):
            client.request("echo", b"%d-%d" % (at, number))
    broker.wait_service("echo", waiting=10)
    # Others, and other services, are not held up by it.
    assert broker.mmi("mmi.service", "echo") == [b"404"]
    broker.check_serving()
    worker = broker.worker("echo")
    for _ in range(count * len(clients)):
        worker.serve_one()
    for at, client in enumerate(clients):
        replies = [client.reply().body for _ in range(count)]
        assert replies == [[b"%d-%d" % (at, number)] for number in range(count)]
    assert broker.metric("maitred_refusals_total") == 0


@pytest.mark.parametrize("end", ["close", "reset"])
def test_the_end_of_a_connection_that_is_held_back_is_noticed(start, end):
    """At a full line nothing is read, and yet who is gone is gone: nobody works for it."""
    broker = start('[services."echo"]\nqueue_max = 1\n')
    first = broker.client()
    first.request("echo", b"first")
    broker.wait_service("echo", waiting=1)
    held_back = [broker.raw() for _ in range(20)]
    for at, peer in enumerate(held_back):
        peer.send(EMPTY, b"MDPC01", b"echo", b"%d" % at)
        peer.send(EMPTY, b"MDPC01", b"echo", b"%d again" % at)
    last = broker.raw()
    broker.wait_metric("maitred_connections", 22)
    last.send(EMPTY, b"MDPC01", b"echo", b"last")
    time.sleep(0.1)
    for peer in held_back:
        getattr(peer, end)()
    broker.wait_metric("maitred_connections", 2)
    worker = broker.worker("echo")
    assert [worker.serve_one().body for _ in range(2)] == [[b"first"], [b"last"]]
    worker.idle()


def test_queued_bytes_are_bounded_too(start):
    broker = start('[defaults]\nqueue_bytes = "4MiB"\n')
    before = broker.rss_kib()
    client = broker.client()
    for _ in range(400):
        client.request("echo", b"x" * 100_000)
    broker.check_serving()
    entry = broker.service("echo")
    assert 1 <= entry["waiting"] <= 45, entry
    assert broker.rss_kib() - before < 32 * 1024
    worker = broker.worker("echo")
    for _ in range(400):
        worker.serve_one(b"ok")
    assert [client.reply().body for _ in range(400)] == [[b"ok"]] * 400


def test_give_up_drops_what_nobody_serves(start):
    """`give_up`: a request that found no worker in time is refused and never run."""
    broker = start('[services."rare"]\ngive_up = "300ms"\n')
    client = broker.client()
    client.request("rare", b"x")
    client.request("usual", b"x")
    broker.wait_service("rare", waiting=1)
    broker.wait_service("rare", waiting=0)
    worker = broker.idle_worker("rare")
    worker.idle()
    assert broker.metric("maitred_refusals_total") == 1
    # Nobody told the other service to give up.
    broker.worker("usual").serve_one()
    assert client.reply() == Reply(b"usual", [b"x"])
