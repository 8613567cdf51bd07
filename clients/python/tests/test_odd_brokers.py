"""Brokers that misbehave: scripted ones, over a ROUTER socket."""

import asyncio
import contextlib

import pytest
import zmq

from maitred import AsyncClient, AsyncWorker, Protocol

P1, P2 = Protocol.MDP01, Protocol.MDP02


class Odd:
    """A broker that says what the test tells it to."""

    def __init__(self):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"

    async def hear(self):
        """The next message: who says it, and what."""
        peer, *frames = await asyncio.to_thread(self._hear)
        return peer, frames

    def _hear(self):
        assert self.socket.poll(10_000), "the peer said nothing"
        return self.socket.recv_multipart()

    async def hear_ready(self):
        """Waits for a worker's READY, heartbeats of the one before passed over."""
        while True:
            peer, frames = await self.hear()
            if b"\x01" in frames:
                return peer

    def say(self, peer, *frames):
        self.socket.send_multipart([peer, *frames])

    def close(self):
        self.context.destroy(0)


@pytest.fixture
def odd():
    broker = Odd()
    yield broker
    broker.close()


@contextlib.asynccontextmanager
async def a_worker(odd, handler=None, **options):
    worker = AsyncWorker(odd.endpoint, **options)

    async def echo(request):
        return request.message

    worker.add("echo", handler or echo, concurrency=2)
    async with worker:
        yield worker


@pytest.mark.parametrize(
    "frames, said",
    [
        ([b"MDPW02", b"\x06"], "the broker said DISCONNECT"),
        ([b"MDPW02", b"\x09"], "the broker sent something that makes no sense"),
        ([b"hello"], "the broker sent something that makes no sense"),
        ([], "the broker sent no heartbeat for"),
    ],
)
def test_a_worker_starts_again(odd, run, frames, said, caplog):
    """With a new READY, on a new connection."""

    async def main():
        async with a_worker(odd, heartbeat=0.1, liveness=2):
            peer = await odd.hear_ready()
            if frames:
                odd.say(peer, *frames)
            again = await odd.hear_ready()
            assert again != peer
            odd.say(again, b"MDPW02", b"\x02", b"token", b"", b"x")
            while (heard := await odd.hear()) != (
                again,
                [b"MDPW02", b"\x04", b"token", b"", b"x"],
            ):
                assert heard == (again, [b"MDPW02", b"\x05"])

    run(main())
    assert said in caplog.text


def test_a_worker_takes_no_more_than_it_offered(odd, run, caplog):
    never = asyncio.Event()

    async def stuck(request):
        await never.wait()

    async def main():
        async with a_worker(odd, stuck) as worker:
            peer = await odd.hear_ready()
            for n in range(3):
                odd.say(peer, b"MDPW02", b"\x02", b"token %d" % n, b"", b"x")
            again = await odd.hear_ready()
            # The handlers of the lost connection still count: what comes now waits for them.
            assert worker.requests_in_hand == 2
            odd.say(again, b"MDPW02", b"\x02", b"token 3", b"", b"x")
            await asyncio.sleep(0.05)
            assert worker.requests_in_hand == 2
            never.set()
            assert await odd.hear() == (again, [b"MDPW02", b"\x04", b"token 3", b"", b""])

    run(main())
    assert "more requests than it was offered" in caplog.text


def test_a_worker_beats_and_says_goodbye(odd, run):
    async def main():
        async with a_worker(odd, protocol=P1, heartbeat=0.05):
            assert (await odd.hear())[1] == [b"", b"MDPW01", b"\x01", b"echo", b"concurrency=2"]
            peer, frames = await odd.hear()
            assert frames == [b"", b"MDPW01", b"\x04"]
            odd.say(peer, b"", b"MDPW01", b"\x04")
        while (frames := (await odd.hear())[1]) != [b"", b"MDPW01", b"\x05"]:
            assert frames == [b"", b"MDPW01", b"\x04"]

    run(main())


