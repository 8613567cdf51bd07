"""Enqueues a task of type `upper` and prints its number: enqueue.py [URL]"""

import sys

from maitred.tasks import Tasks

with Tasks(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080") as tasks:
    print(tasks.enqueue("upper", "hello").id)
