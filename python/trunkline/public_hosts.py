"""Which addresses may be reached at URLs that others have named: public ones, and those that the operator allows."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Allowed = IPv4Network | IPv6Network | str
"""A network that may be reached though it is not public, or a host that may, wherever it leads."""
_EXPANDED: Final = IPv6Network("64:ff9b::/96")
"""NAT64: IPv4 addresses as IPv6 ones."""
_EXPANDED_HERE: Final = IPv6Network("64:ff9b:1::/48")
"""NAT64 of one network's own: where the IPv4 address stands in it is that network's matter."""


class NotAllowed(Exception):
    """A host leads to where it must not, or nowhere; the text is for whoever named it."""


async def address_of(host: str, port: int, allow: Collection[Allowed], setting: str) -> IPv4Address | IPv6Address:
    """Return the address that a host stands for now: connect to this one, as the name may stand for another soon.

    `setting` is what the operator allows more by. Raises NotAllowed where one of the host's addresses is not to be
    reached, or it has none.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotAllowed(f"The name {host} is not known.") from error
    addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if host.lower() in allow:
        return addresses[0]
    networks = [one for one in allow if not isinstance(one, str)]
    for address in addresses:
        if not may_reach(address, networks):
            raise NotAllowed(
                f"{host} leads to the address {address}, which is not public; `{setting}` in trunkline.yaml lets it be "
                "reached."
            )
    return addresses[0]


def may_reach(address: IPv4Address | IPv6Address, networks: Collection[IPv4Network | IPv6Network]) -> bool:
    """Tell whether an address is of the public internet or of these networks."""
    if any(address in network for network in networks if network.version == address.version):
        return True
    if isinstance(address, IPv6Address):
        within = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if within is None and address in _EXPANDED:
            within = IPv4Address(int(address) & 0xFFFF_FFFF)
        if within is not None:
            return may_reach(within, networks)
        if address in _EXPANDED_HERE:
            return False
    return address.is_global and not address.is_multicast
