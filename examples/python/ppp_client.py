"""Calls the service of a Paranoid Pirate queue: ppp_client.py [FRONTEND]"""

import sys

from maitred import Client, Protocol

frontend = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5570"
with Client(frontend, protocol=Protocol.PPP) as client:
    print(client.call("echo", "hello", timeout=5).text)  # the queue has one service, by any name
