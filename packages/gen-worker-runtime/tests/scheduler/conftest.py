"""Ledgers in a test's own folder, and requests to put into them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from gen_worker.runtime.scheduler import Ledger, LedgerOptions, Submission

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Clock:
    """Unix time that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class OpenLedger(Protocol):
    def __call__(self, **options: Any) -> AbstractAsyncContextManager[Ledger]: ...


class MakeSubmission(Protocol):
    def __call__(self, request_id: str, **fields: Any) -> Submission: ...


class MakeProject(Protocol):
    def __call__(self, name: str = ..., **files: str) -> Path: ...


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The scheduler's; nothing is there yet."""
    return tmp_path / "scheduler"


@pytest.fixture
def open_ledger(folder: Path, clock: Clock) -> OpenLedger:
    @asynccontextmanager
    async def opened(**options: Any) -> AsyncIterator[Ledger]:
        ledger = await Ledger.open(folder, LedgerOptions(**options), clock=clock)
        try:
            yield ledger
        finally:
            await ledger.close()

    return opened


@pytest.fixture
def submission() -> MakeSubmission:
    def make(request_id: str, **fields: Any) -> Submission:
        defaults = {"owner": "acme", "endpoint": "paint", "function": "draw", "payload": b"\x80"}
        return Submission(request_id=request_id, **(defaults | fields))

    return make


@pytest.fixture
def make_project(tmp_path: Path) -> MakeProject:
    """Write a project of two functions, or of others."""

    def make(name: str = "project", **files: str) -> Path:
        project = tmp_path / name
        some = {"pyproject.toml": "[project]\n", "src/paint.py": "one\n"}
        for path, text in (some | files).items():
            target = project / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        return project

    return make
