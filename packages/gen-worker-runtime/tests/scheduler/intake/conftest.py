"""Releases with functions of every kind, and an intake for their requests."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from gen_worker.errors import ArtifactTransferError
from gen_worker.manifest import dump_lock
from gen_worker.models.bindings import HFRepo, Repo
from gen_worker.models.dispatching import dispatch
from gen_worker.models.injection import ModelRef, ModelRefSource
from gen_worker.models.overrides import RepoFacts
from gen_worker.resources import ResourceRequirements, Resources
from gen_worker.runtime.engine import Invocation
from gen_worker.runtime.http.targets import parse_target
from gen_worker.runtime.scheduler import Costs, GpuClass, Ledger
from gen_worker.runtime.scheduler.catalog import Catalog
from gen_worker.runtime.scheduler.intake import Intake
from gen_worker.runtime.scheduler.releases import Releases
from gen_worker.runtime.scheduler.requests import RequestOptions, Requests
from gen_worker.schema import json_schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gen_worker.runtime.scheduler import RequestRecord, Submitted
    from gen_worker.runtime.scheduler.requests import Live

GIB = 1024**3
PIPELINE = "diffusers.StableDiffusionXLPipeline"


class Drawn(msgspec.Struct):
    prompt: str
    steps: int = 20
    quality: str = "draft"
    mask: bytes = b""
    masks: dict[str, list[bytes | None]] = {}


class Hub:
    """Knows two repositories, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_down = False
        self.during: list[Callable[[], Any]] = []
        """Awaited while it is asked, one at each question."""
        self.known = {
            "me/own": RepoFacts(
                tags=frozenset({"prod", "dev"}),
                flavors=frozenset({"bf16"}),
                pipeline_class="StableDiffusionXLPipeline",
            ),
            "me/other": RepoFacts(
                tags=frozenset({"prod"}), pipeline_class="diffusers.FluxPipeline"
            ),
        }

    async def look_up(self, ref: Any) -> RepoFacts | None:
        self.asked.append(str(ref))
        if self.during:
            await self.during.pop(0)()
        if self.is_down:
            raise ArtifactTransferError("the hub does not answer", retryable=True)
        return self.known.get(ref.repository)


class Pool:
    """The GPUs and models of a pool."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {"acme/flux:prod": 10 * GIB}
        self.gpus: tuple[GpuClass, ...] = ()

    def classes(self, _release_id: str) -> tuple[GpuClass, ...]:
        return self.gpus


class Hands:
    def wake(self, queue: str) -> None: ...
    def interrupt(self, live: Any, reason: str) -> None: ...


class Door(NamedTuple):
    """One scheduler's intake, as long as it runs."""

    intake: Intake
    requests: Requests
    releases: Releases
    catalog: Catalog
    ledger: Ledger
    hub: Hub
    pool: Pool
    project: Path
    clock: Any

    async def publish(self, text: str = "one", **functions: Any) -> str:
        """Publish a release whose source is this text; return its id."""
        (self.project / "src/paint.py").write_text(text)
        published = await self.releases.publish(
            self.project,
            lock=lock_of(functions or FUNCTIONS),
            environment="cpu",
            owner="acme",
            endpoint="paint",
            first_tag="prod",
        )
        return published.record.release_id

    async def submit(self, name: str = "draw", payload: Any = None, **options: Any) -> Submitted:
        about = {
            one: options.pop(one)
            for one in ("request_id", "owner", "timeout_ms", "overrides", "hints", "invoker_id")
            if one in options
        }
        if not isinstance(payload, bytes):
            payload = msgspec.json.encode({"prompt": "hi"} | (payload or {}))
        self.clock.now += 1
        usual: dict[str, Any] = {"request_id": f"at-{self.clock.now:.0f}", "owner": "bob"}
        invocation = Invocation(function="", payload=payload, **(usual | about))
        return await self.intake.submit(parse_target(name), invocation, body=payload, **options)

    async def live(self, name: str = "draw", payload: Any = None, **options: Any) -> Live:
        """Submit a request, and return it."""
        submitted = await self.submit(name, payload, **options)
        live = self.requests.by_seq(submitted.record.seq)
        assert live is not None
        return live

    async def payload_of(self, record: RequestRecord) -> Any:
        """Return what its worker is given."""
        call = await self.ledger.call(record.seq)
        assert call is not None
        return msgspec.msgpack.decode(call.payload)


BINDINGS: dict[str, Any] = {
    "engine": Repo("base_model", "acme/flux:prod").allow_override(PIPELINE),
    "vae": Repo("acme/vae").allow_override(PIPELINE),
    "fixed": HFRepo("Org/Text"),
    "sized": dispatch(
        "quality", {"draft": Repo("acme/small"), "final": Repo("acme/large")}, default="draft"
    ),
}
INJECTED = {
    "old": ModelRef(ModelRefSource.FIXED, "sd"),
    "picked": ModelRef(ModelRefSource.PAYLOAD, "quality"),
}


def table_of(bindings: Any, injected: Any, **more: Any) -> dict[str, Any]:
    """Return a function's table of a lock."""
    return {
        "module": "paint",
        "python_name": "Draw",
        "kind": "inference",
        "input_schema": json_schema(Drawn),
        "bindings": {name: one.to_lock(name, None) for name, one in bindings.items()},
        "injection_json": [one.to_lock(name, None) for name, one in injected.items()],
        **more,
    }


GPU = Resources(
    requires_gpu=True,
    vram_base=2 * GIB,
    vram_size_multiplier=1.0,
    vram_scales_with=("steps",),
    min_compute_capability=8.0,
)
FUNCTIONS: dict[str, Any] = {
    "draw": table_of(BINDINGS, INJECTED, timeout_ms=60_000, max_batch=4, label="Draws"),
    "erase": table_of({}, {}, output_mode="incremental", delta_output_schema={"type": "string"}),
    "gpu": table_of({"engine": BINDINGS["engine"]}, {}, resources=GPU.to_dict()),
    "train": table_of(
        {},
        {},
        kind="lora",
        endpoint_kind="training",
        resources=ResourceRequirements(min_vram_gb=24, compute_capability_min=9.0).to_dict(),
    ),
}


def lock_of(functions: Any) -> bytes:
    found = [{"name": name, **table} for name, table in functions.items()]
    lock = {
        "lock_version": 1,
        "endpoint_name": "paint",
        "functions": found,
        "models": {"sd": {"ref": "acme/sd:v2"}},
        "models_by_function": {"draw": {"draft": {"ref": "acme/draft"}}},
    }
    return dump_lock(_without_none(lock)).encode()


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(one) for name, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list) else value


@pytest.fixture
def open_door(
    folder: Path, clock: Any, make_project: Any
) -> Callable[..., AbstractAsyncContextManager[Door]]:
    @asynccontextmanager
    async def opened(options: RequestOptions | None = None, **more: Any) -> AsyncIterator[Door]:
        ledger = await Ledger.open(folder, clock=clock)
        requests = Requests(ledger, options, clock=clock)
        requests.runner = Hands()
        releases = await Releases.open(folder / "releases", ledger)
        catalog, hub, pool = Catalog(releases), Hub(), Pool()
        intake = Intake(
            requests,
            releases.tags,
            catalog,
            hub=hub,
            costs=Costs(),
            pool=pool,
            clock=clock,
            **more,
        )
        try:
            await requests.start()
            project = make_project()
            yield Door(intake, requests, releases, catalog, ledger, hub, pool, project, clock)
        finally:
            await requests.close()
            await releases.close()
            await ledger.close()

    return opened
