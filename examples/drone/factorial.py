"""A persistent worker: one line of JSON for each task, one for each reply."""

import json
import math
import sys

for line in sys.stdin:
    task = json.loads(line)
    try:
        reply = {"result": str(math.factorial(int(task["payload"]))), "then": "local:hexadecimal"}
    except ValueError as error:
        # Trying again would not help: the task is a dead letter at once.
        reply = {"error": str(error), "retry": False}
    print(json.dumps(reply), flush=True)
