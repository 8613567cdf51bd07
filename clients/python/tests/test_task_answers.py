"""What becomes of a broker's answers about tasks, lost ones among them: a scripted HTTP port."""

import asyncio
import contextlib
import json

import pytest

from maitred import Draining, EndpointError, MaitredError, Refused, Timeout, Unreachable
from maitred.errors import (
    Busy,
    Cancelled,
    Conflict,
    Denied,
    Ended,
    Invalid,
    NoSpace,
    NoStore,
    StaleLease,
    TaskFailed,
    Unavailable,
    UnknownTask,
)
from maitred.tasks import AsyncTasks, Tasks

LEASE = {
    "token": "t-1", "id": 7, "type": "resize", "attempt": 2, "max_attempts": 20,
    "payload": "a photo", "content_type": "text/plain", "deadline": 1_800_000_000_000,
}  # fmt: skip


class Port:
    """Answers requests with what stands in a list: `(status, JSON)`, or `None` to hang up."""

    def __init__(self, *answers, headers=""):
        self.answers = list(answers)
        self.headers = headers
        self.asked = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.tasks = AsyncTasks(f"http://127.0.0.1:{port}", token="sesame", timeout=5)
        return self

    async def __aexit__(self, *_):
        await self.tasks.close()
        self.server.close()

    async def _serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *lines = head.splitlines()
                headers = dict(each.lower().split(": ", 1) for each in lines if each)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.asked.append((line.removesuffix(" HTTP/1.1"), headers, body))
                answer = self.answers.pop(0)
                if answer is None:
                    break
                status, content = answer
                text = content if isinstance(content, str) else json.dumps(content)
                writer.write(
                    f"HTTP/1.1 {status} So\r\ncontent-length: {len(text.encode())}\r\n"
                    f"{self.headers}\r\n{text}".encode()
                )
        writer.close()


def test_what_is_asked(run):
    async def main():
        async with Port(
            (201, {"id": 7, "level": "disk"}),
            (200, {"leases": [LEASE]}),
            *[(200, {})] * 4,
            (200, {"leases": [LEASE, LEASE, LEASE]}),
            *[(200, {})] * 3,
        ) as port:
            made = await port.tasks.enqueue(
                "re/size", "photo", key="k 1", content_type="text/plain", priority=3, delay=1.5,
                deadline=60, max_attempts=5, then=["a", "b"], settings={"fair_key": "ann"},
            )  # fmt: skip
            assert (made.id, made.is_new) == (7, True)
            (lease,) = await port.tasks.claim("resize", count=3, wait=2, lease=9, worker="me")
            assert (lease.id, lease.attempt, lease.payload) == (7, 2, b"a photo")
            await lease.extend()
            await lease.progress("half")
            await lease.fail("no", retry_after=2)
            await lease.release()
            for lease in await port.tasks.claim("resize", wait=0):
                match port.answers:
                    case [_, _, _]:
                        await lease.complete("small")
                    case [_, _]:
                        await lease.fail("never", retry=False)
                    case _:
                        async with lease:
                            pass
                assert lease.is_settled
        assert [line for line, _, _ in port.asked] == [
            "POST /v1/tasks/re%2Fsize?priority=3&delay_ms=1500&deadline_ms=60000&max_attempts=5"
            "&then=a%2Cb&fair_key=ann",
            "POST /v1/leases",
            "POST /v1/leases/t-1/extend?lease_ms=9000",
            "POST /v1/leases/t-1/progress?lease_ms=9000",
            "POST /v1/leases/t-1/fail?retry_after_ms=2000",
            "POST /v1/leases/t-1/release",
            "POST /v1/leases",
            "POST /v1/leases/t-1/complete",
            "POST /v1/leases/t-1/fail?retry=false",
            "POST /v1/leases/t-1/complete",
        ]
        _, headers, body = port.asked[0]
        assert (headers["idempotency-key"], headers["content-type"], body) == (
            "k 1",
            "text/plain",
            b"photo",
        )
        assert all(headers["authorization"] == "bearer sesame" for _, headers, _ in port.asked)
        assert json.loads(port.asked[1][2]) == {
            "types": ["resize"], "max": 3, "wait_ms": pytest.approx(2000, abs=50),
            "lease_ms": 9000, "worker": "me",
        }  # fmt: skip
        assert [body for _, _, body in port.asked[3:5]] == [b"half", b"no"]
        assert [body for _, _, body in port.asked[7:]] == [b"small", b"never", b""]

    run(main())


