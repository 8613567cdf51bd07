"""A worker in a process of its own, to be killed, stopped and signalled: ENDPOINT KIND SECONDS.

It serves `work`: each request takes so long. It says `took BODY` when it begins one.
"""

import asyncio
import logging
import sys
import time

from maitred import AsyncRequest, AsyncWorker, Request, Worker


def say(line: str) -> None:
    """In one piece: several threads do."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(endpoint: str, kind: str, seconds: str) -> None:
    logging.basicConfig(level=logging.INFO)
    if kind == "async":
        worker = AsyncWorker(endpoint, grace=20)

        @worker.service("work", concurrency=4)
        async def work(request: AsyncRequest) -> str:
            say(f"took {request.text}")
            await asyncio.sleep(float(seconds))
            return f"done {request.text}"

        asyncio.run(worker.run())
    else:
        blocking = Worker(endpoint, grace=20)

        @blocking.service("work", concurrency=4)
        def block(request: Request) -> str:
            say(f"took {request.text}")
            time.sleep(float(seconds))
            return f"done {request.text}"

        blocking.run()
    say("ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
