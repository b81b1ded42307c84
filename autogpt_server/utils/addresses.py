"""Which network addresses blocks may talk to: a graph is no way into the network that the server stands in. No I/O.

Addresses are judged after names were resolved, and the address that was judged is the one that is used (`autogpt_server.utils.http`): a name
that resolves to another address a moment later changes nothing.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.settings import Settings

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.ip_network("::/96")


class ForbiddenAddress(AutoGPTServerError):
    """Blocks may not talk to this address."""

    code = "forbidden_address"


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What blocks may reach: the public internet, and the hosts that the operator named."""

    allow_private: bool = False
    allowed_hosts: frozenset[str] = frozenset()
    """`host` or `host:port`, lower case, whose addresses are not looked at."""

    @classmethod
    def of(cls, settings: Settings, *trusted_urls: str) -> "AddressPolicy":
        """The policy of the settings; `trusted_urls` come from settings, too, and their hosts may be anywhere."""
        trusted = (host_and_port(url) for url in trusted_urls)
        return cls(
            settings.outgoing_allow_private,
            frozenset((*(host.lower() for host in settings.outgoing_allowed_hosts), *trusted)),
        )

    def permits_host(self, host: str, port: int) -> bool:
        """Whether this host is allowed whatever its addresses are."""
        name = host.strip("[]").rstrip(".").lower()
        return self.allow_private or name in self.allowed_hosts or _joined(name, port) in self.allowed_hosts

    def check(self, host: str, port: int, addresses: Iterable[str]) -> list[str]:
        """The addresses of `host`, all of them; `ForbiddenAddress` if one of them is not for blocks.

        One forbidden address among public ones is enough: such a name is an attempt.
        """
        resolved = list(addresses)
        if not self.permits_host(host, port):
            for address in resolved:
                if not is_public(address):
                    where = host if host.strip("[]") == address else f"{host} ({address})"
                    raise ForbiddenAddress(
                        f"{where} is not on the public internet, where blocks may go. To allow it, add {_joined(host.strip('[]'), port)} to the "
                        "setting OUTGOING_ALLOWED_HOSTS, or set OUTGOING_ALLOW_PRIVATE=true for all such addresses."
                    )
        return resolved


def is_public(address: str) -> bool:
    """Whether an IP address, and any IPv4 address wrapped in it, is one of the public internet."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(_is_global(part) for part in (ip, *_wrapped(ip)))


def _is_global(ip: IPAddress) -> bool:
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped is not None or ip in _NAT64):
        return True  # What counts is the address inside.
    reserved = ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback or ip.is_link_local
    return ip.is_global and not reserved and not (isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local)


def _wrapped(ip: IPAddress) -> list[ipaddress.IPv4Address]:
    """IPv4 addresses that a packet to this IPv6 address may end at."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    found = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64 or ip in _IPV4_COMPATIBLE:
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return [inner for inner in found if inner is not None]


def host_and_port(url: str) -> str:
    """`host:port` of a URL, lower case, with the scheme's port where it names none."""
    parts = urlsplit(url)
    return _joined((parts.hostname or "").rstrip(".").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme, 0))


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
