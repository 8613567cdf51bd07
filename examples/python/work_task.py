"""Waits for one task of type `upper` and does it: work_task.py [URL]"""

import sys

from maitred.tasks import Tasks

with Tasks(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080") as tasks:
    for lease in tasks.claim("upper", lease=30):
        with lease:  # what raises in here is a failed attempt
            result = lease.payload.decode().upper()
            lease.complete(result)
            print(f"task {lease.id}: {result}")
