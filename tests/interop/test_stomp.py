"""STOMP: stomp.py in 1.0, 1.1 and 1.2, and stompman, with Majordomo and HTTP on the other side."""

import asyncio
import queue
import socket
import threading
import time

import pytest
import stomp
import stompman

from mdp import Reply
from process import wait_until

VERSIONS = {"1.0": stomp.Connection10, "1.1": stomp.Connection11, "1.2": stomp.Connection12}
every_version = pytest.mark.parametrize("version", VERSIONS)
PATIENCE = 10.0


class Peer(stomp.ConnectionListener):
    """One stomp.py connection that keeps what it hears."""

    def __init__(self, address, version="1.2", *, login=None, passcode=None, **options):
        self.messages, self.receipts, self.errors = queue.Queue(), queue.Queue(), queue.Queue()
        self.gone = False
        self.version = version
        self.beats = 0
        options.setdefault("reconnect_attempts_max", 1)
        self.connection = VERSIONS[version]([address], **options)
        self.connection.set_listener("kept", self)
        self.connection.connect(login, passcode, wait=True)

    def on_message(self, frame):
        self.messages.put((frame.headers, frame.body))

    def on_receipt(self, frame):
        self.receipts.put(frame.headers["receipt-id"])

    def on_error(self, frame):
        self.errors.put((frame.headers, frame.body))

    def on_disconnected(self):
        self.gone = True

    def on_heartbeat(self):
        self.beats += 1

    def subscribe(self, destination, ack="auto", **headers):
        """Subscribed once this returns."""
        self.connection.subscribe(destination, id="1", ack=ack, headers=headers | {"receipt": "s"})
        assert self.receipt() == "s"
        return self

    def send(self, destination, body, **headers):
        self.connection.send(destination, body, headers=headers)

    def ack(self, headers, *, nack=False):
        name = headers["message-id"] if self.version != "1.2" else headers["ack"]
        say = self.connection.nack if nack else self.connection.ack
        say(name) if self.version != "1.1" else say(name, headers["subscription"])

    def message(self):
        return self.messages.get(timeout=PATIENCE)

    def receipt(self):
        return self.receipts.get(timeout=PATIENCE)

    def error(self):
        return self.errors.get(timeout=PATIENCE)

    def is_silent(self):
        time.sleep(0.2)
        return self.messages.empty()

    def close(self):
        try:
            self.connection.disconnect()
        except (stomp.exception.StompException, OSError):
            pass  # the broker was faster

    def drop(self):
        """The peer is lost, without a word."""
        self.connection.transport.socket.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: self.gone, "the connection ended")


@pytest.fixture
def connect(broker):
    def connect_one(version="1.2", **options):
        return broker.own(Peer(broker.stomp_address, version, **options))

    return connect_one


@every_version
def test_a_client_calls_a_majordomo_worker(broker, connect, version):
    client = connect(version)
    worker = broker.worker("upper")
    broker.wait_workers("upper", 1)
    client.subscribe("/temp-queue/answers")
    client.send("/service/upper", "hello", **{"reply-to": "/temp-queue/answers", "correlation-id": "7"})
    job = worker.take()
    assert job.body == [b"hello"]
    worker.answer(job, b"HELLO")
    headers, body = client.message()
    assert (body, headers["correlation-id"], headers["status"]) == ("HELLO", "7", "200")
    assert headers["destination"] == "/temp-queue/answers"


@every_version
def test_a_worker_serves_majordomo_and_http(broker, connect, version):
    worker = connect(version).subscribe("/service/upper", ack="client")
    client = broker.client()
    client.request("upper", b"from mdp")
    headers, body = worker.message()
    assert body == "from mdp"
    worker.send(headers["reply-to"], "FROM MDP")
    worker.ack(headers)
    assert client.reply(timeout=PATIENCE) == Reply(b"upper", [b"FROM MDP"])
    asked = connect()
    asked.send("/service/upper", "ä", **{"reply-to": "/temp-queue/x", "kind": "a:b"})
    headers, body = worker.message()
    assert (body, headers["kind"]) == ("ä", "a:b")
    worker.send(headers["reply-to"], "Ä")
    assert asked.message()[1] == "Ä"
    (shown,) = broker.get("/v1/workers").json()["workers"]
    assert (shown["protocol"], shown["service"]) == (f"stomp/{version}", "upper")


