"""What may be reached at hosts that others have named."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from trunkline.public_hosts import NotAllowed, address_of, may_reach


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        *(
            (address, False)
            for address in (
                "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
                "224.0.0.1", "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::",
            )
        ),
    ],
)  # fmt: skip
def test_only_public_addresses_are(address: str, *, reached: bool) -> None:
    assert may_reach(ip_address(address), ()) == reached


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "::1", "0x7f.1", "nowhere.invalid"])
async def test_a_host_that_leads_inside_or_nowhere_is_refused(host: str) -> None:
    with pytest.raises(NotAllowed):
        await address_of(host, 80, (), "some.allow")


async def test_the_operator_allows_networks_and_hosts() -> None:
    assert str(await address_of("127.0.0.1", 80, (ip_network("127.0.0.0/8"),), "some.allow")) == "127.0.0.1"
    assert (await address_of("LocalHost", 80, ("localhost",), "some.allow")).is_loopback
    with pytest.raises(NotAllowed, match=r"some\.allow"):
        await address_of("127.0.0.1", 80, ("localhost", ip_network("10.0.0.0/8")), "some.allow")
