"""Requests to a broker's HTTP port: sent again where that is safe, refused with the broker's
reasons."""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ._backoff import QUICK, Backoff
from .errors import EndpointError, MaitredError, Refused, Timeout, Unreachable, refused

try:
    import httpx
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "tasks need httpx: pip install 'maitred[tasks]', or pip install httpx"
    ) from error


class Http:
    """A pool of connections to one broker."""

    def __init__(self, url: str, token: str | None) -> None:
        if not url.startswith(("http://", "https://")):
            raise EndpointError(f"url {url!r}: write it as http://127.0.0.1:8080")
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        # The address is the broker's own; proxies of the environment are not meant for it.
        self._client = httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False)

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        timeout: float | None,
        again: bool,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of a good answer.

        Args:
            timeout: seconds for all attempts together.
            again: whether asking twice does no harm, if an answer was lost.
        """
        deadline = _Deadline(timeout)
        backoff = Backoff(QUICK)
        while True:
            try:
                response = await self._client.request(
                    method, path, params=query, headers=headers, json=json, content=body,
                    timeout=httpx.Timeout(deadline.left(), connect=deadline.left(5.0)),
                )  # fmt: skip
                return response.status_code, _content(response, self.url)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure: MaitredError = Unreachable(f"no broker at {self.url}: {_text(error)}")
            except httpx.TimeoutException:
                raise Timeout(f"no answer from {self.url} within {timeout} s") from None
            except httpx.TransportError as error:
                failure = Unreachable(f"lost {self.url}: {_text(error)}")
                if not again:
                    raise failure from None
            wait = backoff.next()
            left = deadline.left()
            if left is not None and left <= wait:
                raise failure from None
            await asyncio.sleep(wait)


class _Deadline:
    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None else asyncio.get_running_loop().time() + seconds

    def left(self, most: float | None = None) -> float | None:
        """Seconds that are left, at least a moment."""
        if self._at is None:
            return most
        left = max(0.001, self._at - asyncio.get_running_loop().time())
        return left if most is None else min(left, most)


def path(*parts: str | int) -> str:
    """A path whose parts may hold anything."""
    return "/v1/" + "/".join(quote(str(part), safe="") for part in parts)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _content(response: "httpx.Response", url: str) -> dict[str, Any]:
    try:
        content = response.json() if response.content else {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise MaitredError(
            f"{url} answered {response.status_code} with what is no JSON object: is it a broker?"
        )
    if response.is_success:
        return content
    reason = str(content.get("reason", ""))
    message = str(content.get("message", f"HTTP {response.status_code}"))
    if reason == "not_found":
        message += "; does this broker keep tasks?"
    error: Refused = refused(reason, message)
    try:
        error.retry_after = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        pass
    raise error
