"""Where a broker listens: `tcp://host:port` or `ipc://path`."""

import ipaddress
import re

from .errors import EndpointError, ServiceNameError


def check_endpoint(text: str) -> str:
    """The endpoint as it was given, if libzmq could connect to it.

    libzmq resolves names in silence and tries for ever, so that what cannot be right is said here.
    """
    problem = _problem(text)
    if problem is None:
        return text
    advice = "write it as tcp://host:port, IPv6 as tcp://[::1]:port, or ipc://path"
    raise EndpointError(f"endpoint {text!r}: {problem}; {advice}")


def _problem(text: str) -> str | None:
    if text.startswith("ipc://"):
        return None if text[6:] and text[6] != "@" else "it names no file"
    if not text.startswith("tcp://"):
        return "it does not start with tcp:// or ipc://"
    found = re.fullmatch(r"tcp://(\[.*\]|.*):(.*)", text)
    if found is None:
        return "it has no port"
    host, port = found.groups()
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        return "the port is not a number from 1 to 65535"
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return "what stands in brackets is not an IPv6 address"
        return None
    if host in ("", "*"):
        return "it names no host to connect to"
    if ":" in host:
        return "an IPv6 address needs brackets"
    return "the host is not a host name" if re.search(r"[/@ ]", host) else None


def service_name(service: str | bytes) -> bytes:
    """A service's name as it goes on the wire."""
    name = service.encode() if isinstance(service, str) else bytes(service)
    if not 1 <= len(name) <= 255:
        raise ServiceNameError(f"a service name has 1 to 255 bytes, this one has {len(name)}")
    return name
