"""Serves `upper` and `count` over Majordomo until Ctrl-C: worker.py [ENDPOINT]"""

import logging
import sys

from maitred import Request, Worker

logging.basicConfig(level=logging.INFO)
worker = Worker(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555")


@worker.service("upper", concurrency=4)
def upper(request: Request) -> str:
    return request.text.upper()


@worker.service("count", concurrency=4)
def count(request: Request) -> str:
    last = int(request.text)  # what is no number is an error the client sees
    for number in range(1, last):
        request.partial(f"{number}")
    return f"{last}"


worker.run()
