"""Addresses of orchestrators as operators and redirects write them."""

from __future__ import annotations

import pytest

from gen_worker.errors import SettingsError
from gen_worker.runtime.worker.addresses import Address, parse_address, seed_addresses


@pytest.mark.parametrize(
    ("text", "target", "uses_tls"),
    [
        ("grpcs://pool.example:9000", "pool.example:9000", True),
        ("HTTPS://pool.example:9000", "pool.example:9000", True),
        ("grpc://pool.example:443", "pool.example:443", False),
        ("http://pool.example:80/", "pool.example:80", False),
        (" pool.example:443 ", "pool.example:443", True),
        ("pool.example:8080", "pool.example:8080", False),
        ("[::1]:8080", "[::1]:8080", False),
    ],
)
def test_the_scheme_or_the_port_decides_about_tls(text: str, target: str, uses_tls: bool) -> None:
    assert parse_address(text) == Address(target, uses_tls)


@pytest.mark.parametrize("text", ["pool.example:8080", "grpcs://pool.example:8080"])
@pytest.mark.parametrize("decided", [True, False])
def test_what_the_operator_decides_about_tls_holds(text: str, decided: bool) -> None:
    assert parse_address(text, use_tls=decided).uses_tls is decided


@pytest.mark.parametrize(
    "text", ["", "pool", "pool:", ":8080", "pool:0", "pool:66000", "ftp://pool:1", "a/b:1", "::1"]
)
def test_an_address_that_names_no_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="write host:port"):
        parse_address(text)


def test_seeds_are_the_primary_first_and_each_once() -> None:
    seeds = seed_addresses("a:1", ["b:2", "grpc://a:1", " ", "c:443"])
    assert [str(seed) for seed in seeds] == ["grpc://a:1", "grpc://b:2", "grpcs://c:443"]


def test_without_any_address_the_error_names_the_setting() -> None:
    with pytest.raises(SettingsError, match="ORCHESTRATOR_PUBLIC_ADDR"):
        seed_addresses("", [""])
