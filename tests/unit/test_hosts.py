"""Names and URLs that there can be, and those that there cannot."""

import re
import socket

import pytest

from appliance.core.hosts import (
    check_free,
    is_host,
    join_port,
    name_of_url,
    of_url,
    split_port,
    url_fault,
)

LABEL = "x" * 63


@pytest.mark.parametrize(
    "text",
    [
        *(
            "msg.example.com",
            "localhost",
            "a-b.example.com.",
            "10.0.0.1",
            "my_broker",
            "7",
            LABEL,
            f"{LABEL}.org",
        ),
        *("bücher.example", "::1", "2001:db8::1", "fe80::1%eth0"),
    ],
)
def test_hosts(text: str) -> None:
    assert is_host(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "msg..example.com", ".example.com", "a b", "a/b", "user@host", "a%b", "*"),
        *(
            f"{LABEL}x.org",
            ".".join([LABEL] * 4),
            "℀.example",
            "ü" * 60,
            "1:2",
            "::1::",
            "[::1]",
            "x" * 100_000,
        ),
    ],
)
def test_what_is_no_host(text: str) -> None:
    assert not is_host(text)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://k.example.org:5000/v3",
            "http://10.0.0.1",
            "https://[2001:db8::1]:5000/v3",
            "https://[::1]/v3",
        ),
        *("https://k.example.org/identity/v3", "HTTPS://K.example.org:65535"),
    ],
)
def test_urls(url: str) -> None:
    assert url_fault(url) == ""


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://[fe80::1:5000/v3", "is not a URL"),
        ("https://[fe80]/v3", "is not a URL"),
        ("k.example.org:5000/v3", "is not a URL"),
        ("https:///v3", "is not a URL"),
        ("https://k.example.org/v3 # ours", "is not a URL"),
        ("https://k\t.example.org/v3", "is not a URL"),
        ("https://key..stone.org", "is not a URL: no host can have this name"),
        ("https://k\\evil/v3", "is not a URL: no host can have this name"),
        (
            "https://k.org:99999",
            (
                "is not a URL: a port is a number from 1 to 65535, and an IPv6 address stands in "
                "brackets"
            ),
        ),
        (
            "https://k.org:0",
            (
                "is not a URL: a port is a number from 1 to 65535, and an IPv6 address stands in "
                "brackets"
            ),
        ),
        (
            "https://k.org:5000x",
            (
                "is not a URL: a port is a number from 1 to 65535, and an IPv6 address stands in "
                "brackets"
            ),
        ),
        (
            "https://fe80::1:5000/v3",
            (
                "is not a URL: a port is a number from 1 to 65535, and an IPv6 address stands in "
                "brackets"
            ),
        ),
        (
            "https://user:geheimes@k.org/v3",
            (
                "holds an account, which programs would show; account and password have options "
                "of their own"
            ),
        ),
        (
            "https://user@k.org/v3",
            (
                "holds an account, which programs would show; account and password have options "
                "of their own"
            ),
        ),
        (
            "https://k.org/v3?token=geheimes",
            "continues after its path; leave out everything from ? or # on",
        ),
        (
            "https://k.org/v3#geheimes",
            "continues after its path; leave out everything from ? or # on",
        ),
    ],
)
def test_what_is_no_url_of_a_service(url: str, fault: str) -> None:
    assert url_fault(url) == fault


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("msg.example.org:6163", ("msg.example.org", 6163)),
        ("msg.example.org", ("msg.example.org", 443)),
        ("[2001:db8::1]:6163", ("2001:db8::1", 6163)),
        ("[::1]", ("::1", 443)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
    ],
)
def test_a_host_with_its_port(text: str, found: tuple[str, int]) -> None:
    assert split_port(text, default_port=443) == found
    assert split_port(join_port(*found)) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "host:", ":443", "host:0", "host:65536", "host:port", "::1", "::1:443", "[::1"),
        *("user@host:443", "https://host:443", "host/path:443", "a b:443", "[host]:443"),
    ],
)
def test_what_is_no_host_with_a_port(text: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(text) + "$"):
        split_port(text)
    with pytest.raises(ValueError, match=r"^host$"):
        split_port("host")


def test_what_a_message_shows_of_a_url() -> None:
    assert of_url("https://user:geheimes@k.org:5000/v3") == "k.org:5000"
    assert of_url("k.org") == "k.org"
    assert name_of_url("https://user:geheimes@K.org:5000/v3") == "k.org"
    assert name_of_url("/v2/images") == ""
    assert join_port("::1", None) == "[::1]"


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            check_free("127.0.0.1", port)
        check_free("127.0.0.2", port)
    check_free("127.0.0.1", port)
    with pytest.raises(OSError, match="assign requested address"):
        check_free("192.0.2.1", port)
