"""Identity, time, cancellation and telemetry of a call."""

from __future__ import annotations

import asyncio
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from gen_worker.cancel import CancelToken
from gen_worker.context import RequestContext
from gen_worker.errors import CanceledError, DeadlineExceededError
from gen_worker.events import Emitted, Log, Progress, Telemetry
from gen_worker.ports import Ports


class Recorder:
    def __init__(self) -> None:
        self.events: list[Telemetry] = []

    def emit(self, event: Telemetry) -> None:
        self.events.append(event)


def host(events: Recorder) -> Ports:
    return Ports(files=cast("Any", None), events=events, models=cast("Any", None))


def test_an_id_is_all_a_context_needs() -> None:
    ctx = RequestContext("t")

    assert ctx.request_id == "t"
    assert ctx.workspace_scope_id == "t"
    assert (ctx.job_id, ctx.owner, ctx.invoker_id) == (None, None, None)
    assert (ctx.timeout_ms, ctx.deadline, ctx.time_remaining_s()) == (None, None, None)
    assert (ctx.models, ctx.execution_hints, ctx.source, ctx.destination) == ({}, {}, {}, {})
    assert (ctx.source_path, ctx.required_models, ctx.resolved_repos_by_id) == (None, [], None)
    assert ctx.compute.vram_gb == 0
    assert not ctx.is_canceled()


def test_a_job_is_the_scope_of_its_calls() -> None:
    assert RequestContext("r", job_id="j").workspace_scope_id == "j"


@pytest.mark.parametrize(
    ("attribute", "keyword"),
    [
        ("models", "models"),
        ("execution_hints", "hints"),
        ("source", "source"),
        ("destination", "destination"),
        ("resolved_repos_by_id", "resolved_repos_by_id"),
        ("resolved_cozy_models_by_id", "resolved_repos_by_id"),
    ],
)
def test_what_a_handler_reads_is_a_copy_all_the_way_down(attribute: str, keyword: str) -> None:
    given = {"a": {"ref": "x"}}
    arguments: dict[str, Any] = {keyword: given}
    ctx = RequestContext("t", **arguments)

    read = getattr(ctx, attribute)
    assert read == given
    read["a"]["ref"] = "changed"
    assert given == {"a": {"ref": "x"}}
    assert getattr(ctx, attribute) == given


def test_a_divided_request_tells_its_place() -> None:
    ctx = RequestContext(
        "t",
        partition={"parent_request_id": "p", "item_id": "a/b", "item_index": 3, "item_span": {}},
    )

    assert ctx.partition_context() == {
        "parent_request_id": "p",
        "child_request_id": None,
        "item_id": "a/b",
        "item_index": 3,
        "item_span": {},
    }
    assert ctx.item_output_ref("out.png") == "jobs/t/outputs/items/a%2Fb/out.png"


@pytest.mark.parametrize(
    ("index", "key"), [(7, "item-000007"), (None, "item-000000"), (1234567, "item-1234567")]
)
def test_an_item_without_an_id_is_named_by_its_number(index: int | None, key: str) -> None:
    ctx = RequestContext("t", partition={"item_index": index})

    assert ctx.item_output_ref("out.png") == f"jobs/t/outputs/items/{key}/out.png"


@pytest.mark.parametrize(
    ("hints", "size", "depth"),
    [
        ({}, 1, 1),
        ({"preferred_batch_size": 4, "prefetch_depth": 2}, 4, 2),
        ({"batch_size_target": 8}, 8, 1),
        ({"preferred_batch_size": 0, "prefetch_depth": "2"}, 1, 1),
        ({"preferred_batch_size": True}, 1, 1),
    ],
)
def test_batching_hints_fall_back_to_the_default(
    hints: dict[str, Any], size: int, depth: int
) -> None:
    ctx = RequestContext("t", hints=hints)

    assert (ctx.preferred_batch_size(), ctx.prefetch_depth()) == (size, depth)


def test_attributes_and_methods_can_be_replaced_in_a_test() -> None:
    ctx = RequestContext("t")
    lines: list[str] = []
    cast("Any", ctx).log = lines.append

    ctx.log("hello")
    assert lines == ["hello"]


# Time


def test_a_timeout_sets_the_deadline() -> None:
    now = 1000.0
    ctx = RequestContext("t", timeout_ms=2500, clock=lambda: now)

    assert ctx.deadline == 1002.5
    assert ctx.time_remaining_s() == 2.5
    now = 1002.0
    assert ctx.time_remaining_s() == 0.5
    now = 2000.0
    assert ctx.time_remaining_s() == 0.0


def test_a_passed_deadline_cancels_the_call() -> None:
    now = 0.0
    ctx = RequestContext("t", deadline=10.0, clock=lambda: now)
    ctx.raise_if_canceled()
    assert not ctx.done().is_set()

    now = 10.0
    with pytest.raises(DeadlineExceededError, match="deadline exceeded"):
        ctx.raise_if_canceled()
    assert ctx.cancel_token.reason == "deadline"
    assert ctx.done().is_set()


# Cancellation


