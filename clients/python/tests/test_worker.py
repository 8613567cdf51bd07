"""Workers of both kinds against the real broker."""

import asyncio
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from broker import FAST
from process import Child, wait_until

from maitred import (
    AsyncClient,
    AsyncWorker,
    Client,
    Closed,
    Failed,
    MaitredError,
    Protocol,
    Unreachable,
    Worker,
)

HERE = Path(__file__).resolve().parent
KINDS = ["async", "blocking"]


@pytest.fixture
def process(broker):
    """Starts `worker_process.py` against the broker."""

    def start(kind, seconds):
        before = broker.workers("work")
        command = [sys.executable, HERE / "worker_process.py", broker.endpoint, kind, str(seconds)]
        child = Child(command)
        child.close = child.kill
        broker.own(child)
        broker.wait_workers("work", before + 1, timeout=15)
        return child

    return start


def test_services_run_side_by_side(broker, run):
    """Up to their concurrency each, and no further."""
    worker = AsyncWorker(broker.endpoint)
    most = {}
    busy = {"two": 0, "five": 0}

    def serve(name, concurrency):
        @worker.service(name, concurrency=concurrency)
        async def handler(request):
            busy[name] += 1
            most[name] = max(most.get(name, 0), busy[name])
            await asyncio.sleep(0.02)
            busy[name] -= 1
            return name

    serve("two", 2)
    serve("five", 5)

    async def main():
        async with worker, AsyncClient(broker.endpoint) as client:
            await worker.connected(10)
            calls = [client.call(name) for _ in range(30) for name in ("two", "five")]
            await asyncio.gather(*calls)
        assert most == {"two": 2, "five": 5}

    run(main())


def test_handlers_on_threads_run_side_by_side(broker):
    worker = Worker(broker.endpoint)
    lock = threading.Lock()
    busy, most = 0, 0

    @worker.service("three", concurrency=3)
    def three(request):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.02)
        with lock:
            busy -= 1

    with worker, Client(broker.endpoint) as client:
        for future in [client.submit("three") for _ in range(30)]:
            future.result(20)
    assert most == 3


@pytest.mark.parametrize("protocol", [Protocol.MDP01, Protocol.MDP02])
def test_stopping_finishes_what_is_in_hand(broker, run, protocol):
    """And leaves the rest to others, at once."""
    worker, other = (AsyncWorker(broker.endpoint, protocol=protocol) for _ in range(2))
    goes_on = asyncio.Event()

    @worker.service("work", concurrency=2)
    async def work(request):
        await goes_on.wait()
        return "finished"

    @other.service("work")
    async def take_over(request):
        return "taken over"

    async def main():
        async with AsyncClient(broker.endpoint) as client:
            await worker.start()
            held = [asyncio.create_task(client.call("work")) for _ in range(2)]
            while worker.requests_in_hand < 2:
                await asyncio.sleep(0.01)
            stopping = asyncio.create_task(worker.stop())
            await asyncio.sleep(0)
            async with other:
                await other.connected(10)
                assert (await client.call("work")).text == "taken over"
                goes_on.set()
                assert await stopping == 0
                assert [(await call).text for call in held] == ["finished"] * 2
            # Said goodbye: the broker knows at once.
            await asyncio.to_thread(broker.wait_workers, "work", 0)
            assert await worker.stop() == 0

    run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finished_in_time_goes_to_another(broker, kind):
    never, entered = threading.Event(), threading.Event()
    if kind == "blocking":
        worker = Worker(broker.endpoint)

        @worker.service("work")
        def stuck(request):
            entered.set()
            never.wait(30)
            return "too late"
    else:
        worker = _AsyncOnThread(broker.endpoint, entered)
    other = Worker(broker.endpoint)
    other.add("work", lambda request: "taken over")
    with Client(broker.endpoint) as client:
        worker.start()
        call = client.submit("work")
        assert entered.wait(10)
        with other:
            other.connected(10)
            began = time.monotonic()
            assert worker.stop(grace=0.1) == 1
            assert call.result(10).text == "taken over"
            assert time.monotonic() - began < 5
    never.set()


