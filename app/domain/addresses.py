"""Which network addresses may be connected to, where others choose the destination."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")
_DENIED = (
    # Azure's virtual address of its platform: each machine there reaches its host's services by it
    # (learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16).
    ip_network("168.63.129.16/32"),
    # Relays of 6to4, which nobody has to run any more (RFC 7526).
    ip_network("192.88.99.0/24"),
    # Of protocols, not of servers (RFC 6890). Oracle's cloud has its metadata in it: 192.0.0.192.
    ip_network("192.0.0.0/24"),
    # For documentation (RFC 9637): Python 3.11 is older.
    ip_network("3fff::/20"),
)
"""What is not public though `ipaddress` says so."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets through to public addresses, and to those of the networks that an operator has allowed."""

    allowed: Sequence[Network] = ()
    is_open: bool = True
    """Whether public addresses are let through, or the allowed networks alone."""

    def admits(self, address: str) -> bool:
        """Whether this may be connected to; what is no address may not."""
        try:
            given = ip_address(address)
        except ValueError:
            return False
        meant = _meant(given)
        if any(each in network for network in self.allowed for each in (given, meant)):
            return True
        return self.is_open and _is_public(meant)


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Whom an address leads to in the end: an IPv6 address may carry one of IPv4 that a gateway goes to."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or address


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    """Global unicast, by IANA's registries: neither private nor loopback, link-local, shared or reserved."""
    if isinstance(address, IPv6Address) and address.is_site_local:
        # Global, for Python. They were private before fc00::/7 was, and may still be in use (RFC 3879).
        return False
    is_unicast = not address.is_multicast and not address.is_reserved
    return address.is_global and is_unicast and not any(address in network for network in _DENIED)
