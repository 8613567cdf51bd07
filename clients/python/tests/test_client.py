"""Clients of both kinds against the real broker."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time

import mdp
import pytest
from broker import FAST
from process import Child, wait_until

from maitred import (
    AsyncClient,
    AsyncWorker,
    Client,
    Closed,
    ConnectionLost,
    Draining,
    EndpointError,
    Expired,
    Failed,
    Protocol,
    RepliesTooLarge,
    ServiceNameError,
    Timeout,
    TooLarge,
    Unreachable,
    Worker,
    WorkersFailed,
)

MDP = [Protocol.MDP01, Protocol.MDP02]


@contextlib.asynccontextmanager
async def echo_worker(broker, name="echo", concurrency=64, **options):
    worker = AsyncWorker(broker.endpoint, **options)

    @worker.service(name, concurrency=concurrency)
    async def echo(request):
        if request.text == "count":
            for number in range(3):
                await request.partial([str(number), "part"])
        if request.text == "boom":
            raise ValueError("no such photo")
        return request.message

    async with worker:
        await worker.connected(10)
        yield worker


@pytest.mark.parametrize("protocol", MDP)
@pytest.mark.parametrize("pipelined", [False, True])
def test_a_call_is_answered(broker, run, protocol, pipelined):
    async def main():
        async with (
            echo_worker(broker, protocol=protocol),
            AsyncClient(broker.endpoint, protocol=protocol, pipelined=pipelined) as client,
        ):
            for body, frames in [
                ("hello", (b"hello",)),
                (None, (b"",)),
                ([b"a", b"", b"c"], (b"a", b"", b"c")),
                (b"x" * 3_000_000, (b"x" * 3_000_000,)),
            ]:
                assert (await client.call("echo", body)).frames == frames
            replies = await asyncio.gather(*(client.call("echo", f"{n}") for n in range(50)))
            assert [reply.text for reply in replies] == [f"{n}" for n in range(50)]
            assert client.calls_in_flight == 0

    run(main())


@pytest.mark.parametrize("protocol", MDP)
def test_a_call_from_a_plain_thread(broker, protocol):
    worker = Worker(broker.endpoint, protocol=protocol)
    worker.add("upper", lambda request: request.text.upper())
    with worker, Client(broker.endpoint, protocol=protocol) as client:
        worker.connected(10)
        client.connected(10)
        assert client.call("upper", "hello").text == "HELLO"
        (status,) = client.brokers
        assert (status.connected, status.trouble) == (True, None)


def test_partial_replies_come_one_by_one_or_joined(broker, run):
    async def main():
        async with echo_worker(broker), AsyncClient(broker.endpoint) as client:
            parts = [reply.frames async for reply in client.stream("echo", "count")]
            assert parts == [(b"0", b"part"), (b"1", b"part"), (b"2", b"part"), (b"count",)]
            joined = await client.call("echo", "count")
            assert joined.frames == (b"0", b"part", b"1", b"part", b"2", b"part", b"count")
            with pytest.raises(Failed):
                [_ async for _ in client.stream("echo", "boom")]

    run(main())


def test_a_partial_reply_comes_while_the_worker_works(broker):
    goes_on = threading.Event()
    worker = Worker(broker.endpoint)

    @worker.service("two")
    def two(request):
        request.partial("first")
        assert goes_on.wait(20)
        return "last"

    with worker, Client(broker.endpoint) as client:
        replies = client.stream("two")
        assert next(replies).text == "first"
        goes_on.set()
        assert [reply.text for reply in replies] == ["last"]
        # Left early: the call is forgotten.
        for reply in client.stream("two"):
            break
        wait_until(lambda: client.calls_in_flight == 0, "the stream to be forgotten")


def test_old_workers_partial_replies_are_joined(broker, run):
    async def main():
        async with (
            echo_worker(broker, protocol=Protocol.MDP01),
            AsyncClient(broker.endpoint) as client,
        ):
            (reply,) = [reply async for reply in client.stream("echo", "count")]
            assert reply.frames == (b"0", b"part", b"1", b"part", b"2", b"part", b"count")

    run(main())


def test_a_handler_that_fails_says_why(broker, run, caplog):
    async def main():
        async with echo_worker(broker), AsyncClient(broker.endpoint) as client:
            with pytest.raises(Failed, match="^no such photo$"):
                await client.call("echo", "boom")

    run(main())
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.name == "maitred.worker" and record.exc_info[0] is ValueError


def test_refusals_are_exceptions(start, run):
    config = '[defaults]\nanswer_refusals = true\n[services.slow]\ngive_up = "100ms"\n'
    broker = start(config + "[services.once]\nmax_deliveries = 1\n")

    async def main():
        async with AsyncClient(broker.endpoint) as client:
            with pytest.raises(Expired):
                await client.call("slow")
            call = asyncio.create_task(client.call("once"))
            worker = broker.worker("once", dialect=mdp.V02)
            await asyncio.to_thread(worker.take)
            worker.close()
            with pytest.raises(WorkersFailed):
                await call

    run(main())


def test_a_drained_broker_refuses(start, run):
    broker = start("[defaults]\nanswer_refusals = true\n")
    broker.may_be_gone = True

    async def main():
        entered, goes_on = asyncio.Event(), asyncio.Event()
        worker = AsyncWorker(broker.endpoint)

        @worker.service("long")
        async def long(request):
            entered.set()
            await goes_on.wait()
            return "done"

        async with worker, AsyncClient(broker.endpoint) as client:
            held = asyncio.create_task(client.call("long"))
            await entered.wait()
            await asyncio.to_thread(broker.request, "POST", "/v1/drain")
            with pytest.raises(Draining):
                await client.call("long", timeout=5)
            goes_on.set()
            assert (await held).text == "done"

    run(main())


def test_there_is_a_deadline(broker, run):
    async def main():
        async with AsyncClient(broker.endpoint, timeout=0.2) as client:
            with pytest.raises(Timeout, match="no reply from service 'nobody' within 0.2 s"):
                await client.call("nobody")
            began = time.monotonic()
            with pytest.raises(Timeout):
                await client.call("nobody", timeout=0.6)
            assert time.monotonic() - began >= 0.6
            # Of a stream it counts from reply to reply.
            worker = AsyncWorker(broker.endpoint)

            @worker.service("drip")
            async def drip(request):
                for _ in range(4):
                    await asyncio.sleep(0.15)
                    await request.partial("drop")
                await asyncio.sleep(60)
                return "never"

            async with worker:
                drops = []
                with pytest.raises(Timeout):
                    async for reply in client.stream("drip", timeout=0.5):
                        drops.append(reply.text)
                assert drops == ["drop"] * 4
                assert client.calls_in_flight == 0
                assert await worker.stop(grace=0) == 1

    run(main())


def test_no_broker_is_told_apart_from_no_reply(run):
    async def main():
        async with AsyncClient("tcp://127.0.0.1:1") as client:
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1: cannot connect"):
                await client.call("echo", timeout=0.3)
            with pytest.raises(Unreachable):
                await client.connected(0.1)

    run(main())


def test_what_no_broker_would_take_is_not_sent(broker, run):
    async def main():
        async with AsyncClient(broker.endpoint, message_bytes_max=1 << 20) as client:
            with pytest.raises(TooLarge):
                await client.call("echo", b"x" * (1 << 20))
            with pytest.raises(ServiceNameError):
                await client.call("", b"x")
            with pytest.raises(TypeError):
                await client.call("echo", 7)
            assert client.calls_in_flight == 0
        with pytest.raises(EndpointError):
            AsyncClient()

    run(main())


def test_replies_to_one_call_have_a_bound(broker, run):
    worker = AsyncWorker(broker.endpoint)
    goes_on = asyncio.Semaphore(0)

    @worker.service("flood", concurrency=2)
    async def flood(request):
        for _ in range(10):
            if request.text == "paced":
                await goes_on.acquire()
            await request.partial(b"x" * 200_000)
        return b""

    async def main():
        async with worker, AsyncClient(broker.endpoint, message_bytes_max=1_000_000) as client:
            with pytest.raises(RepliesTooLarge, match="more than 1000000 bytes"):
                await client.call("flood")
            # The connection is none the worse for it; taken in time, it fits.
            goes_on.release()
            sizes = []
            async for reply in client.stream("flood", "paced"):
                sizes.append(reply.size)
                goes_on.release()
            assert sizes == [200_000] * 10 + [0]

    run(main())


@pytest.mark.parametrize("protocol", MDP)
def test_a_call_is_cancelled(broker, run, protocol):
    """Over MDP/0.1 the request is withdrawn from the line, since the connection goes with it."""

    async def main():
        async with AsyncClient(broker.endpoint, protocol=protocol) as client:
            call = asyncio.create_task(client.call("later", timeout=None))
            await asyncio.to_thread(broker.wait_service, "later", waiting=1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert client.calls_in_flight == 0
            if protocol is Protocol.MDP01:
                await asyncio.to_thread(broker.wait_service, "later", waiting=0)
            # Replies to what was given up are nobody's.
            async with echo_worker(broker, "later"):
                assert (await client.call("later", "mine")).text == "mine"

    run(main())


def test_many_calls_are_in_flight(broker, run):
    async def main():
        together = asyncio.Event()
        worker = AsyncWorker(broker.endpoint)
        busy = 0

        @worker.service("crowd", concurrency=1500)
        async def crowd(request):
            nonlocal busy
            busy += 1
            if busy == 1500:
                together.set()
            await together.wait()
            return request.body

        async with worker, AsyncClient(broker.endpoint, window=2000) as client:
            calls = [client.call("crowd", f"{n}", timeout=40) for n in range(6000)]
            replies = await asyncio.gather(*calls)
            assert [reply.text for reply in replies] == [f"{n}" for n in range(6000)]

    run(main())


def test_many_threads_share_a_client(broker):
    worker = Worker(broker.endpoint)
    barrier = threading.Barrier(8, timeout=20)

    @worker.service("meet", concurrency=8)
    def meet(request):
        barrier.wait()
        return request.body

    with worker, Client(broker.endpoint) as client:
        futures = [client.submit("meet", f"{n}") for n in range(8)]
        assert [future.result(30).text for future in futures] == [f"{n}" for n in range(8)]


def test_a_future_is_cancelled(broker):
    with Client(broker.endpoint) as client:
        future = client.submit("nobody", timeout=None)
        wait_until(lambda: client.calls_in_flight == 1, "the call")
        assert future.cancel()
        wait_until(lambda: client.calls_in_flight == 0, "the call to be forgotten")


def test_calls_outlive_the_broker(start, run):
    """kill -9 with calls in flight: they are sent again to the next one, unless they must not be."""
    broker = start(FAST)
    broker.may_be_gone = True

    async def main():
        async with AsyncClient(broker.endpoint, timeout=40) as client:
            calls = [asyncio.create_task(client.call("echo", f"{n}")) for n in range(100)]
            once = asyncio.create_task(client.call("echo", "once", retry=False))
            await asyncio.to_thread(broker.wait_service, "echo", waiting=101)
            await asyncio.to_thread(broker.kill)
            with pytest.raises(ConnectionLost, match="lost tcp://"):
                await once
            await asyncio.to_thread(broker.restart)
            async with echo_worker(broker):
                replies = await asyncio.gather(*calls)
            assert [reply.text for reply in replies] == [f"{n}" for n in range(100)]

    run(main())


def test_a_stream_that_began_is_not_begun_again(start, run):
    broker = start()
    broker.may_be_gone = True

    async def main():
        worker = AsyncWorker(broker.endpoint)

        @worker.service("half")
        async def half(request):
            await request.partial("a half")
            await asyncio.sleep(60)
            return "never"

        async with worker, AsyncClient(broker.endpoint) as client:
            stream = client.stream("half", timeout=None)
            assert (await anext(stream)).text == "a half"
            await asyncio.to_thread(broker.kill)
            with pytest.raises(ConnectionLost):
                await anext(stream)
            await worker.stop(grace=0)

    run(main())


def test_a_broker_that_stopped_answering_is_given_up(start, run):
    """SIGSTOP: the connection stands, but nobody answers ZMTP's PING."""
    frozen, other = start(), start()

    async def main():
        async with (
            echo_worker(other),
            AsyncClient(frozen.endpoint, other.endpoint, heartbeat=0.1, timeout=30) as client,
        ):
            await client.connected(10)
            with frozen.child.frozen():
                for n in range(20):
                    assert (await client.call("echo", f"{n}")).text == f"{n}"
                status = {each.endpoint: each for each in client.brokers}
                assert status[frozen.endpoint].in_flight == 0

    run(main())


