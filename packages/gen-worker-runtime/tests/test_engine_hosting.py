"""What hosts with GPUs and an orchestrator ask of the engine besides calls."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gen_worker import Repo, RequestContext, Resources, inference, inference_function
from gen_worker.errors import UnknownFunctionError
from gen_worker.events import Failed, Result
from gen_worker.ports import Ports
from gen_worker.runtime import Engine, Invocation
from gen_worker.spec import specs_of
from gen_worker.testing import fake_ports

GPU = Resources(requires_gpu=True)
GPUS = ("cuda:0", "cuda:1")


class Ask(msgspec.Struct):
    text: str = ""


class Answer(msgspec.Struct):
    text: str


@inference_function(models={"brush": Repo("painter", "acme/painter")})
async def fixed(ctx: RequestContext, brush: str, ask: Ask) -> Answer:
    return Answer(f"{brush} {ctx.models['brush'].get('source', '')}")


@inference_function(models={"brush": Repo("painter", "acme/painter").allow_override("any.Class")})
async def open_(ctx: RequestContext, brush: str, ask: Ask) -> Answer:
    return Answer(brush)


@inference(models={"brush": Repo("painter", "acme/painter")}, resources=GPU)
class Studio:
    made = 0
    ended: list[int]

    def setup(self, brush: str) -> None:
        Studio.made += 1
        self.number, self.brush = Studio.made, brush

    def warmup(self) -> None:
        pass

    @inference.function
    def paint(self, ctx: RequestContext, ask: Ask) -> Answer:
        device = threading.current_thread().name.removeprefix("gen-worker-").rpartition("-")[0]
        return Answer(f"{self.number} {self.brush} {device}")

    def shutdown(self) -> None:
        Studio.ended.append(self.number)


@pytest.fixture
def ports(tmp_path: Path) -> Ports:
    Studio.made, Studio.ended = 0, []
    specs = [spec for one in (fixed, open_, Studio) for spec in specs_of(one)]
    brushes = {"brush": "ours", "acme/other": "theirs"}
    return fake_ports(tmp_path, specs, brushes)


def engine(ports: Ports, *endpoints: object, devices: tuple[str, ...] = ("cpu",)) -> Engine:
    specs = [spec for endpoint in endpoints for spec in specs_of(endpoint)]
    return Engine(specs, ports, devices=devices)


async def ask(host: Engine, function: str, **fields: Any) -> str:
    outcome = await host.call(Invocation(function=function, request_id="r", **fields))
    if isinstance(outcome, Failed):
        return outcome.failure.error_type
    assert isinstance(outcome, Result)
    return str(outcome.value.text)


def model(source: str) -> dict[str, Any]:
    return {"brush": {"ref": "acme/other", "source": source}}


async def test_a_model_of_the_host_needs_leave_only_where_it_is_a_callers(ports: Ports) -> None:
    host = engine(ports, fixed, open_)
    assert await ask(host, "fixed") == "ours "
    assert await ask(host, "fixed", models=model("default")) == "theirs default"
    assert await ask(host, "fixed", models=model("override")) == "validation"
    assert await ask(host, "open", models=model("override")) == "theirs"
    await host.close()


async def test_each_device_that_is_asked_for_has_an_instance(ports: Ports) -> None:
    host = engine(ports, Studio, devices=GPUS)
    assert await ask(host, "paint", device="cuda:1") == "1 ours cuda:1"
    assert await ask(host, "paint", device="cuda:0") == "2 ours cuda:0"
    assert await ask(host, "paint", device="cuda:1") == "1 ours cuda:1"
    assert await ask(host, "paint") == "1 ours cuda:1"
    assert await ask(host, "paint", device="cuda:9") == "validation"
    theirs = await ask(host, "paint", device="cuda:0", models=model("default"))
    assert theirs == "3 theirs cuda:0"
    await host.close()
    assert sorted(Studio.ended) == [1, 2, 3]


@inference(resources=GPU)
class Kiln:
    made = 0
    breaks = False
    gates: dict[str, asyncio.Event]

    def setup(self) -> None:
        Kiln.made += 1
        if Kiln.made > 1 and Kiln.breaks:
            raise OSError("no room on the second one")

    @inference.function
    async def fire(self, ctx: RequestContext, ask: Ask) -> Answer:
        if ask.text in Kiln.gates:
            await Kiln.gates[ask.text].wait()
        return Answer(f"{ask.text} on {ctx.device}")


def fire(host: Engine, text: str, **fields: Any) -> asyncio.Task[Any]:
    asked = Invocation(function="fire", request_id=text, payload=Ask(text), **fields)
    return asyncio.get_running_loop().create_task(host.call(asked))


def fired(outcome: Result | Failed) -> str:
    assert isinstance(outcome, Result), outcome
    return str(outcome.value.text)


def set_up(host: Engine) -> int:
    (endpoint,) = host._registry.endpoints
    return [instance.state for instance in endpoint.instances].count("ready")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.001)


@pytest.fixture
def kiln(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(RequestContext, "device", property(lambda self: self._device))
    Kiln.made, Kiln.breaks, Kiln.gates = 0, False, {}
    return Engine(specs_of(Kiln), fake_ports(tmp_path, specs_of(Kiln)), devices=GPUS)


async def test_calls_that_would_queue_bring_their_class_to_an_idle_device(kiln: Engine) -> None:
    first, second = Kiln.gates["first"], Kiln.gates["second"] = asyncio.Event(), asyncio.Event()
    await fire(kiln, "warm")
    slow = fire(kiln, "first")
    await until(lambda: kiln.statistics().running == 1)
    assert Kiln.made == 1  # nobody had to wait yet
    queued = fire(kiln, "queued")
    await until(lambda: set_up(kiln) == 2)
    other = fire(kiln, "second")
    await until(lambda: kiln.statistics().running == 2)
    second.set()
    assert fired(await other) == "second on cuda:1"
    assert fired(await fire(kiln, "third")) == "third on cuda:1"
    assert not queued.done()  # it stays where it was put
    first.set()
    assert [fired(await one) for one in (slow, queued)] == ["first on cuda:0", "queued on cuda:0"]
    assert fired(await fire(kiln, "last")) == "last on cuda:0"
    assert Kiln.made == 2
    await kiln.close()


async def test_a_second_device_that_has_no_room_harms_no_call(kiln: Engine) -> None:
    Kiln.breaks = True
    gate = Kiln.gates["first"] = asyncio.Event()
    await fire(kiln, "warm")
    calls = [fire(kiln, "first")]
    await until(lambda: kiln.statistics().running == 1)
    calls += [fire(kiln, "second"), fire(kiln, "third")]
    await until(lambda: Kiln.made == 2 and kiln.statistics().queued == 2)
    gate.set()
    assert [fired(await one) for one in calls] == [
        f"{text} on cuda:0" for text in ("first", "second", "third")
    ]
    assert Kiln.made == 2
    await kiln.close()


async def test_a_call_for_one_device_leaves_the_others_alone(kiln: Engine) -> None:
    gate = Kiln.gates["first"] = asyncio.Event()
    await fire(kiln, "warm")
    slow = fire(kiln, "first", device="cuda:0")
    await until(lambda: kiln.statistics().running == 1)
    queued = fire(kiln, "queued", device="cuda:0")
    await until(lambda: kiln.statistics().queued == 1)
    gate.set()
    assert [fired(await one) for one in (slow, queued)] == ["first on cuda:0", "queued on cuda:0"]
    assert Kiln.made == 1
    await kiln.close()


async def test_a_retired_class_is_set_up_anew(ports: Ports) -> None:
    host = engine(ports, Studio, fixed, devices=GPUS)
    warmed: list[str] = []
    host.on_warmup(warmed.append)
    for device in GPUS:
        await ask(host, "paint", device=device)
    await host.retire(["paint", "fixed"])
    assert Studio.ended == [1, 2]
    assert await ask(host, "paint", device="cuda:1") == "3 ours cuda:1"
    assert warmed == ["Studio"] * 3
    with pytest.raises(UnknownFunctionError):
        await host.retire(["nothing"])
    await host.close()
    assert Studio.ended == [1, 2, 3]


async def test_a_device_that_is_held_runs_nothing(ports: Ports) -> None:
    host = engine(ports, Studio, devices=("cuda:0",))
    await ask(host, "paint")
    async with host.holding("cuda:0"):
        call = asyncio.ensure_future(ask(host, "paint"))
        while not host.queued:
            await asyncio.sleep(0)
        assert not call.done()
    assert await call == "1 ours cuda:0"
    await host.close()