def test_a_lost_worker_loses_no_request(broker, connect):
    worker = connect().subscribe("/service/echo")
    client = connect()
    client.send("/service/echo", "precious", **{"reply-to": "/temp-queue/x"})
    assert worker.message()[1] == "precious"
    worker.drop()
    other = connect("1.1").subscribe("/service/echo")
    headers, body = other.message()
    assert (body, headers["redelivered"]) == ("precious", "true")
    other.send(headers["reply-to"], "saved")
    assert client.message()[1] == "saved"


def test_what_is_refused_says_why(start):
    broker = start('[services.narrow]\ngive_up = "100ms"\n')
    client = broker.own(Peer(broker.stomp_address))
    client.send("/service/narrow", "x", **{"reply-to": "/temp-queue/x", "correlation-id": "k"})
    headers, body = client.message()
    assert (headers["status"], headers["reason"], body) == ("503", "expired", "")
    assert headers["correlation-id"] == "k"


@every_version
def test_a_queue_keeps_and_redelivers(broker, connect, version):
    producer = connect(version)
    for i in range(3):
        producer.send("/queue/jobs", f"job {i}", receipt=str(i))
    assert [producer.receipt() for _ in range(3)] == ["0", "1", "2"]
    producer.close()
    taker = connect(version).subscribe("/queue/jobs", ack="client")
    taken = [taker.message() for _ in range(3)]
    assert [body for _, body in taken] == ["job 0", "job 1", "job 2"]
    taker.ack(taken[1][0])
    broker.wait_service("/queue/jobs", replies=2)
    taker.drop()
    other = connect(version).subscribe("/queue/jobs", ack="client")
    headers, body = other.message()
    assert (body, headers["redelivered"]) == ("job 2", "true")
    other.ack(headers)
    broker.wait_service("/queue/jobs", replies=3)


def test_a_queue_is_shared_fairly_and_prefetch_counts(connect):
    one = connect().subscribe("/queue/q", ack="client-individual", prefetch="1")
    two = connect().subscribe("/queue/q", ack="client-individual", prefetch="1")
    producer = connect()
    for i in range(4):
        producer.send("/queue/q", str(i))
    first, second = one.message(), two.message()
    assert {first[1], second[1]} == {"0", "1"}
    assert one.is_silent() and two.is_silent()
    one.ack(first[0])
    assert one.message()[1] == "2"
    two.ack(second[0], nack=True)
    assert two.message()[1] == second[1]


def test_a_topic_reaches_everybody_in_every_version(connect):
    listeners = [connect(version).subscribe("/topic/news.*") for version in VERSIONS]
    other = connect().subscribe("/topic/weather")
    connect("1.0").send("/topic/news.local", "extra", note="read")
    for listener in listeners:
        headers, body = listener.message()
        assert (body, headers["note"], headers["destination"]) == ("extra", "read", "/topic/news.local")
    assert other.is_silent()


def test_large_bodies_both_ways(connect):
    worker = connect().subscribe("/service/big")
    client = connect()
    body = "x" * 3_000_000
    client.send("/service/big", body, **{"reply-to": "/temp-queue/x"})
    headers, got = worker.message()
    assert got == body
    worker.send(headers["reply-to"], got + "y")
    assert client.message()[1] == body + "y"


def test_an_error_closes_and_names_the_receipt(connect):
    peer = connect()
    peer.send("/nowhere/x", "lost", receipt="9")
    headers, body = peer.error()
    assert (headers["receipt-id"], headers["error-code"]) == ("9", "bad_destination")
    assert "/service/NAME" in body
    wait_until(lambda: peer.gone, "the connection ended")


def test_persistent_messages_are_refused_until_they_can_be_kept(connect):
    peer = connect()
    peer.send("/queue/q", "x", persistent="true")
    assert peer.error()[0]["error-code"] == "not_supported"


def test_beats_keep_a_connection_and_silence_ends_it(broker, connect):
    peer = connect(heartbeats=(600, 600))
    mute = socket.create_connection(broker.stomp_address)
    broker.own(mute)
    mute.sendall(b"CONNECT\naccept-version:1.2\nheart-beat:500,500\n\n\0")
    mute.settimeout(PATIENCE)
    heard = b""
    while chunk := mute.recv(4096):
        heard += chunk
    assert heard.startswith(b"CONNECTED\nversion:1.2\nheart-beat:500,500\n")
    assert heard.endswith(b"\n\0\n") or heard.endswith(b"\n\n")
    wait_until(lambda: peer.beats >= 3, "beats come")
    peer.subscribe("/topic/x")
    assert not peer.gone