def test_a_refusal_is_tried_at_another_broker(start, run):
    able = start()
    full = start(
        "[defaults]\nanswer_refusals = true\n"
        '[principals.anonymous]\ncall = ["*"]\nserve = ["*"]\nadminister = true\nin_flight = 1\n'
    )
    full.client().request("nobody", b"the one in flight")
    full.wait_service("nobody", waiting=1)

    async def main():
        async with (
            echo_worker(able),
            AsyncClient(full.endpoint, able.endpoint) as client,
        ):
            await client.connected(10)
            while not all(each.connected for each in client.brokers):
                await asyncio.sleep(0.01)
            for n in range(20):
                assert (await client.call("echo", f"{n}")).text == f"{n}"

    run(main())


def test_closing_ends_what_is_under_way(broker, run):
    async def main():
        client = AsyncClient(broker.endpoint)
        call = asyncio.create_task(client.call("nobody"))
        await client.connected(10)
        await client.close()
        with pytest.raises(Closed):
            await call
        await client.close()
        with pytest.raises(Closed):
            await client.call("nobody")

    run(main())
    client = Client(broker.endpoint)
    future = client.submit("nobody")
    client.connected(10)
    client.close()
    client.close()
    assert isinstance(future.exception(5), Closed)
    with pytest.raises(Closed):
        client.call("nobody")


