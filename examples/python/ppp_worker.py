"""Serves a Paranoid Pirate queue until Ctrl-C: ppp_worker.py [BACKEND]"""

import sys

from maitred import Protocol, Request, Worker

backend = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5571"
worker = Worker(backend, protocol=Protocol.PPP)


@worker.service("echo")
def upper(request: Request) -> str:
    return request.text.upper()


worker.run()