class _AsyncOnThread:
    """An asyncio worker whose handler is stuck, driven from a plain thread."""

    def __init__(self, endpoint, entered):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.worker = AsyncWorker(endpoint)

        @self.worker.service("work")
        async def stuck(request):
            entered.set()
            await asyncio.sleep(60)

    def start(self):
        asyncio.run_coroutine_threadsafe(self.worker.start(), self.loop).result(10)

    def stop(self, grace):
        cut_off = asyncio.run_coroutine_threadsafe(self.worker.stop(grace), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        return cut_off


@pytest.mark.parametrize("kind", KINDS)
def test_a_crashed_worker_costs_nothing(broker, process, kind):
    """kill -9 with requests in hand: another worker gets them."""
    victim = process(kind, 60)
    with Client(broker.endpoint) as client:
        calls = [client.submit("work", f"{n}", timeout=30) for n in range(3)]
        for _ in calls:
            victim.line(lambda line: line.startswith("took"))
        process("blocking", 0)
        victim.kill()
        assert [call.result(30).text for call in calls] == [f"done {n}" for n in range(3)]
    assert broker.service("work")["redeliveries"] == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_peace(broker, process, kind, number):
    worker = process(kind, 0.4)
    with Client(broker.endpoint) as client:
        call = client.submit("work", "x")
        worker.line(lambda line: line == "took x")
        worker.signal(number)
        assert call.result(10).text == "done x"
        assert worker.wait(10) == 0
        assert worker.stdout[-1] == "ended"
        assert "stopping: 1 requests in hand" in worker.output()
    assert broker.workers("work") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_signal_cuts_off(broker, process, kind):
    worker = process(kind, 60)
    with Client(broker.endpoint) as client:
        call = client.submit("work", "x", timeout=30)
        worker.line(lambda line: line == "took x")
        worker.signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in worker.output(), "the first signal to be heard")
        worker.signal(signal.SIGTERM)
        assert worker.wait(10) == 0, worker.output()
        process("blocking", 0)
        assert call.result(10).text == "done x"


@pytest.mark.parametrize("protocol", [Protocol.MDP01, Protocol.MDP02])
def test_it_comes_back_after_its_broker(start, protocol):
    """kill -9 of the broker while it works: it registers again and serves; what it did is
    abandoned."""
    broker = start(FAST)
    broker.may_be_gone = True
    worker = Worker(broker.endpoint, protocol=protocol)
    entered, goes_on = threading.Event(), threading.Event()
    seen = []

    @worker.service("work", concurrency=2)
    def work(request):
        if request.text == "first":
            entered.set()
            wait_until(lambda: request.is_abandoned, "the request to be abandoned", 20)
            try:
                request.partial("to nobody")
            except Closed as error:
                seen.append(error)
            goes_on.set()
        return "served"

    with worker, Client(broker.endpoint) as client:
        client.submit("work", "first", timeout=None, retry=False)
        assert entered.wait(10)
        broker.kill()
        assert goes_on.wait(20) and len(seen) == 1
        broker.restart()
        for _ in range(3):
            assert client.call("work", "again", timeout=30).text == "served"


@pytest.mark.parametrize("protocol", [Protocol.MDP01, Protocol.MDP02])
def test_a_busy_worker_stays_known(fast, protocol):
    """Its handlers take longer than a silent peer is given, and there is nothing else to say."""
    worker = Worker(fast.endpoint, protocol=protocol, heartbeat=0.2)

    @worker.service("slow", concurrency=2)
    def slow(request):
        time.sleep(1.2)
        return "at last"

    with worker, Client(fast.endpoint) as client:
        assert client.call("slow").text == "at last"
        time.sleep(1.0)
        assert fast.workers("slow") == 1
        entry = fast.service("slow")
        assert client.call("slow").text == "at last"
        assert entry["redeliveries"] == 0


def test_a_frozen_broker_is_given_up(start):
    """SIGSTOP: an idle worker misses the heartbeats; it is back when the broker is."""
    broker = start(FAST)
    worker = Worker(broker.endpoint, heartbeat=0.2)
    worker.add("work", lambda request: "served")
    with worker:
        worker.connected(10)
        server = worker._worker._servers[0]
        with broker.child.frozen():
            wait_until(lambda: not server.is_ready.is_set(), "the broker to be given up", 10)
        worker.connected(30)
        with Client(broker.endpoint) as client:
            assert client.call("work", timeout=20).text == "served"


def test_handlers_may_fail_in_every_way(broker, run, caplog):
    worker = AsyncWorker(broker.endpoint)

    @worker.service("fail", concurrency=8)
    async def fail(request):
        match request.text:
            case "text":
                raise ValueError("with a text")
            case "silent":
                raise ValueError
            case "meant":
                raise Failed("not today")
            case "cancelled":
                raise asyncio.CancelledError
            case "odd":
                return 7
            case "large":
                return b"x" * (65 << 20)

    expected = {
        "text": "with a text",
        "silent": "ValueError",
        "meant": "not today",
        "cancelled": "the handler was cancelled",
        "odd": "a body is bytes, str, a Message, a sequence of those, or None: int",
        "large": "the message has 68157440 bytes, the limit is 67108352",
    }

    async def main():
        async with worker, AsyncClient(broker.endpoint) as client:
            for word, text in expected.items():
                with pytest.raises(Failed) as failed:
                    await client.call("fail", word)
                assert str(failed.value) == text

    run(main())
    # What was meant is no news.
    assert sum(record.levelname == "ERROR" for record in caplog.records) == 3


