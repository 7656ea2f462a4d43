"""Which addresses a tenant may point us to."""

from ipaddress import ip_network

import pytest

from app.domain.addresses import Gate

PRIVATE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1",
    "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1",
    "2002:7f00:1::", "2002:a00:1::1", "2001::1",
    "fec0::1", "feff:ffff::1", "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::a83f:8110", "2002:a83f:8110::1",
    "192.88.99.1", "192.0.0.192", "192.0.0.9", "64:ff9b:1::a00:1", "3fff::1", "3fff:fff:ffff::1", "5f00::1",
]  # fmt: skip
PUBLIC = [
    "168.63.129.17",
    "192.88.98.1",
    "2a00:1450::1",
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "2606:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
]
NO_ADDRESS = ["", "localhost", "127.1", "0x7f000001", "2130706433", "127.0.0.1 ", "[::1]"]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_not_admitted(address: str) -> None:
    assert not Gate().admits(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is(address: str) -> None:
    assert Gate().admits(address)
    assert not Gate(is_open=False).admits(address)


@pytest.mark.parametrize("address", NO_ADDRESS)
def test_what_is_no_address_is_not_admitted(address: str) -> None:
    assert not Gate([ip_network("0.0.0.0/0"), ip_network("::/0")]).admits(address)


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::7"])
def test_allowed_networks_are_admitted_and_nothing_beside_them(address: str) -> None:
    for is_open in (True, False):
        gate = Gate([ip_network("10.1.0.0/16"), ip_network("fd00::/64")], is_open=is_open)
        assert gate.admits(address)
        assert not gate.admits("10.2.0.1")
        assert not gate.admits("127.0.0.1")
