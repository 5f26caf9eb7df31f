"""`gen-worker scheduler tokens`: made, listed and revoked, whether the scheduler runs or not."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any, Protocol

from gen_worker.cli.failures import UsageError
from gen_worker.cli.platform.folder import DataFolder
from gen_worker.cli.platform.tables import ago, print_rows

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

    from gen_worker.cli.platform.api import Api
    from gen_worker.runtime.scheduler.tokens import Tokens

__all__ = ["run"]


class _Desk(Protocol):
    """Where tokens are managed."""

    def add(self, scopes: list[str], owner: str, name: str) -> dict[str, Any]: ...
    def list(self) -> list[dict[str, Any]]: ...
    def remove(self, token_id: str) -> None: ...


def run(args: argparse.Namespace) -> int:
    """Do what the words say."""
    action, *words = args.tokens or [""]
    is_known = action == "add" or (action, len(words)) in (("ls", 0), ("rm", 1))
    if not is_known:
        raise UsageError("write `tokens add [SCOPE ...]`, `tokens ls` or `tokens rm TOKEN_ID`")
    if action == "add":
        _check(words)
    desk = _desk(args.data)
    if action == "add":
        _print_new(desk.add(words or ["invoke"], args.owner, args.name), args.json)
    elif action == "ls":
        _print_all(desk.list(), args.json)
    else:
        desk.remove(words[0])
    return 0


def _check(scopes: list[str]) -> None:
    from gen_worker.runtime.http.credentials import SCOPES

    for scope in scopes:
        if scope not in SCOPES:
            raise UsageError(f"{scope!r} is no scope: there are {', '.join(SCOPES)}")


def _desk(data: str) -> _Desk:
    """Return the scheduler that serves the folder; its database where none does."""
    folder = DataFolder(data)
    announced = folder.scheduler().get("http")
    if not announced:
        return _AtRest(os.path.join(folder.path, "scheduler"))
    from gen_worker.cli.platform.api import Api

    return _Running(Api(announced, folder.token()))


class _Running:
    def __init__(self, api: Api) -> None:
        self._api = api

    def add(self, scopes: list[str], owner: str, name: str) -> dict[str, Any]:
        body = {"scopes": scopes, "owner": owner or None, "name": name}
        found: dict[str, Any] = self._api.post("/v1/tokens", body)
        return found

    def list(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._api.get("/v1/tokens")["tokens"]
        return found

    def remove(self, token_id: str) -> None:
        self._api.delete(f"/v1/tokens/{token_id}")


class _AtRest:
    """The ledger of a scheduler that does not run; nobody else has it meanwhile."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def add(self, scopes: list[str], owner: str, name: str) -> dict[str, Any]:
        from gen_worker.runtime.scheduler.api.token_routes import fields_of

        async def act(tokens: Tokens) -> dict[str, Any]:
            issued = await tokens.issue(scopes, owner=owner or None, name=name)
            return {**fields_of(issued.record), "token": issued.token}

        return asyncio.run(self._with(act))

    def list(self) -> list[dict[str, Any]]:
        from gen_worker.runtime.scheduler.api.token_routes import fields_of

        async def act(tokens: Tokens) -> list[dict[str, Any]]:
            return [fields_of(record) for record in tokens.records()]

        return asyncio.run(self._with(act))

    def remove(self, token_id: str) -> None:
        async def act(tokens: Tokens) -> dict[str, Any]:
            if not await tokens.revoke(token_id):
                raise UsageError(f"there is no token {token_id!r} that holds: see `tokens ls`")
            return {}

        asyncio.run(self._with(act))

    async def _with(self, act: Callable[[Tokens], Awaitable[Any]]) -> Any:
        from gen_worker.runtime.scheduler import Ledger
        from gen_worker.runtime.scheduler.tokens import Tokens

        ledger = await Ledger.open(self._folder)
        try:
            return await act(await Tokens.open(ledger))
        finally:
            await ledger.close()


def _print_new(row: dict[str, Any], as_json: bool) -> None:
    if as_json or not os.isatty(sys.stdout.fileno()):
        import msgspec

        print(msgspec.json.encode(row).decode())
        return
    print(f"{row['token_id']}: it is shown this once", file=sys.stderr)
    print(row["token"])


def _print_all(rows: list[dict[str, Any]], as_json: bool) -> None:
    print_rows(
        rows,
        {
            "ID": lambda row: row["token_id"],
            "SCOPES": lambda row: ", ".join(row["scopes"]),
            "OWNER": lambda row: row["owner"] or "-",
            "AGE": lambda row: ago(row["created_at"]),
            "USED": lambda row: row["used_on"] or "never",
            "STATE": lambda row: "revoked" if row["revoked_at"] else "holds",
            "NAME": lambda row: row["name"],
        },
        as_json=as_json,
        name="tokens",
        nothing="there are no tokens: `gen-worker scheduler tokens add` makes one",
    )
