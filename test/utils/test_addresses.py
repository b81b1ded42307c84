"""Which addresses blocks may reach."""

import pytest

from autogpt_server.utils.addresses import AddressPolicy, ForbiddenAddress, host_and_port, is_public
from autogpt_server.utils.settings import Settings

PUBLIC = ["93.184.216.34", "1.1.1.1", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::101:101"]

FORBIDDEN = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "not an address",
    "",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", FORBIDDEN)
def test_forbidden(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(ForbiddenAddress, match=r"OUTGOING_ALLOWED_HOSTS, or set OUTGOING_ALLOW_PRIVATE=true"):
        AddressPolicy().check("example.com", 443, [address])
    assert AddressPolicy(allow_private=True).check("example.com", 443, [address]) == [address]


def test_one_forbidden_address_among_public_ones_is_enough() -> None:
    with pytest.raises(ForbiddenAddress, match=r"example\.com \(10\.0\.0\.1\)"):
        AddressPolicy().check("example.com", 443, ["1.1.1.1", "10.0.0.1"])


@pytest.mark.parametrize(
    ("allowed", "host", "port", "permitted"),
    [
        ("box.lan", "box.lan", 80, True),
        ("box.lan", "BOX.lan.", 8080, True),
        ("box.lan:80", "box.lan", 80, True),
        ("box.lan:80", "box.lan", 81, False),
        ("box.lan", "evil-box.lan", 80, False),
        ("[::1]:80", "::1", 80, True),
        ("[::1]:80", "[::1]", 81, False),
    ],
)
def test_hosts_that_the_operator_named(allowed: str, host: str, port: int, permitted: bool) -> None:
    policy = AddressPolicy.of(Settings(outgoing_allowed_hosts=(allowed,)))
    assert policy.permits_host(host, port) is permitted


def test_a_url_of_the_settings_is_trusted() -> None:
    policy = AddressPolicy.of(Settings(), "http://Box.lan:8080/v1")
    assert policy.permits_host("box.lan", 8080)
    assert not policy.permits_host("box.lan", 80)
    assert host_and_port("https://example.com/x") == "example.com:443"
    assert host_and_port("http://[::1]/x") == "[::1]:80"
