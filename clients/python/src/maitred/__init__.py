"""Call services and serve them through a maitred or Majordomo broker.

`Client` and `Worker` are for plain threads, `AsyncClient` and `AsyncWorker` for asyncio.
"""

from ._protocol import Protocol
from .blocking import Client, Handler, Request, Worker
from .client import AsyncClient, BrokerStatus
from .errors import (
    Closed,
    ConnectionLost,
    Denied,
    Draining,
    EndpointError,
    Expired,
    Failed,
    InvalidKey,
    MaitredError,
    NoWorkers,
    Overload,
    QueueFull,
    Refused,
    RepliesTooLarge,
    ServiceNameError,
    Timeout,
    TooLarge,
    Unreachable,
    WorkersFailed,
)
from .message import Body, Message
from .security import Curve, Plain
from .worker import AsyncHandler, AsyncRequest, AsyncWorker

__all__ = [
    "AsyncClient",
    "AsyncHandler",
    "AsyncRequest",
    "AsyncWorker",
    "Body",
    "BrokerStatus",
    "Client",
    "Closed",
    "ConnectionLost",
    "Curve",
    "Denied",
    "Draining",
    "EndpointError",
    "Expired",
    "Failed",
    "Handler",
    "InvalidKey",
    "MaitredError",
    "Message",
    "NoWorkers",
    "Overload",
    "Plain",
    "Protocol",
    "QueueFull",
    "Refused",
    "RepliesTooLarge",
    "Request",
    "ServiceNameError",
    "Timeout",
    "TooLarge",
    "Unreachable",
    "Worker",
    "WorkersFailed",
]
