"""Tokens: who has one, what is kept of it, and that a revoked one is worth nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gen_worker.errors import ValidationError
from gen_worker.runtime.scheduler.tokens import Tokens

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Clock, OpenLedger

DAY_S = 86_400


async def test_a_token_is_known_by_itself_also_after_a_restart(
    open_ledger: OpenLedger, clock: Clock, folder: Path
) -> None:
    async with open_ledger() as ledger:
        tokens = await Tokens.open(ledger, clock=clock)
        token, record = await tokens.issue({"read", "invoke"}, owner="Acme Inc", name="ci", by="me")
    async with open_ledger() as ledger:
        tokens = await Tokens.open(ledger, clock=clock)
        principal = tokens.principal(token.encode())
        assert principal is not None
        assert (principal.scopes, principal.owner, principal.name) == (
            frozenset({"invoke", "read"}),
            "acme-inc",
            "ci",
        )
        await ledger.flush()
    assert (record.scopes, record.owner) == (("invoke", "read"), "acme-inc")
    secret = token.rpartition("_")[2].encode()
    for path in folder.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), "the token itself is nowhere"


async def test_what_is_nearly_a_token_is_none(open_ledger: OpenLedger) -> None:
    async with open_ledger() as ledger:
        tokens = await Tokens.open(ledger, root_token="root")
        token, record = await tokens.issue(["admin"])
        wrong = token[:-1] + ("a" if token[-1] != "a" else "b")
        for given in (
            wrong,
            token[4:],
            record.token_id,
            f"gwt_{record.token_id}_",
            "",
            "root ",
            "\xff",
        ):
            assert tokens.principal(given.encode("latin-1")) is None, given
        assert tokens.principal(b"root") is not None
        assert token not in repr(tokens) + repr(record)


async def test_a_revoked_token_is_worth_nothing(open_ledger: OpenLedger, clock: Clock) -> None:
    async with open_ledger() as ledger:
        tokens = await Tokens.open(ledger, clock=clock)
        token, record = await tokens.issue(["invoke"])
        assert await tokens.revoke(record.token_id)
        assert not await tokens.revoke(record.token_id), "it is already"
        assert not await tokens.revoke("nobody\udcff")
        assert tokens.principal(token.encode()) is None
        assert tokens.records()[0].revoked_at == clock.now
    async with open_ledger() as ledger:
        assert (await Tokens.open(ledger)).principal(token.encode()) is None


async def test_the_day_it_was_used_last_is_kept(open_ledger: OpenLedger, clock: Clock) -> None:
    async with open_ledger() as ledger:
        tokens = await Tokens.open(ledger, clock=clock)
        token, _ = await tokens.issue(["invoke"])
        assert tokens.records()[0].used_on is None
        for _ in range(3):
            tokens.principal(token.encode())
        clock.now += DAY_S
        tokens.principal(token.encode())
        await ledger.flush()
        before = tokens.records()
    async with open_ledger() as ledger:
        after = (await Tokens.open(ledger)).records()
    assert before == after
    assert after[0].used_on == int(clock.now // DAY_S)


@pytest.mark.parametrize(
    "asked",
    [
        {"scopes": []},
        {"scopes": ["root"]},
        {"scopes": ["read"], "owner": "///"},
        {"scopes": ["read"], "name": "x" * 201},
    ],
)
async def test_a_token_that_makes_no_sense_is_not_made(
    open_ledger: OpenLedger, asked: dict[str, str]
) -> None:
    async with open_ledger() as ledger:
        tokens = await Tokens.open(ledger)
        with pytest.raises(ValidationError):
            await tokens.issue(**asked)
        assert not tokens.records()