def test_every_view_of_a_cancel_agrees() -> None:
    ctx = RequestContext("t")
    seen_before = (ctx.is_canceled(), ctx.cancelled(), bool(ctx.cancelled), ctx.done().is_set())
    probe = ctx.cancelled  # what an author passes on as `cancel_checker=`

    ctx.cancel()

    assert seen_before == (False, False, False, False)
    assert (ctx.is_canceled(), ctx.cancelled(), bool(ctx.cancelled), probe()) == (True,) * 4
    assert ctx.done() is ctx.cancel_event
    assert ctx.cancel_event.is_set()
    with pytest.raises(CanceledError, match="stop here"):
        ctx.raise_if_canceled("stop here")


def test_the_hosts_token_cancels_the_call() -> None:
    token = CancelToken()
    ctx = RequestContext("t", token=token)

    threading.Thread(target=token.cancel).start()

    assert ctx.done().wait(60)
    assert ctx.is_canceled()


def test_an_async_handler_can_wait_for_the_cancel() -> None:
    async def main() -> bool:
        ctx = RequestContext("t")
        waiting = asyncio.create_task(ctx.wait_until_canceled())
        await asyncio.sleep(0)
        assert not waiting.done()
        threading.Thread(target=ctx.cancel).start()
        await asyncio.wait_for(waiting, 60)
        return ctx.is_canceled()

    assert asyncio.run(main())


# Telemetry


def test_telemetry_reaches_the_host() -> None:
    recorder = Recorder()
    ctx = RequestContext("r1", ports=host(recorder), clock=lambda: 12.5)

    ctx.progress(0.5, stage="decode")
    ctx.progress(1)
    with pytest.raises(TypeError, match="a number from 0 to 1, not 'half'"):
        ctx.progress("half")  # type: ignore[arg-type]  # the mistake
    ctx.log("hello")
    ctx.log("bad", level="error")
    ctx.emit("tile.done", {"n": 1})
    ctx.emit("bare")

    assert recorder.events == [
        Progress(request_id="r1", progress=0.5, stage="decode", at=12.5),
        Progress(request_id="r1", progress=1.0, at=12.5),
        Log(request_id="r1", message="hello", at=12.5),
        Log(request_id="r1", message="bad", level="error", at=12.5),
        Emitted(request_id="r1", type="tile.done", payload={"n": 1}, at=12.5),
        Emitted(request_id="r1", type="bare", payload={}, at=12.5),
    ]


@pytest.mark.parametrize(
    ("given", "sent"), [(-1, 0.0), (7, 1.0), (float("nan"), 0.0), (float("inf"), 1.0)]
)
def test_progress_stays_between_0_and_1(given: float, sent: float) -> None:
    recorder = Recorder()
    RequestContext("t", ports=host(recorder)).progress(given)

    assert isinstance(recorder.events[0], Progress)
    assert recorder.events[0].progress == sent


def test_an_emitted_payload_is_not_changed_afterwards() -> None:
    recorder = Recorder()
    payload = {"n": 1}
    RequestContext("t", ports=host(recorder)).emit("x", payload)
    payload["n"] = 2

    assert cast("Emitted", recorder.events[0]).payload == {"n": 1}


def test_without_a_host_telemetry_is_dropped() -> None:
    ctx = RequestContext("t")

    ctx.progress(0.1)
    ctx.log("x")
    ctx.emit("x", {})


# Device


def fake_torch(*, cuda: bool, current: int = 0) -> ModuleType:
    torch = ModuleType("torch")

    class Device(SimpleNamespace):
        def __str__(self) -> str:
            return self.type if self.index is None else f"{self.type}:{self.index}"

    def device(name: str, index: int | None = None) -> Device:
        kind, _, number = name.partition(":")
        return Device(type=kind, index=int(number) if number else index)

    cast("Any", torch).device = device
    cast("Any", torch).cuda = SimpleNamespace(
        is_available=lambda: cuda, current_device=lambda: current
    )
    return torch


@pytest.mark.parametrize(
    ("given", "cuda", "expected"),
    [
        (None, False, "cpu"),
        (None, True, "cuda:1"),
        ("auto", True, "cuda:1"),
        ("cuda", True, "cuda:1"),
        ("cuda:0", True, "cuda:0"),
        ("cpu", True, "cpu"),
        ("mps", False, "mps"),
    ],
)
def test_the_device_is_the_given_one_else_a_gpu(
    monkeypatch: pytest.MonkeyPatch, given: str | None, cuda: bool, expected: str
) -> None:
    monkeypatch.delenv("WORKER_TORCH_DEVICE", raising=False)
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda=cuda, current=1))

    assert str(RequestContext("t", device=given).device) == expected


def test_the_environment_forces_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda=True))
    monkeypatch.setenv("WORKER_TORCH_DEVICE", "cuda:3")

    assert str(RequestContext("t").device) == "cuda:3"
    assert str(RequestContext("t", device="cpu").device) == "cpu"


def test_without_torch_the_device_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(RuntimeError, match=r'install "gen-worker\[torch\]"'):
        _ = RequestContext("t").device


def test_the_hugging_face_token_comes_from_host_or_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    assert RequestContext("t", hf_token="given").hf_token == "given"
    assert RequestContext("t").hf_token == ""
    monkeypatch.setenv("HF_TOKEN", "from-settings")
    assert RequestContext("t").hf_token == "from-settings"
