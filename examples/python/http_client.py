"""Calls `upper` over HTTP with nothing but Python: http_client.py [URL]"""

import json
import sys
import urllib.error
import urllib.request

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
try:
    with urllib.request.urlopen(f"{url}/v1/services/upper?timeout=5s", b"hello") as reply:
        print(reply.read().decode())
except urllib.error.HTTPError as refused:
    why = json.load(refused)
    sys.exit(f"{refused.status} {why['reason']}: {why['message']}")
