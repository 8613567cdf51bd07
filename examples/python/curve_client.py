"""Calls `upper` of a broker that asks for keys: curve_client.py ENDPOINT BROKER.key.pub OWN.key"""

import sys

from maitred import Client, Curve

endpoint, server, key = sys.argv[1:]
with Client(endpoint, security=Curve.load(server=server, key=key)) as client:
    print(client.call("upper", "hello", timeout=5).text)