def test_a_login_counts_where_there_are_users(start, tmp_path):
    (tmp_path / "bea").write_text("a cup of tea\n")
    (tmp_path / "bea").chmod(0o600)
    broker = start(
        f'[stomp]\nmechanism = "plain"\n[principals.bea]\npassword_file = "{tmp_path / "bea"}"\n'
        'call = ["echo"]\nserve = ["echo"]\n'
    )
    bea = broker.own(Peer(broker.stomp_address, login="bea", passcode="a cup of tea"))
    bea.subscribe("/service/echo")
    bea.send("/service/other", "x")
    assert bea.error()[0]["error-code"] == "denied"
    for login in (("bea", "three"), ("guest", "guest"), (None, None)):
        with pytest.raises(stomp.exception.ConnectFailedException):
            Peer(broker.stomp_address, login=login[0], passcode=login[1])


def test_any_login_and_host_come_in_where_there_are_no_users(connect):
    peer = connect(login="guest", passcode="guest", vhost="somewhere-else")
    assert peer.subscribe("/queue/x").connection.is_connected()


def test_stompman_serves_and_shares_a_queue(broker):
    """Another library: asyncio, beats every second, an ACK after each message, also after an answer."""
    host, port = broker.stomp_address
    answers = []

    def call():
        broker.wait_workers("upper", 1)
        answers.extend(broker.post("upper", b"%d hello" % i).body for i in range(5))

    async def talk():
        got, done = [], asyncio.Event()
        server = stompman.ConnectionParameters(host=host, port=port, login="any", passcode="thing")
        async with stompman.Client(servers=[server]) as client:

            async def serve(frame):
                await client.send(frame.body.upper(), frame.headers["reply-to"])

            async def take(frame):
                got.append(frame.body)
                if len(got) == 20:
                    done.set()

            def never(error, frame):
                raise AssertionError(error)

            subscriptions = [
                await client.subscribe(destination, handler, on_suppressed_exception=never)
                for destination, handler in (("/service/upper", serve), ("/queue/many", take))
            ]
            caller = threading.Thread(target=call)
            caller.start()
            for i in range(20):
                await client.send(b"%d" % i, "/queue/many")
            await asyncio.wait_for(done.wait(), PATIENCE)
            await asyncio.to_thread(caller.join, PATIENCE)
            for subscription in subscriptions:
                await subscription.unsubscribe()
        return got

    assert asyncio.run(talk()) == [b"%d" % i for i in range(20)]
    assert answers == [b"%d HELLO" % i for i in range(5)]
    broker.wait_service("/queue/many", replies=20, workers=0)


def test_last_words_reach_who_is_still_talking(broker):
    """A body that is too large is refused with its head; its sender hears why all the same."""
    for _ in range(5):
        with socket.create_connection(broker.stomp_address) as talker:
            talker.settimeout(PATIENCE)
            talker.sendall(b"CONNECT\n\n\0SEND\nreceipt:1\ncontent-length:99999999\n\n")
            talker.sendall(b"x" * 5_000_000)
            heard = b""
            while chunk := talker.recv(4096):
                heard += chunk
            assert b"ERROR\nreceipt-id:1\nmessage:body_too_large\n" in heard


def test_hostile_bytes_end_only_their_own_connection(broker, connect):
    peer = connect().subscribe("/service/echo")
    for bytes_ in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"CONNECT\naccept-version:1.2\n\n\0SEND\ncontent-length:99999999999\n\n",
        b"CONNECT\n\n\0" + b"SEND\n" + b"a:b\n" * 2000,
        b"\xff\x00" * 50,
        b"CONNECT\naccept-version:1.2\n\n\0SEND\ndestination:/queue/a\nx:\\t\n\n\0",
    ):
        with socket.create_connection(broker.stomp_address) as hostile:
            hostile.settimeout(PATIENCE)
            hostile.sendall(bytes_)
            heard = b""
            while chunk := hostile.recv(4096):
                heard += chunk
            assert b"ERROR\n" in heard, bytes_
    client = broker.client()
    client.request("echo", b"still there")
    assert peer.message()[1] == "still there"
