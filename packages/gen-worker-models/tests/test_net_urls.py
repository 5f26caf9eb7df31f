"""Only plain web addresses are opened, and every address is judged by what it really is."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.models.net import UrlRefusedError, is_public, parse_url

if TYPE_CHECKING:
    import ipaddress
from contextlib import suppress


@pytest.mark.parametrize(
    ("text", "host", "port", "target"),
    [
        ("http://example.com", "example.com", 80, "/"),
        ("HTTPS://Example.COM.:8443/a?b#c", "example.com", 8443, "/a?b"),
        ("https://h/ü?q=ß%20%zz", "h", 443, "/%C3%BC?q=%C3%9F%20%zz"),
        ("http://[2001:DB8::1]:81/x", "2001:db8::1", 81, "/x"),
        ("http://8.8.8.8/", "8.8.8.8", 80, "/"),
        ("http://xn--mnchen-3ya.de/", "xn--mnchen-3ya.de", 80, "/"),
        ("http://my_host/a//b/../c;d=e", "my_host", 80, "/a//b/../c;d=e"),
        ("http://h?q", "h", 80, "/?q"),
    ],
)
def test_plain_urls(text: str, host: str, port: int, target: str) -> None:
    url = parse_url(text)
    wanted = target if target.startswith("/") else "/" + target
    assert (url.host, url.port, url.target) == (host, port, wanted)
    assert parse_url(url.full) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://h/",
        "file:///etc/passwd",
        "//h/",
        "h/path",
        "http:/h",
        "http:///x",
        "http://user@h/",
        "http://user:secret@h/",
        "http://h:0/",
        "http://h:65536/",
        "http://h:8a/",
        "http://h:/",
        "http://a b/",
        "http://h/a b",
        "http://h\\@evil/",
        "http://evil\\.h/",
        "http://h/\r\nHost: evil",
        "http://h/\n",
        "http://h/\x00",
        " http://h/",
        "http://h/\t",
        "http://münchen.de/",
        "http://h\u3002com/",
        "http://①②⑦.①/",
        "http://%6c%6f/",
        "http://h%00/",
        "http://127.1/",
        "http://0x7f.0.0.1/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://127.0.0.1.0x1/",
        "http://256.1.1.1/",
        "http://[::1%25eth0]/",
        "http://[::g]/",
        "http://[127.0.0.1]/",
        "http://::1/",
        "http://-h/",
        "http://a..b/",
        "http://" + "a" * 64 + "/",
        "http://h/" + "a" * 20_000,
    ],
)
def test_tricks_are_refused(text: str) -> None:
    with pytest.raises(UrlRefusedError) as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)
    assert not caught.value.retryable


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    for candidate in (text, "http://" + text, "http://h/" + text):
        try:
            url = parse_url(candidate)
        except UrlRefusedError:
            continue
        assert url.full.isascii()
        assert not set(url.full) & set(" \\\r\n\t\x00")
        # The standard library's parser, which others use, sees the same host.
        assert (urlsplit(url.full).hostname or "") == url.host
        assert parse_url(url.full) == url


@given(st.text(max_size=40))
def test_redirects_lead_to_a_url_or_are_refused(location: str) -> None:
    base = parse_url("https://example.com/a/b?c")
    with suppress(UrlRefusedError):
        assert base.join(location).scheme in ("http", "https")


def test_the_query_is_never_shown() -> None:
    url = parse_url("https://h/path?sig=secret")
    assert str(url) == repr(url) == f"{url}" == "https://h/path"


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "172.15.0.1",
        "192.0.1.1",
        "2606:4700::1111",
        "64:ff9b::808:808",
    ],
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "localhost",
        "",
    ],
)
def test_inner_addresses(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses())
def test_nothing_private_is_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if ip.is_private or ip.is_loopback or ip.is_link_local or ip.is_multicast:
        assert not is_public(str(ip))
