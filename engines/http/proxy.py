"""Which proxy the environment names for a server: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in either case.

`no_proxy` is a list of names (and all below them), addresses, networks (`10.0.0.0/8`) or `*`, each with a port or without.
"""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.request
from typing import NamedTuple
from urllib.parse import urlsplit

from engines.contract import BadOption


class Proxy(NamedTuple):
    """`url` may hold credentials; `name` is for messages: the variable and the address without them."""

    url: str
    name: str
    credentials: str


def proxy_for(tls: bool, host: str, port: int) -> Proxy | None:
    """The proxy to this server; None to go directly. Raises BadOption for one that can't be used."""
    scheme = "https" if tls else "http"
    proxies = urllib.request.getproxies()
    kind = scheme if proxies.get(scheme) else "all"
    url = proxies.get(kind, "")
    if not url or urllib.request.proxy_bypass(host) or is_bypassed(host, port, proxies.get("no", "")):
        return None
    variable = next((name for name in os.environ if name.lower() == f"{kind}_proxy"), f"{kind}_proxy")
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        if kind == "all":  # SOCKS as a rule, which no plain client here speaks
            return None
        raise BadOption(
            f"the proxy in {variable} is not an http:// address with a host", f"{variable}= goes without, or add {host} to no_proxy"
        )
    credentials, _, address = parts.netloc.rpartition("@")
    return Proxy(url, f"the proxy {address} from {variable}", credentials)


def is_bypassed(host: str, port: int, no_proxy: str) -> bool:
    """Whether `no_proxy` takes this server out."""
    return any(_matches(entry, host.lower(), port) for entry in re.split(r"[,\s]+", no_proxy.lower()) if entry)


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    name, colon, wanted_port = entry.rpartition(":")
    if not colon or not wanted_port.isdigit():
        name, wanted_port = entry, ""
    name = name.strip("[]").lstrip("*").lstrip(".")
    return (host == name or host.endswith(f".{name}")) and wanted_port in ("", str(port))
