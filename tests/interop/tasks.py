"""The tasks side of a broker over HTTP; every answer is held against the OpenAPI document."""

import http.client
import json
import re
from urllib.parse import quote, urlencode

from jsonschema import Draft202012Validator

from broker import HERE, Response

DOCUMENT = json.loads((HERE.parent.parent / "docs/openapi.json").read_text())
# What tests of one run met: method, path as the document has it, status.
MET = set()


def validator(schema):
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def path_of(path):
    """The document's name of a path: literal ones before those with a parameter."""
    bare = path.split("?")[0]
    for known in sorted(DOCUMENT["paths"], key=lambda name: name.count("{")):
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", known), bare):
            return known
    raise AssertionError(f"{bare} is not in the OpenAPI document")


def check_described(method, path, answer):
    """The status is described, and the body is what the description says."""
    known = path_of(path)
    operation = DOCUMENT["paths"][known].get(method.lower())
    if operation is None:
        assert answer.status == 405, f"{method} {known} is not in the OpenAPI document"
        return
    MET.add((method, known, str(answer.status)))
    described = operation["responses"].get(str(answer.status))
    assert described, f"{method} {known}: {answer.status} is not described\n{answer.body!r}"
    content = described.get("content")
    if content is None:
        assert answer.body == b""
    elif "application/json" in content:
        assert answer.headers["content-type"] == "application/json"
        validator(content["application/json"]["schema"]).validate(answer.json())


class Tasks:
    """What producers, workers and operators say, each over a connection of its own."""

    def __init__(self, broker, token=None):
        self.broker = broker
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(self, method, path, body=None, *, headers=None, timeout=15.0):
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        connection = http.client.HTTPConnection(self.broker.http_address, timeout=timeout)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            got = connection.getresponse()
            head = {name.lower(): value for name, value in got.getheaders()}
            answer = Response(got.status, head, got.read())
        finally:
            connection.close()
        check_described(method, path, answer)
        return answer

    def good(self, method, path, body=None, **keywords):
        answer = self.ask(method, path, body, **keywords)
        assert 200 <= answer.status < 300, (answer.status, answer.body)
        return answer.json() if answer.body else None

    def refused(self, status, reason, method, path, body=None, **keywords):
        """It must be refused so, with a sentence for people."""
        answer = self.ask(method, path, body, **keywords)
        got = (answer.status, answer.json().get("reason"))
        assert got == (status, reason), answer.body
        return answer.json()["message"]

    def enqueue(self, task_type, payload=b"", *, key=None, headers=None, **settings):
        headers = dict(headers or {})
        if key:
            headers["Idempotency-Key"] = key
        query = f"?{urlencode(settings)}" if settings else ""
        path = f"/v1/tasks/{quote(task_type, safe='')}{query}"
        return self.good("POST", path, payload, headers=headers)["id"]

    def claim(self, *types, **words):
        return self.good("POST", "/v1/leases", {"types": list(types), **words})["leases"]

    def one(self, *types, **words):
        (lease,) = self.claim(*types, **words)
        return lease

    def complete(self, lease, result=b"", **keywords):
        return self.good("POST", f"/v1/leases/{lease['token']}/complete", result, **keywords)

    def fail(self, lease, error=b"", **words):
        query = f"?{urlencode(words)}" if words else ""
        return self.good("POST", f"/v1/leases/{lease['token']}/fail{query}", error)

    def show(self, id):
        return self.good("GET", f"/v1/tasks/{id}")

    def why(self, id):
        return self.good("GET", f"/v1/tasks/{id}/why")

    def list(self, **words):
        return self.good("GET", f"/v1/tasks?{urlencode(words)}")["tasks"]

    def queue(self, task_type):
        queues = self.good("GET", "/v1/queues")["queues"]
        return next((queue for queue in queues if queue["type"] == task_type), None)
