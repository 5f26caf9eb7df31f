"""What a lock says of its functions: which of them work with the hub."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import msgspec
import pytest

from gen_worker import DestinationRepo, SourceRepo
from gen_worker.manifest import LockedFunction
from gen_worker.runtime.scheduler.catalog import Catalog
from gen_worker.schema import json_schema
from gen_worker.types import ImageAsset, Tensors


class Publishes(msgspec.Struct):
    destination: DestinationRepo


class Reads(msgspec.Struct):
    source: SourceRepo | None = None


class OwnRecord(msgspec.Struct):
    class Where(msgspec.Struct):
        ref: str
        visibility: Literal["private", "public"] = "private"

    destination: Where


class Older(msgspec.Struct):
    destination_repo: str


class Text(msgspec.Struct):
    source: str
    destination: Literal["fr", "de"]


class Picture(msgspec.Struct):
    source: ImageAsset
    destination: Tensors | None = None


class Releases:
    """Has one release of one function."""

    locked: ClassVar[LockedFunction]

    async def manifest(self, *_release: str) -> Any:
        return SimpleNamespace(functions=[self.locked], models={}, models_by_function={})


def uses_hub(payload: Any, kind: str = "inference") -> bool:
    releases = Releases()
    schema = json_schema(payload)
    releases.locked = LockedFunction(name="f", module="m", kind=kind, input_schema=schema)  # type: ignore[misc]
    catalog = Catalog(releases)  # type: ignore[arg-type]
    return asyncio.run(catalog.facts("acme", "e", "r-1", "f")).uses_hub


@pytest.mark.parametrize("payload", [Publishes, Reads, OwnRecord, Older])
def test_a_handler_whose_payload_names_a_repository_works_with_the_hub(payload: Any) -> None:
    assert uses_hub(payload)


@pytest.mark.parametrize("payload", [Text, Picture])
def test_other_fields_of_these_names_are_the_authors_own(payload: Any) -> None:
    assert not uses_hub(payload)


def test_whatever_a_job_is_told_it_works_with_the_hub() -> None:
    assert uses_hub(Text, kind="conversion")
