"""What is told of the models that a request waits for, and of steps that take too long."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest

from gen_worker import Repo, RequestContext, dispatch, inference_function
from gen_worker.errors import ModelResolutionError
from gen_worker.events import Emitted
from gen_worker.ports import NOBODY, ModelRequest
from gen_worker.runtime.telemetry import TelemetryPolicy, WarnAfter
from gen_worker.testing import VirtualClock
from gen_worker.testing.ports import fake_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from gen_worker.ports import Ports
    from gen_worker.spec import Binding, FunctionSpec

PAINTER: Repo[Any] = Repo("painter", "acme/painter")


class Text(msgspec.Struct):
    text: str = ""
    quality: str = "draft"


@inference_function(models={"brush": PAINTER})
async def paint(ctx: RequestContext, brush: Any, payload: Text) -> Text:
    await brush()
    return payload


class Local(msgspec.Struct):
    """What a source says of files that are here."""

    ref: str
    digest: str
    root: str
    size_bytes: int = 1000
    is_localized: bool = False


class Prepared(msgspec.Struct):
    model: Local


class Shelf:
    """A `Models` port that waits where a test says so, and tells what real models would."""

    def __init__(self, root: str) -> None:
        self.tell: Callable[[Emitted], None]
        self.may_resolve = asyncio.Event()
        self.may_load = asyncio.Event()
        self.may_paint = asyncio.Event()
        self.is_downloaded = self.is_loaded = False
        self.error: Exception | None = None
        self.is_on_nfs = False
        self._root = root

    def open(self) -> None:
        for event in (self.may_resolve, self.may_load, self.may_paint):
            event.set()

    async def look_up(self, ref: object) -> None:
        return None

    async def prepare(
        self,
        binding: Binding,
        choice: Mapping[str, Any],
        annotation: Any,
        request: ModelRequest = NOBODY,
    ) -> Prepared:
        await self.may_resolve.wait()
        if self.error is not None:
            raise self.error
        if not self.is_downloaded:
            facts = {"model_id": "acme/painter:prod", "provider": "hf", "source": "huggingface"}
            done = {**facts, "bytes_total": 1000, "duration_ms": 20}
            self._say(
                "model.download.completed", {**done, "request_id": request.request_id}, request
            )
        self.is_downloaded = True
        if self.is_on_nfs:
            copied = {"model_id": "acme/painter:prod", "bytes_copied": 1000, "duration_ms": 40}
            self._say("model.copy.completed", {**copied, "request_id": request.request_id}, request)
        local = Local("acme/painter:prod", "d1", self._root, is_localized=self.is_on_nfs)
        self.is_on_nfs = False
        return Prepared(local)

    @asynccontextmanager
    async def lease(
        self, prepared: object, *, device: str, request: ModelRequest = NOBODY
    ) -> AsyncIterator[object]:
        await self.may_load.wait()
        if not self.is_loaded:
            self._say("model.load.started", {"model_id": "acme/painter:prod"})
            done = {"model_id": "acme/painter:prod", "duration_ms": 30, "error_type": ""}
            self._say("model.load.completed", done)
        self.is_loaded = True
        yield self.may_paint.wait

    async def escalate(self, *_: object, **__: object) -> bool:
        return False

    def _say(self, name: str, payload: dict[str, Any], request: ModelRequest = NOBODY) -> None:
        self.tell(Emitted(request_id=request.request_id, type=name, payload=payload, at=1.0))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(str(tmp_path))


@pytest.fixture
def ports(tmp_path: Path, shelf: Shelf) -> Callable[[Sequence[FunctionSpec]], Ports]:
    return lambda functions: fake_ports(tmp_path, functions, shelf)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_each_step_is_told_of_live(watched: Any, shelf: Shelf, ports: Any) -> None:
    clock = VirtualClock()
    async with watched(paint, ports=ports, clock=clock) as room:
        shelf.tell = room.telemetry.emit
        job = room.submit("paint", request_id="r1")
        await settled()
        clock.advance(0.05)
        await room.until("request.model_resolve.started")
        assert room.heard.names() == [
            "request.received",
            "request.started",
            "metrics.compute.started",
            "request.model_resolve.started",
        ]
        shelf.may_resolve.set()
        await room.until("request.model_load.started")
        resolved = room.heard.payload("request.model_resolve.completed")
        assert resolved["model_id"] == "acme/painter:prod"
        assert resolved["param_name"] == "brush"
        shelf.may_load.set()
        await room.until("request.inference.started")
        assert room.heard.payload("request.model_load.completed")["param_name"] == "brush"
        shelf.may_paint.set()
        await job.outcome()
        assert room.heard.names("r1")[-4:] == [
            "metrics.gpu_load",
            "metrics.inference",
            "metrics.job",
            "request.completed",
        ]


async def test_a_copy_from_nfs_is_part_of_what_its_request_cost(
    watched: Any, shelf: Shelf, ports: Any
) -> None:
    shelf.open()
    shelf.is_on_nfs = True
    async with watched(paint, ports=ports) as room:
        shelf.tell = room.telemetry.emit
        for request_id in ("first", "second"):
            await room.run("paint", request_id=request_id)
        first, second = (one["models"][0] for one in room.heard.payloads("metrics.job"))
        assert room.heard.names("first").count("model.copy.completed") == 1
    assert (first["localized"], first["nfs_to_local_copy_ms"], first["bytes_copied"]) == (
        True,
        40,
        1000,
    )
    assert not {"localized", "nfs_to_local_copy_ms", "bytes_copied"} & second.keys()


async def test_steps_before_anybody_watched_are_told_in_order(
    watched: Any, shelf: Shelf, ports: Any
) -> None:
    clock = VirtualClock()
    async with watched(paint, ports=ports, clock=clock) as room:
        shelf.tell = lambda event: None
        shelf.may_resolve.set()
        shelf.may_load.set()
        job = room.submit("paint")
        await settled()
        assert room.heard.names() == []
        clock.advance(0.05)
        await room.until("request.inference.started")
        assert room.heard.names()[3:] == [
            "request.model_resolve.started",
            "request.model_resolve.completed",
            "request.model_load.started",
            "request.model_load.completed",
            "request.inference.started",
        ]
        shelf.may_paint.set()
        await job.outcome()


async def test_metrics_say_where_a_model_was(watched: Any, shelf: Shelf, ports: Any) -> None:
    async with watched(paint, ports=ports) as room:
        shelf.tell = room.telemetry.emit
        shelf.open()
        await room.run("paint", request_id="cold")
        await room.run("paint", request_id="hot")
        shelf.is_loaded = False
        await room.run("paint", request_id="warm")
        cold, hot, warm = room.heard.payloads("metrics.job")
        states = [metrics["cache_state"] for metrics in (cold, hot, warm)]
        assert states == ["cold_remote", "hot_vram", "warm_disk"]
        (model,) = cold["models"]
        assert model["bytes_downloaded"] == 1000
        assert model["download_ms"] == 20
        assert model["snapshot_digest"] == "d1"
        assert model["bytes_read_disk"] == 1000
        assert model["disk_backend"] == "local"
        assert cold["pipeline_init_ms"] == 30
        assert "pipeline_init_ms" not in hot
        assert hot["gpu_load_ms"] >= 0


async def test_a_model_that_is_not_to_be_had(watched: Any, shelf: Shelf, ports: Any) -> None:
    everything = TelemetryPolicy(tells_all=True)
    async with watched(paint, ports=ports, policy=everything) as room:
        shelf.open()
        shelf.error = ModelResolutionError("there is no such model")
        await room.run("paint")
        failed = room.heard.payload("request.model_resolve.failed")
        assert failed["error_type"] == "ModelResolutionError"
        assert "request.inference.started" not in room.heard.names()
        assert room.heard.payload("request.failed")["error_type"] == "artifact_transfer"


async def test_a_load_that_is_canceled_has_failed(watched: Any, shelf: Shelf, ports: Any) -> None:
    everything = TelemetryPolicy(tells_all=True)
    async with watched(paint, ports=ports, policy=everything) as room:
        shelf.tell = room.telemetry.emit
        shelf.may_resolve.set()
        job = room.submit("paint")
        await room.until("request.model_load.started")
        job.call.token.cancel("caller")
        await job.outcome()
        assert room.heard.payload("request.model_load.failed")["error_type"] == "CancelledError"


@pytest.mark.claims(
    "WORKER_WARN_MODEL_RESOLVE_S", "WORKER_WARN_MODEL_LOAD_S", "WORKER_WARN_INFERENCE_S"
)
async def test_each_step_may_get_stuck(
    watched: Any, shelf: Shelf, ports: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gen_worker.runtime.telemetry import load_telemetry_settings

    monkeypatch.setenv("WORKER_WARN_MODEL_RESOLVE_S", "3")
    monkeypatch.setenv("WORKER_WARN_MODEL_LOAD_S", "6")
    monkeypatch.setenv("WORKER_WARN_INFERENCE_S", "6.5")
    clock, policy = VirtualClock(), TelemetryPolicy.of(load_telemetry_settings())

    async def advance(seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            clock.advance(0.1)
            await settled()

    async with watched(paint, ports=ports, clock=clock, policy=policy) as room:
        shelf.tell = room.telemetry.emit
        job = room.submit("paint")
        await settled()
        await advance(2.9)
        assert not any("stuck" in name for name in room.heard.names())
        await advance(5)
        stuck = room.heard.payload("request.model_resolve.stuck")
        assert (stuck["phase"], stuck["warn_after_s"]) == ("model_resolve", 3)
        assert stuck["param_name"] == "brush"
        assert 3000 <= stuck["elapsed_ms"] <= 3100
        shelf.may_resolve.set()
        await room.until("request.model_load.started")
        await advance(7)
        assert room.heard.payload("request.model_load.stuck")["model_id"] == "acme/painter:prod"
        shelf.may_load.set()
        await room.until("request.inference.started")
        await advance(7)
        assert room.heard.payload("request.inference.stuck")["output_mode"] == "single"
        shelf.may_paint.set()
        await job.outcome()


async def test_zero_seconds_never_warn(watched: Any, shelf: Shelf, ports: Any) -> None:
    clock = VirtualClock()
    never = TelemetryPolicy(warn_after=WarnAfter(0, 0, 0))
    async with watched(paint, ports=ports, clock=clock, policy=never) as room:
        shelf.tell = room.telemetry.emit
        job = room.submit("paint")
        await settled()
        for _ in range(5):
            clock.advance(1000)
            await settled()
        shelf.open()
        await job.outcome()
        assert not any("stuck" in name for name in room.heard.names())


async def test_the_key_that_a_payload_selects_is_named(
    watched: Any, shelf: Shelf, ports: Any
) -> None:
    table = dispatch("quality", {"draft": PAINTER.flavor("int8"), "final": PAINTER})

    class Ask(msgspec.Struct):
        quality: Literal["draft", "final"] = "draft"

    @inference_function(models={"brush": table})
    async def choose(ctx: RequestContext, brush: Any, payload: Ask) -> Text:
        return Text()

    everything = TelemetryPolicy(tells_all=True)
    async with watched(choose, ports=ports, policy=everything) as room:
        shelf.tell = room.telemetry.emit
        shelf.open()
        await room.run("choose")
        assert room.heard.payload("metrics.job")["models"][0]["flavor"] == "int8"
        assert room.heard.payload("request.model_resolve.completed")["model_key"] == "draft"