def test_a_thread_may_fail_in_every_way(broker):
    worker = Worker(broker.endpoint)

    @worker.service("fail")
    def fail(request):
        if request.text == "exit":
            raise SystemExit(3)
        if request.text == "stop":
            raise StopIteration
        raise ValueError("with a text")

    with worker, Client(broker.endpoint) as client:
        for word, text in (("exit", "SystemExit"), ("stop", "StopIteration"), ("x", "with a text")):
            with pytest.raises(Failed, match=text):
                client.call("fail", word)


def test_mistakes_are_said_at_once():
    worker = AsyncWorker()
    with pytest.raises(MaitredError, match="no service"):
        asyncio.run(worker.start())
    worker.add("a", lambda request: request)
    with pytest.raises(ValueError, match="has a handler already"):
        worker.add("a", lambda request: request)
    with pytest.raises(ValueError, match="concurrency is 1 or more"):
        worker.add("b", lambda request: request, concurrency=0)
    pirate = AsyncWorker(protocol=Protocol.PPP)
    pirate.add("a", lambda request: request)
    with pytest.raises(ValueError, match="one service"):
        pirate.add("b", lambda request: request)


def test_a_worker_without_a_broker_says_so_and_ends(run):
    worker = AsyncWorker("tcp://127.0.0.1:1")
    worker.add("a", lambda request: request)

    async def main():
        async with worker:
            with pytest.raises(Unreachable, match="127.0.0.1:1: cannot connect"):
                await worker.connected(0.3)
            began = time.monotonic()
        assert time.monotonic() - began < 3

    run(main())


def test_run_may_be_cancelled_and_stopped(broker, run):
    async def main():
        for way in ("cancel", "stop"):
            worker = AsyncWorker(broker.endpoint)

            @worker.service("work")
            async def work(request):
                await asyncio.sleep(0.2)
                return "finished"

            running = asyncio.create_task(worker.run(signals=False))
            async with AsyncClient(broker.endpoint) as client:
                call = asyncio.create_task(client.call("work"))
                while not worker.requests_in_hand:
                    await asyncio.sleep(0.01)
                if way == "cancel":
                    running.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await running
                else:
                    assert await worker.stop() == 0
                    await running
                assert (await call).text == "finished"

    run(main())


def test_a_worker_on_a_thread_of_the_users(broker):
    worker = Worker(broker.endpoint)
    worker.add("work", lambda request: "served")
    thread = threading.Thread(target=worker.run)
    thread.start()
    with Client(broker.endpoint) as client:
        assert client.call("work").text == "served"
    assert worker.stop() == 0
    thread.join(10)
    assert not thread.is_alive()


def test_a_pirate_comes_back(start):
    broker = start(
        '[[paranoid_pirate]]\nfrontend = "tcp://127.0.0.1:0"\nbackend = "tcp://127.0.0.1:0"\n'
        'service = "echo"\nheartbeat = "200ms"\n'
    )
    worker = Worker(broker.back, protocol=Protocol.PPP, heartbeat=0.2)

    @worker.service("echo")
    def echo(request):
        # Longer than a silent peer is given.
        time.sleep(0.9 if request.text == "slow" else 0)
        return request.message

    with worker, Client(broker.front, protocol=Protocol.PPP) as client:
        assert client.call("echo", "slow").text == "slow"
        assert [client.call("echo", [b"a", f"{n}"]).frames for n in range(3)] == [
            (b"a", f"{n}".encode()) for n in range(3)
        ]


def test_signals_are_for_the_main_thread(broker):
    """`run` on another thread says so, and leaves nothing behind."""
    worker = AsyncWorker(broker.endpoint)

    async def echo(request):
        return request.message

    worker.add("work", echo)
    failed = []

    def target():
        try:
            asyncio.run(worker.run())
        except (RuntimeError, ValueError) as error:
            failed.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join(10)
    assert not thread.is_alive() and "main thread" in str(failed[0])
    assert broker.workers("work") == 0


def test_many_services_have_room(broker, run):
    """More than libzmq has sockets for unless told so."""
    worker = AsyncWorker(broker.endpoint)

    async def echo(request):
        return request.service

    for n in range(600):
        worker.add(f"s{n}", echo)

    async def main():
        async with worker, AsyncClient(broker.endpoint, timeout=40) as client:
            await worker.connected(40)
            names = await asyncio.gather(*(client.call(f"s{n}") for n in range(600)))
            assert [name.text for name in names] == [f"s{n}" for n in range(600)]

    run(main())
