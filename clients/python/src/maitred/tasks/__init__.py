"""Tasks: durable work over a broker's HTTP port, enqueued here and claimed there.

`Tasks` and `TaskWorker` are for plain threads, `AsyncTasks` and `AsyncTaskWorker` for asyncio; they
need `httpx` (`pip install 'maitred[tasks]'`).
"""

from .blocking import Lease, Tasks, TaskWorker
from .client import AsyncTasks, Enqueued, Task
from .lease import AsyncLease
from .worker import AsyncTaskWorker

__all__ = [
    "AsyncLease",
    "AsyncTaskWorker",
    "AsyncTasks",
    "Enqueued",
    "Lease",
    "Task",
    "TaskWorker",
    "Tasks",
]
