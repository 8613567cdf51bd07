"""Tasks against the real broker."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from broker import quiet_environment
from process import Child, wait_until

from maitred.errors import Cancelled, Conflict, Ended, Invalid, StaleLease, TaskFailed, UnknownTask
from maitred.tasks import AsyncTasks, AsyncTaskWorker, Tasks, TaskWorker

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[2] / "examples"
DEFAULT_HTTP = "http://127.0.0.1:8080"


def test_a_task_goes_from_one_hand_to_the_other(broker):
    with Tasks(broker.http_url) as tasks:
        made = tasks.enqueue("resize", "photo 1", content_type="text/plain")
        assert made.is_new and tasks.get(made.id).state == "ready"
        (lease,) = tasks.claim("resize", wait=5)
        assert (lease.id, lease.task_type, lease.attempt) == (made.id, "resize", 1)
        assert (lease.payload, lease.content_type) == (b"photo 1", "text/plain")
        lease.progress("half")
        seen = tasks.get(made.id)
        assert (seen.state, seen.progress, seen.has_ended) == ("leased", b"half", False)
        lease.complete(b"\xff\x00 small")
        lease.complete(b"\xff\x00 small")
        done = tasks.wait(made.id, timeout=5)
        assert (done.state, done.result, done.has_ended) == ("done", b"\xff\x00 small", True)


def test_with_asyncio_many_at_once(broker, run):
    async def main():
        async with AsyncTasks(broker.http_url) as tasks:

            async def work():
                while True:
                    for lease in await tasks.claim("upper", count=5):
                        async with lease:
                            await lease.complete(lease.payload.upper())

            workers = [asyncio.create_task(work()) for _ in range(4)]
            made = await asyncio.gather(*(tasks.enqueue("upper", f"a{n}") for n in range(60)))
            done = await asyncio.gather(*(tasks.wait(each.id, timeout=30) for each in made))
            assert [task.result for task in done] == [f"A{n}".encode() for n in range(60)]
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    run(main())


def test_one_key_is_one_task(broker):
    with Tasks(broker.http_url) as tasks:
        first = tasks.enqueue("resize", "a", key="photo-1")
        again = tasks.enqueue("resize", "a", key="photo-1")
        assert (again.id, first.is_new, again.is_new) == (first.id, True, False)
        with pytest.raises(Conflict):
            tasks.enqueue("resize", "b", key="photo-1")


def test_settings_reach_the_broker(broker):
    with Tasks(broker.http_url) as tasks:
        later = tasks.enqueue("resize", delay=600)
        assert tasks.get(later.id).state == "scheduled"
        low = tasks.enqueue("resize", "low", priority=1)
        high = tasks.enqueue("resize", "high", priority=9)
        leases = tasks.claim("resize", count=9, wait=5)
        assert [lease.id for lease in leases] == [high.id, low.id]
        chain = tasks.enqueue("first", "x", then=["second"])
        (lease,) = tasks.claim("first", wait=5)
        lease.complete("y")
        (lease,) = tasks.claim("second", wait=5)
        assert (lease.payload, lease.id != chain.id) == (b"y", True)
        with pytest.raises(Invalid, match="colour"):
            tasks.enqueue("resize", settings={"colour": "red"})


def test_a_task_that_keeps_failing_is_dead_and_can_be_tried_again(broker, caplog):
    settings = {"backoff_ms": 1, "jitter_percent": 0}
    with Tasks(broker.http_url) as tasks:
        made = tasks.enqueue("fail", max_attempts=2, settings=settings)
        for attempt in (1, 2):
            (lease,) = tasks.claim("fail", wait=10)
            assert lease.attempt == attempt
            with lease:
                raise ValueError(f"attempt {attempt}")
        with pytest.raises(TaskFailed, match="after 2 attempts: attempt 2"):
            tasks.wait(made.id, timeout=5)
        tasks.retry(made.id)
        (lease,) = tasks.claim("fail", wait=10)
        lease.fail("for good", retry=False)
        with pytest.raises(TaskFailed, match="for good"):
            tasks.wait(made.id, timeout=5)
        with pytest.raises(UnknownTask):
            tasks.get(made.id + 1000)


def test_tasks_are_cancelled_waiting_and_running(broker, run):
    async def main():
        async with AsyncTasks(broker.http_url) as tasks:
            waiting = await tasks.enqueue("resize")
            await tasks.cancel(waiting.id)
            with pytest.raises(Cancelled):
                await tasks.wait(waiting.id)
            running = await tasks.enqueue("resize")
            (lease,) = await tasks.claim("resize", wait=5, lease=0.3)
            with pytest.raises((Cancelled, StaleLease)):
                async with lease:
                    await tasks.cancel(running.id)
                    await asyncio.sleep(30)
            done = await tasks.enqueue("resize")
            (lease,) = await tasks.claim("resize", wait=5)
            await lease.complete()
            with pytest.raises(Ended):
                await tasks.cancel(done.id)

    run(main())


def test_a_lease_that_is_not_held_ends(broker):
    with Tasks(broker.http_url) as tasks:
        made = tasks.enqueue("resize")
        (lost,) = tasks.claim("resize", wait=5, lease=0.2)
        (lease,) = tasks.claim("resize", wait=20)
        assert (lease.id, lease.attempt) == (made.id, 2)
        with pytest.raises(StaleLease):
            lost.complete("late")
        assert isinstance(lost.lost, StaleLease)
        lease.release()
        (lease,) = tasks.claim("resize", wait=5)
        lease.complete("in time")
        assert tasks.wait(made.id).result == b"in time"


def test_a_lease_in_hand_is_held(broker):
    with Tasks(broker.http_url) as tasks:
        made = tasks.enqueue("resize")
        (lease,) = tasks.claim("resize", wait=5, lease=0.6)
        with lease:
            time.sleep(1.5)
            lease.complete("slow")
        seen = tasks.wait(made.id)
        assert (seen.result, seen.attempt) == (b"slow", 1)


def test_a_claim_waits_for_a_task(broker):
    with Tasks(broker.http_url) as tasks:
        assert tasks.claim("resize", wait=0) == []
        got = []
        work = threading.Thread(target=lambda: got.extend(tasks.claim("resize", wait=20)))
        work.start()
        made = tasks.enqueue("resize")
        work.join(20)
        assert [lease.id for lease in got] == [made.id]


def test_nothing_is_lost_to_kill_9(start):
    """Of the broker: what was enqueued is there again, what was claimed comes back."""
    broker = start()
    broker.may_be_gone = True
    with Tasks(broker.http_url, timeout=30) as tasks:
        made = [tasks.enqueue("resize", f"{n}") for n in range(10)]
        (held,) = tasks.claim("resize", wait=5)
        broker.kill()
        enqueued = []
        waits = threading.Thread(target=lambda: enqueued.append(tasks.enqueue("resize", "late")))
        waits.start()
        broker.restart()
        waits.join(30)
        assert enqueued[0].is_new
        seen = set()
        while len(seen) < 11:
            for lease in tasks.claim("resize", wait=20):
                with lease:
                    seen.add(lease.id)
        assert seen == {each.id for each in made} | {enqueued[0].id}
        wait_until(lambda: tasks.get(held.id).state == "done", "the one that was held")


@pytest.mark.parametrize("kind", ["async", "blocking"])
def test_a_worker_has_as_many_in_hand_as_it_has_hands(broker, run, kind, caplog):
    """Whatever becomes of them."""
    busy, most = 0, 0
    lock = threading.Lock()

    def enter(lease):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)

    def leave(lease):
        nonlocal busy
        with lock:
            busy -= 1
        if lease.payload == b"7" and lease.attempt == 1:
            raise ValueError("once")
        return lease.payload + b"!"

    async def main():
        async with AsyncTasks(broker.http_url) as tasks:
            settings = {"backoff_ms": 1}
            made = await asyncio.gather(
                *(tasks.enqueue("work", f"{n}", settings=settings) for n in range(30))
            )
            worker = AsyncTaskWorker(broker.http_url)
            if kind == "async":

                @worker.task("work", concurrency=3)
                async def work(lease):
                    enter(lease)
                    await asyncio.sleep(0.02)
                    return leave(lease)
            else:
                blocking = TaskWorker(broker.http_url)

                @blocking.task("work", concurrency=3)
                def block(lease):
                    enter(lease)
                    time.sleep(0.02)
                    lease.progress("nearly")
                    return leave(lease)

                worker = blocking._worker
            working = asyncio.create_task(worker.run(signals=False))
            done = await asyncio.gather(*(tasks.wait(each.id, timeout=40) for each in made))
            assert [task.result for task in done] == [f"{n}!".encode() for n in range(30)]
            assert sorted(task.attempt for task in done) == [1] * 29 + [2]
            worker.stop()
            await working
            assert most == 3

    run(main())
    assert "attempt 1 failed" in caplog.text


def test_a_worker_that_stops_finishes_or_gives_back(broker, run):
    async def main():
        async with AsyncTasks(broker.http_url) as tasks:
            worker = AsyncTaskWorker(broker.http_url)

            @worker.task("quick")
            async def quick(lease):
                await asyncio.sleep(0.3)
                return "finished"

            @worker.task("stuck")
            async def stuck(lease):
                await asyncio.sleep(60)

            first, second = await tasks.enqueue("quick"), await tasks.enqueue("stuck")
            working = asyncio.create_task(worker.run(signals=False))
            while worker.tasks_in_hand < 2:
                await asyncio.sleep(0.01)
            later = await tasks.enqueue("quick")
            worker.stop(grace=1)
            await working
            assert (await tasks.get(first.id)).result == b"finished"
            # At once, not when its lease ends.
            assert [(await tasks.get(each.id)).state for each in (second, later)] == ["ready"] * 2

    run(main())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_worker_in_peace(broker, tmp_path, number):
    program = readme_program("task_worker.py", broker, tmp_path)
    source = program.read_text().replace("return ", "import time; time.sleep(0.5); return ")
    program.write_text(source)
    child = Child([sys.executable, program])
    child.close = child.kill
    broker.own(child)
    with Tasks(broker.http_url) as tasks:
        made = tasks.enqueue("thumbnail", "photo")
        wait_until(lambda: tasks.get(made.id).state == "leased", "the task to be taken", 20)
        child.signal(number)
        assert tasks.wait(made.id, timeout=20).result == b"photo, but tiny"
    assert child.wait(10) == 0, child.output()


def test_a_worker_outlives_the_broker(start, run):
    broker = start()
    broker.may_be_gone = True

    async def main():
        worker = AsyncTaskWorker(broker.http_url, lease=5)

        @worker.task("work")
        async def work(lease):
            return "done"

        working = asyncio.create_task(worker.run(signals=False))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.restart)
        async with AsyncTasks(broker.http_url) as tasks:
            made = await tasks.enqueue("work")
            assert (await tasks.wait(made.id, timeout=30)).result == b"done"
        worker.stop()
        await working

    run(main())


def readme_program(name, broker, folder):
    """A program of the README, as a file that talks to this broker."""
    text = (HERE.parent / "README.md").read_text()
    source = text.split(f"```python {name}\n", 1)[1].split("\n```\n", 1)[0]
    path = folder / name
    path.write_text(source.replace(DEFAULT_HTTP, broker.http_url))
    return path


@pytest.mark.parametrize("name", ["task_worker.py", "async_task_worker.py"])
def test_the_readme_enqueues_and_works(broker, tmp_path, name):
    worker = Child([sys.executable, readme_program(name, broker, tmp_path)])
    worker.close = worker.kill
    broker.own(worker)
    enqueue = readme_program("enqueue.py", broker, tmp_path)
    done = subprocess.run([sys.executable, enqueue], capture_output=True, text=True, timeout=40)
    assert (done.returncode, done.stdout) == (0, "photo 1, but tiny\n"), done.stderr


def example(name, *arguments):
    """Runs an example that needs no packages of npm's; gives what it prints."""
    start = {
        "py": [sys.executable, EXAMPLES / "python" / name],
        "mjs": ["node", EXAMPLES / "javascript" / name],
        "sh": [EXAMPLES / "curl" / name],
    }[name.rsplit(".", 1)[1]]
    done = subprocess.run(
        [*start, *arguments], capture_output=True, text=True, timeout=40, env=quiet_environment()
    )
    assert done.returncode == 0, (name, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.parametrize("work", ["work_task.py", "work_task.mjs", "work_task.sh"])
@pytest.mark.parametrize("enqueue", ["enqueue.py", "enqueue.mjs", "enqueue.sh"])
def test_the_examples_enqueue_and_work(broker, enqueue, work):
    """Whatever enqueues, whatever works: the task is done."""
    number = int(example(enqueue, broker.http_url))
    assert example(work, broker.http_url) == f"task {number}: HELLO\n"
    seen = json.loads(example("task.sh", broker.http_url, str(number)))
    assert (seen["state"], seen["result"]) == ("done", "HELLO")