def test_a_worker_that_stops_takes_nothing_new(odd, run):
    """What the broker sent meanwhile is left to it: the goodbye gives it back."""
    goes_on = asyncio.Event()

    async def handler(request):
        await goes_on.wait()
        return request.body

    async def main():
        async with a_worker(odd, handler) as worker:
            peer = await odd.hear_ready()
            odd.say(peer, b"MDPW02", b"\x02", b"one", b"", b"x")
            while not worker.requests_in_hand:
                await asyncio.sleep(0.01)
            stopping = asyncio.create_task(worker.stop())
            await asyncio.sleep(0.02)
            odd.say(peer, b"MDPW02", b"\x02", b"two", b"", b"x")
            await asyncio.sleep(0.05)
            goes_on.set()
            assert await stopping == 0
            assert await odd.hear() == (peer, [b"MDPW02", b"\x04", b"one", b"", b"x"])
            assert await odd.hear() == (peer, [b"MDPW02", b"\x06"])

    run(main())


def test_a_client_drops_what_it_did_not_ask_for(odd, run, caplog):
    async def main():
        async with AsyncClient(odd.endpoint) as client:
            call = asyncio.create_task(client.call("echo", "x"))
            peer, (call_id, *frames) = await odd.hear()
            assert frames == [b"", b"MDPC02", b"\x01", b"echo", b"x"]
            other = (99).to_bytes(8, "big")
            for stray in (
                [b"nonsense"],
                [other, b"", b"MDPC02", b"\x03", b"echo", b"not yours"],
                [b"MDPC02", b"\x03", b"echo", b"whose?"],
                [b"", b"MDPC02", b"\x03", b"echo", b"whose?"],
            ):
                odd.say(peer, *stray)
            odd.say(peer, call_id, b"", b"MDPC02", b"\x03", b"echo", b"yours")
            odd.say(peer, call_id, b"", b"MDPC02", b"\x03", b"echo", b"twice")
            assert (await call).text == "yours"

    run(main())
    assert "makes no sense" in caplog.text


def test_an_old_broker_has_one_call_at_a_time(odd, run):
    """Without ids a reply that comes late must not be taken for another's."""

    async def main():
        async with AsyncClient(odd.endpoint, protocol=P1) as client:
            given_up = asyncio.create_task(client.call("echo", "one"))
            second = asyncio.create_task(client.call("echo", "two"))
            peer, frames = await odd.hear()
            assert frames == [b"", b"MDPC01", b"echo", b"one"]
            given_up.cancel()
            again, frames = await odd.hear()
            assert (again != peer, frames) == (True, [b"", b"MDPC01", b"echo", b"two"])
            with contextlib.suppress(zmq.ZMQError):
                odd.say(peer, b"", b"MDPC01", b"echo", b"late")
            odd.say(again, b"", b"MDPC01", b"echo", b"yours")
            assert (await second).text == "yours"

    run(main())


def test_a_broker_that_refused_is_better_than_none(odd, run):
    other = Odd()

    async def main():
        async with AsyncClient(odd.endpoint, other.endpoint, timeout=20) as client:
            while not all(broker.connected for broker in client.brokers):
                await asyncio.sleep(0.01)
            call = asyncio.create_task(client.call("echo", "x"))
            await asyncio.sleep(0)
            first, second = (odd, other) if client.brokers[0].in_flight else (other, odd)
            peer, (call_id, *_) = await first.hear()
            refusal = [b"MAITRED-REFUSED", b"overload"]
            first.say(peer, call_id, b"", b"MDPC02", b"\x03", b"echo", *refusal)
            await second.hear()
            second.close()
            peer, (call_id, *_) = await first.hear()
            first.say(peer, call_id, b"", b"MDPC02", b"\x03", b"echo", b"taken after all")
            assert (await call).text == "taken after all"

    run(main())
    other.close()


def test_a_port_that_speaks_something_else(run):
    async def main():
        async def answer(reader, writer):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, AsyncClient(f"tcp://127.0.0.1:{port}", timeout=0.5) as client:
            with pytest.raises(TimeoutError, match="handshake"):
                await client.call("echo")

    run(main())
