"""Shows the replies of `count` as they come: stream.py [ENDPOINT]"""

import sys

from maitred import Client

endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555"
with Client(endpoint) as client:
    for reply in client.stream("count", "3", timeout=5):
        print(reply.text)
