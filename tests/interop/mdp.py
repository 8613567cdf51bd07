"""Majordomo peers over libzmq, in every dialect that is out there, written from the protocol texts.

Frames are named as on the wire: `delimiter` is the empty frame that a REQ socket hides. Nothing
here knows the broker under test.
"""

import random
import threading
import time
from dataclasses import dataclass

import zmq

EMPTY = b""


@dataclass(frozen=True)
class Dialect:
    """One way of speaking Majordomo. `service_frame`: client replies name the service."""

    client: bytes
    worker: bytes
    ready: bytes
    request: bytes
    reply: bytes
    heartbeat: bytes
    disconnect: bytes
    delimiter: bool
    partial: bytes | None = None
    service_frame: bool = True

    @property
    def v2(self):
        return self.partial is not None

    def envelope(self, *frames):
        return [EMPTY, *frames] if self.delimiter else list(frames)


V01 = Dialect(b"MDPC01", b"MDPW01", b"\x01", b"\x02", b"\x03", b"\x04", b"\x05", True)
_V02 = (b"MDPC02", b"MDPW02", b"\x01", b"\x02", b"\x04", b"\x05", b"\x06")
V02 = Dialect(*_V02, False, partial=b"\x03")
# 0.2 as peers speak it that kept the empty delimiter of 0.1.
V02_DELIMITED = Dialect(*_V02, True, partial=b"\x03")
# The dialect of the PyPI package majortomo: delimiter kept, replies to clients without a service.
V02_MAJORTOMO = Dialect(*_V02, True, partial=b"\x03", service_frame=False)

CLIENT_REQUEST, CLIENT_PARTIAL, CLIENT_FINAL = b"\x01", b"\x02", b"\x03"


@dataclass(frozen=True)
class Reply:
    """What a client got: `final` is false for a partial reply of 0.2 only."""

    service: bytes | None
    body: list
    final: bool = True


@dataclass(frozen=True)
class Job:
    """What a worker got: the broker's token and the request's body."""

    address: bytes
    body: list


class Disconnected(AssertionError):
    """The broker said DISCONNECT where the test awaited something else."""


class Peer:
    """One libzmq socket. Every wait is bounded and says what it waited for."""

    def __init__(self, context, endpoint, kind=zmq.DEALER, **options):
        self.socket = context.socket(kind)
        self.socket.linger = 0
        # The tests look for the broker's losses: libzmq's own high-water mark must cause none.
        self.socket.set_hwm(0)
        for name, value in options.items():
            setattr(self.socket, name, value)
        self.socket.connect(endpoint)

    def send(self, *frames):
        self.socket.send_multipart(frames)

    def recv(self, timeout=5.0, what="a message"):
        if not self.socket.poll(max(0, round(timeout * 1000))):
            raise AssertionError(f"{what} did not come in {timeout} s")
        return self.socket.recv_multipart()

    def quiet(self, seconds=0.3):
        """Nothing at all arrives for so long."""
        if self.socket.poll(round(seconds * 1000)):
            raise AssertionError(f"unexpected: {self.socket.recv_multipart()[:8]!r}")

    def close(self, linger=0):
        if not self.socket.closed:
            self.socket.close(linger)


class Client(Peer):
    """A client of either version. `req=True` is a REQ socket, which keeps the delimiter itself."""

    def __init__(self, context, endpoint, dialect=V01, *, req=False, **options):
        super().__init__(context, endpoint, zmq.REQ if req else zmq.DEALER, **options)
        self.dialect = dialect
        self.hidden = req

    def request(self, service, *body):
        command = [CLIENT_REQUEST] if self.dialect.v2 else []
        frames = [self.dialect.client, *command, as_bytes(service), *map(as_bytes, body)]
        self.send(*(frames if self.hidden else self.dialect.envelope(*frames)))

    def reply(self, timeout=5.0):
        frames = self.recv(timeout, "a reply")
        if self.dialect.delimiter and not self.hidden:
            assert frames[:1] == [EMPTY], f"no delimiter: {frames[:6]!r}"
            frames = frames[1:]
        assert frames[:1] == [self.dialect.client], f"wrong header: {frames[:6]!r}"
        final = True
        if self.dialect.v2:
            assert frames[1] in (CLIENT_PARTIAL, CLIENT_FINAL), frames[:6]
            final = frames[1] == CLIENT_FINAL
            frames = frames[1:]
        if not self.dialect.service_frame:
            return Reply(None, frames[1:], final)
        assert len(frames) >= 2, f"no service: {frames!r}"
        return Reply(frames[1], frames[2:], final)

    def call(self, service, *body, timeout=5.0):
        """One round trip: gives the reply's body; the reply must name the service asked for."""
        self.request(service, *body)
        reply = self.reply(timeout)
        assert reply.final, reply
        assert reply.service in (None, as_bytes(service)), reply
        return reply.body

    def sync(self, timeout=5.0):
        """Once this is answered, whatever the connection sent before has been taken in as well."""
        return self.call("mmi.heartbeat", b"", timeout=timeout)


