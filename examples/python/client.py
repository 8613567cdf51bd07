"""Calls `upper` over Majordomo: client.py [ENDPOINT]"""

import sys

from maitred import Client, MaitredError

endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555"
with Client(endpoint) as client:
    try:
        print(client.call("upper", "hello", timeout=5).text)
    except MaitredError as error:
        sys.exit(f"no answer: {error}")
