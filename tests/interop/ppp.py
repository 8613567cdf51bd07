"""Paranoid Pirate peers over libzmq as the old systems have them, written from the protocol's text.

`Worker` and `Client` are led by hand, `Service` and `LazyPirate` lead their own lives. Nothing here
knows the broker under test. Run as a program it is a worker, for tests that kill or freeze it.
"""

import argparse
import os
import random
import threading
import time
from dataclasses import dataclass

import zmq

from mdp import EMPTY, Peer, as_bytes


@dataclass(frozen=True)
class Letters:
    ready: bytes
    heartbeat: bytes


OCTETS = Letters(b"\x01", b"\x02")
TEXT = Letters(b"READY", b"HEARTBEAT")
BOTH = {"octets": OCTETS, "text": TEXT}


class Client(Peer):
    """A REQ client, which keeps the empty frame itself; or a DEALER that puts it there."""

    def __init__(self, context, endpoint, *, req=True, stack=(), **options):
        super().__init__(context, endpoint, zmq.REQ if req else zmq.DEALER, **options)
        self.head = [] if req else [*stack, EMPTY]

    def request(self, *body):
        self.send(*self.head, *map(as_bytes, body))

    def reply(self, timeout=5.0):
        frames = self.recv(timeout, "a reply")
        assert frames[: len(self.head)] == self.head, frames[:6]
        return frames[len(self.head) :]

    def call(self, *body, timeout=5.0):
        self.request(*body)
        return self.reply(timeout)


class Worker(Peer):
    """A worker whose every step the test takes by hand."""

    def __init__(self, context, endpoint, letters=OCTETS, **options):
        super().__init__(context, endpoint, zmq.DEALER, **options)
        self.letters = letters
        self.heartbeats = 0

    def ready(self):
        self.send(self.letters.ready)
        return self

    def heartbeat(self):
        self.send(self.letters.heartbeat)

    def take(self, timeout=5.0):
        """The address and body of the next request."""
        deadline = time.monotonic() + timeout
        while True:
            frames = self.recv(max(0.0, deadline - time.monotonic()), "a request for a worker")
            if len(frames) > 1:
                assert frames[1] == EMPTY and len(frames) > 2, frames[:6]
                return frames[0], frames[2:]
            assert frames == [self.letters.heartbeat], frames
            self.heartbeats += 1

    def answer(self, address, *body):
        self.send(address, EMPTY, *map(as_bytes, body))

    def serve_one(self, *body, timeout=5.0):
        address, asked = self.take(timeout)
        self.answer(address, *(body or asked))
        return asked

    def idle(self, seconds=0.3):
        """Heartbeats at most for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not self.socket.poll(max(1, round(left * 1000))):
                return
            frames = self.socket.recv_multipart()
            assert frames == [self.letters.heartbeat], f"unexpected: {frames[:6]!r}"
            self.heartbeats += 1


class Service:
    """The life of an ordinary worker: one thread that polls for an interval at a time, beats after
    it whatever came, says nothing while it works, takes requests of exactly three frames, and after
    `liveness` intervals of silence closes its socket, sleeps, longer each time, and starts anew.
    """

    def __init__(
        self, context, endpoint, handler=lambda body: body, *, letters=OCTETS, interval=1.0,
        liveness=3, first_wait=1.0, longest_wait=32.0, identity=True,
    ):
        self.context, self.endpoint, self.handler = context, endpoint, handler
        self.letters, self.interval, self.liveness = letters, interval, liveness
        self.first_wait, self.longest_wait = first_wait, longest_wait
        self.identity = identity
        self.stopping = False
        self.served = self.conversations = self.invalid = 0

    def run(self):
        wait = self.first_wait
        while not self.stopping:
            served = self.served
            self._conversation()
            if not self.stopping:
                time.sleep(wait)
            wait = self.first_wait if self.served > served else min(2 * wait, self.longest_wait)

    def _conversation(self):
        socket = self.context.socket(zmq.DEALER)
        socket.linger = 0
        if self.identity:
            # Two words of sixteen bits, as the examples have it.
            number = f"{random.randrange(0x10000):04X}-{random.randrange(0x10000):04X}"
            socket.setsockopt_string(zmq.IDENTITY, number)
        socket.connect(self.endpoint)
        socket.send(self.letters.ready)
        self.conversations += 1
        left, beat_at = self.liveness, time.monotonic() + self.interval
        try:
            while not self.stopping and left > 0:
                if socket.poll(round(self.interval * 1000)):
                    frames = socket.recv_multipart()
                    left = self.liveness
                    if len(frames) == 3:
                        address, empty, body = frames
                        socket.send_multipart([address, empty, self.handler(body)])
                        self.served += 1
                    elif frames != [self.letters.heartbeat]:
                        self.invalid += 1
                else:
                    left -= 1
                if time.monotonic() >= beat_at:
                    beat_at = time.monotonic() + self.interval
                    socket.send(self.letters.heartbeat)
        finally:
            # What stands in the socket may still leave, when the worker was told to end.
            socket.close(200 if self.stopping else 0)


class ServiceThread:
    """A `Service` in a thread of this process."""

    def __init__(self, *arguments, **keywords):
        self.service = Service(*arguments, **keywords)
        self.thread = threading.Thread(target=self.service.run, daemon=True)
        self.thread.start()

    def close(self):
        self.service.stopping = True
        self.thread.join(timeout=5.0)
        assert not self.thread.is_alive(), "a worker thread did not stop"


class LazyPirate:
    """A REQ client that gives a request `timeout` seconds, then closes its socket and sends it again
    on a new one; a sequence number in the body tells whose answer it is.
    """

    def __init__(self, context, endpoint, name, *, timeout=2.5, retries=3):
        self.context, self.endpoint, self.name = context, endpoint, name
        self.timeout, self.retries = timeout, retries
        self.sequence = self.attempts = 0
        self.socket = self._connect()

    def _connect(self):
        socket = self.context.socket(zmq.REQ)
        socket.linger = 0
        socket.connect(self.endpoint)
        return socket

    def call(self):
        self.sequence += 1
        body = f"{self.name}-{self.sequence}".encode()
        for _ in range(self.retries):
            self.attempts += 1
            self.socket.send(body)
            if self.socket.poll(round(self.timeout * 1000)):
                reply = self.socket.recv_multipart()
                assert reply == [body], f"{body!r} was answered {reply!r}"
                return True
            self.socket.close()
            self.socket = self._connect()
        return False

    def close(self):
        self.socket.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("endpoint")
    parser.add_argument("--letters", choices=BOTH, default="octets")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between heartbeats")
    parser.add_argument("--wait", type=float, default=1.0, help="seconds before coming back")
    parser.add_argument("--busy", type=float, default=0.0, help="seconds of work per request")
    parser.add_argument("--die", action="store_true", help="exit instead of answering")
    parser.add_argument("--reply", help="answer this instead of the request's own body")
    arguments = parser.parse_args()

    def handle(body):
        print("request", body[:200].decode(errors="replace"), flush=True)
        time.sleep(arguments.busy)
        if arguments.die:
            os._exit(9)
        return body if arguments.reply is None else arguments.reply.encode()

    Service(
        zmq.Context(), arguments.endpoint, handle, letters=BOTH[arguments.letters],
        interval=arguments.interval, first_wait=arguments.wait,
    ).run()


if __name__ == "__main__":
    main()