class Worker(Peer):
    """A worker whose every step the test takes by hand, so that it can take wrong ones."""

    def __init__(self, context, endpoint, dialect=V01, **options):
        super().__init__(context, endpoint, zmq.DEALER, **options)
        self.dialect = dialect
        self.heartbeats = 0

    def command(self, octet, *frames):
        self.send(*self.dialect.envelope(self.dialect.worker, octet, *frames))

    def ready(self, service, *options):
        self.command(self.dialect.ready, as_bytes(service), *map(as_bytes, options))
        return self

    def answer(self, job, *body):
        self.command(self.dialect.reply, job.address, EMPTY, *map(as_bytes, body))

    def partial(self, job, *body):
        self.command(self.dialect.partial, job.address, EMPTY, *map(as_bytes, body))

    def heartbeat(self):
        self.command(self.dialect.heartbeat)

    def disconnect(self):
        self.command(self.dialect.disconnect)

    def next(self, timeout=5.0, what="a command"):
        """The next command that is no HEARTBEAT, as (octet, frames)."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            octet, frames = self._decode(self.recv(max(0.0, left), f"{what} for a worker"))
            if octet != self.dialect.heartbeat:
                return octet, frames
            self.heartbeats += 1

    def take(self, timeout=5.0):
        octet, frames = self.next(timeout, "a REQUEST")
        if octet == self.dialect.disconnect:
            raise Disconnected("DISCONNECT instead of a REQUEST")
        assert octet == self.dialect.request, (octet, frames[:6])
        assert len(frames) >= 2 and frames[1] == EMPTY, f"no address or delimiter: {frames[:6]!r}"
        return Job(frames[0], frames[2:])

    def serve_one(self, *body, timeout=5.0):
        """Takes one request and answers it, with its own body unless another is given."""
        job = self.take(timeout)
        self.answer(job, *(body or job.body))
        return job

    def expect_disconnect(self, timeout=5.0):
        octet, frames = self.next(timeout, "DISCONNECT")
        assert octet == self.dialect.disconnect, (octet, frames[:6])
        assert frames == [], frames

    def idle(self, seconds=0.3):
        """HEARTBEATs at most: no request and no DISCONNECT for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not self.socket.poll(max(1, round(left * 1000))):
                return
            octet, frames = self._decode(self.socket.recv_multipart())
            assert octet == self.dialect.heartbeat, f"unexpected: {octet!r} {frames[:6]!r}"
            self.heartbeats += 1

    def _decode(self, frames):
        if self.dialect.delimiter:
            assert frames[:1] == [EMPTY], f"no delimiter: {frames[:6]!r}"
            frames = frames[1:]
        assert frames[:1] == [self.dialect.worker], f"wrong header: {frames[:6]!r}"
        assert len(frames) >= 2 and len(frames[1]) == 1, f"no command: {frames[:6]!r}"
        return frames[1], frames[2:]


class Service:
    """The life of an ordinary single-threaded worker: READY, beats while idle and none while it
    works, a new socket and a new READY after DISCONNECT or when the broker fell silent.

    `handler` takes the body frames and gives those of the reply.
    """

    def __init__(
        self,
        context,
        endpoint,
        service,
        handler=lambda body: body,
        *,
        dialect=V01,
        interval=3.0,
        liveness=3,
        options=(),
        reconnect=(0.05, 0.5),
    ):
        self.context, self.endpoint, self.service = context, endpoint, service
        self.handler, self.dialect, self.options = handler, dialect, options
        self.interval, self.liveness, self.reconnect = interval, liveness, reconnect
        self.stopping = False
        self.served = 0

    def stop(self):
        self.stopping = True

    def run(self):
        delay = self.reconnect[0]
        while not self.stopping:
            served = self.served
            worker = Worker(self.context, self.endpoint, self.dialect)
            try:
                self._conversation(worker.ready(self.service, *self.options))
            finally:
                worker.close()
            if self.stopping:
                return
            delay = self.reconnect[0] if self.served > served else min(delay * 2, self.reconnect[1])
            time.sleep(delay * random.uniform(0.5, 1.0))

    def _conversation(self, worker):
        """Ends when the broker said DISCONNECT or was silent for `liveness` intervals."""
        now = time.monotonic()
        beat_at, gone_at = now + self.interval, now + self.interval * self.liveness
        while not self.stopping:
            now = time.monotonic()
            if now >= gone_at:
                return
            if now >= beat_at:
                worker.heartbeat()
                beat_at = now + self.interval
            if not worker.socket.poll(
                round(1000 * max(0.0, min(beat_at - now, gone_at - now, 0.1)))
            ):
                continue
            try:
                octet, frames = worker._decode(worker.socket.recv_multipart())
            except zmq.ZMQError:
                return
            if octet == self.dialect.disconnect:
                return
            if octet == self.dialect.request:
                job = Job(frames[0], frames[2:])
                worker.answer(job, *self.handler(job.body))
                self.served += 1
                beat_at = time.monotonic() + self.interval
            gone_at = time.monotonic() + self.interval * self.liveness
        worker.disconnect()
        # A socket closed at once would take the DISCONNECT with it.
        worker.close(linger=200)


class ServiceThread:
    """A `Service` in a thread of this process."""

    def __init__(self, *arguments, **keywords):
        self.service = Service(*arguments, **keywords)
        self.failure = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.service.run()
        except Exception as failure:  # handed on by close()
            self.failure = failure

    @property
    def served(self):
        return self.service.served

    def close(self):
        self.service.stop()
        self.thread.join(timeout=5.0)
        assert not self.thread.is_alive(), "a worker thread did not stop"
        if self.failure is not None:
            raise self.failure


def retrying_call(context, endpoint, service, *body, attempt=0.5, attempts=60):
    """The lazy pirate: a new REQ socket for each try, as a REQ that lost its reply is stuck."""
    for _ in range(attempts):
        client = Client(context, endpoint, req=True)
        try:
            client.request(service, *body)
            if client.socket.poll(round(attempt * 1000)):
                return client.reply().body
        finally:
            client.close()
    raise AssertionError(f"no reply after {attempts} tries of {attempt} s")


def as_bytes(text):
    return text.encode() if isinstance(text, str) else bytes(text)
