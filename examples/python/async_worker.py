"""Serves `upper` and `count` over Majordomo until Ctrl-C, without threads: async_worker.py [ENDPOINT]"""

import asyncio
import logging
import sys

from maitred import AsyncRequest, AsyncWorker

logging.basicConfig(level=logging.INFO)
worker = AsyncWorker(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555")


@worker.service("upper", concurrency=100)
async def upper(request: AsyncRequest) -> str:
    return request.text.upper()


@worker.service("count", concurrency=100)
async def count(request: AsyncRequest) -> str:
    last = int(request.text)
    for number in range(1, last):
        await request.partial(f"{number}")
    return f"{last}"


asyncio.run(worker.run())