@pytest.mark.parametrize(
    "status, reason, kind",
    [
        (404, "unknown_task", UnknownTask),
        (409, "stale_lease", StaleLease),
        (410, "cancelled", Cancelled),
        (409, "conflict", Conflict),
        (409, "ended", Ended),
        (422, "invalid", Invalid),
        (507, "no_space", NoSpace),
        (503, "busy", Busy),
        (503, "unavailable", Unavailable),
        (503, "no_store", NoStore),
        (503, "draining", Draining),
        (401, "denied", Denied),
        (418, "tea_time", Refused),
    ],
)
def test_refusals_have_classes(run, status, reason, kind):
    async def main():
        answer = (status, {"reason": reason, "message": "what it means"})
        async with Port(answer, headers="retry-after: 3\r\n") as port:
            with pytest.raises(Refused, match="what it means") as refused:
                await port.tasks.get(7)
        error = refused.value
        assert (type(error), error.reason, error.retry_after) == (kind, reason, 3.0)

    run(main())


def test_a_lost_answer_is_asked_for_again(run):
    """With the same key, so that there is one task whatever happened to the first request."""

    async def main():
        async with Port(None, None, (200, {"id": 7})) as port:
            made = await port.tasks.enqueue("resize")
            assert (made.id, made.is_new) == (7, False)
        keys = {headers["idempotency-key"] for _, headers, _ in port.asked}
        assert len(port.asked) == 3 and len(keys) == 1

    run(main())


def test_what_must_not_be_said_twice_is_not(run):
    async def main():
        async with Port(None) as port:
            with pytest.raises(Unreachable, match="lost http://"):
                await port.tasks.retry(7)
        assert len(port.asked) == 1

    run(main())


def test_nobody_is_there():
    with Tasks("http://127.0.0.1:1", timeout=0.3) as tasks:
        with pytest.raises(Unreachable, match="no broker at http://127.0.0.1:1"):
            tasks.enqueue("resize")
    with pytest.raises(EndpointError, match="http://127.0.0.1:8080"):
        AsyncTasks("127.0.0.1:8080")


def test_what_is_no_broker_is_told(run):
    async def main():
        async with Port((200, "<html>"), (404, {"reason": "not_found", "message": "no"})) as port:
            with pytest.raises(MaitredError, match="is it a broker"):
                await port.tasks.get(7)
            with pytest.raises(MaitredError, match="does this broker keep tasks"):
                await port.tasks.get(7)

    run(main())


def test_waiting_ends_as_the_task_does(run):
    def seen(state, **more):
        return 200, {"id": 7, "type": "resize", "state": state, "attempt": 3, **more}

    async def main():
        async with Port(
            seen("ready"),
            seen("leased", progress="half"),
            seen("done", result_base64="/w=="),
            seen("dead", last_error="no such photo"),
            seen("cancelled"),
            *[seen("scheduled")] * 99,
        ) as port:
            assert (await port.tasks.wait(7)).result == b"\xff"
            with pytest.raises(TaskFailed, match="dead after 3 attempts: no such photo"):
                await port.tasks.wait(7)
            with pytest.raises(Cancelled):
                await port.tasks.wait(7)
            with pytest.raises(Timeout, match="task 7 is scheduled after 0.2 s"):
                await port.tasks.wait(7, timeout=0.2)

    run(main())


def test_a_lost_lease_stops_the_work(run):
    """The block is cancelled, and whoever runs it hears why; a cancel from outside stays one."""

    async def main():
        stale = (409, {"reason": "stale_lease", "message": "too late"})
        async with Port((200, {"leases": [LEASE]}), (200, {}), stale) as port:
            (lease,) = await port.tasks.claim("resize", lease=0.15)
            with pytest.raises(StaleLease, match="too late"):
                async with lease:
                    await asyncio.sleep(20)
            assert isinstance(lease.lost, StaleLease) and not lease.is_settled
            assert asyncio.current_task().cancelling() == 0
        async with Port((200, {"leases": [LEASE]}), (200, {"id": 7})) as port:
            (lease,) = await port.tasks.claim("resize")

            async def work():
                async with lease:
                    await asyncio.sleep(20)

            working = asyncio.create_task(work())
            await asyncio.sleep(0.02)
            working.cancel()
            with pytest.raises(asyncio.CancelledError):
                await working
            assert port.asked[-1][0] == "POST /v1/leases/t-1/release"

    run(main())


def test_work_that_raises_is_a_failed_attempt(run, caplog):
    async def main():
        async with Port((200, {"leases": [LEASE]}), (200, {})) as port:
            (lease,) = await port.tasks.claim("resize")
            async with lease:
                raise ValueError("no such photo")
            line, _, body = port.asked[-1]
            assert (line, body) == ("POST /v1/leases/t-1/fail", b"no such photo")

    run(main())
    assert "task 7 of type resize: attempt 2 failed" in caplog.text