def test_mmi_is_a_service_like_any_other(broker):
    with Client(broker.endpoint) as client:
        assert client.call("mmi.service", "nobody").text == "404"
        assert client.call("mmi.workers", "nobody").json() == 0
        assert json.loads(client.call("mmi.heartbeat").frames[0]) == 3000


def test_ppp_clients_have_no_need_of_names(start, run):
    broker = start(
        '[[paranoid_pirate]]\nfrontend = "tcp://127.0.0.1:0"\nbackend = "tcp://127.0.0.1:0"\n'
        'service = "echo"\n'
    )

    async def main():
        worker = AsyncWorker(broker.back, protocol=Protocol.PPP)

        @worker.service("echo", concurrency=9)
        async def echo(request):
            await request.partial("part")
            return request.body.upper()

        async with worker, AsyncClient(broker.front, protocol=Protocol.PPP) as client:
            replies = await asyncio.gather(*(client.call("any", f"a{n}") for n in range(20)))
            assert [reply.frames for reply in replies] == [
                (b"part", f"A{n}".encode()) for n in range(20)
            ]

    run(main())


def test_a_process_ends_although_a_client_was_not_closed(broker):
    program = f"import maitred; maitred.Client({broker.endpoint!r}).call('mmi.service', 'x')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_ends_a_call(broker):
    program = f"import maitred; maitred.Client({broker.endpoint!r}).call('nobody', timeout=None)"
    child = Child([sys.executable, "-c", program])
    child.close = child.kill
    broker.own(child)
    broker.wait_service("nobody", timeout=15, waiting=1)
    child.signal(signal.SIGINT)
    assert child.wait(10) == -signal.SIGINT
    assert "KeyboardInterrupt" in child.output()
