"""How JSON and queries say things about tasks."""

import base64
from collections.abc import Mapping
from typing import Any


def ms(seconds: float) -> str:
    """Seconds as a query has them."""
    return str(max(0, round(seconds * 1000)))


def bytes_of(seen: Mapping[str, Any], name: str) -> bytes | None:
    """Bytes as JSON has them: as text, or else in base64."""
    if (text := seen.get(name)) is not None:
        return str(text).encode()
    if (text := seen.get(f"{name}_base64")) is not None:
        return base64.b64decode(text)
    return None
