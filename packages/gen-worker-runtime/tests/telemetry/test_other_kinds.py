"""Jobs that train or convert tell the same story under their own words."""

import asyncio
import threading
from typing import Any

import pytest

from gen_worker import kinds
from gen_worker.context.jobs import JobKind
from gen_worker.context.producers import ConversionContext
from gen_worker.errors import CanceledError
from gen_worker.runtime.telemetry import TelemetryPolicy
from gen_worker.spec import DEFINITION_ATTRIBUTE, Call, ContextParameter, FunctionSpec

EVERYTHING = TelemetryPolicy(tells_all=True)


class Plain(JobKind):
    """A kind that prepares and publishes nothing."""

    async def before(self, call: Call, ctx: Any) -> None:
        pass

    async def finish(self, call: Call, ctx: Any, result: Any) -> Any:
        return {"result": result}


def job_of(kind: Any, function: Any, decorator: str = "@conversion.function") -> Any:
    spec = FunctionSpec(
        name="job",
        registered_name="job",
        python_name="job",
        kind=kind,
        decorator=decorator,
        module=__name__,
        qualname="job",
        function=function,
        shape="sync",
        parameters=(ContextParameter("ctx"),),
        payload_type=None,
    )
    setattr(function, DEFINITION_ATTRIBUTE, spec)
    return function


@pytest.mark.parametrize(
    ("kind", "decorator", "phase"),
    [
        ("training", "@training.function", "training"),
        ("conversion", "@conversion.function", "conversion"),
        ("dataset", "@dataset.function", "dataset"),
        ("conversion", "training_function", "training"),
    ],
)
async def test_the_phase_is_the_kind_of_a_class_and_training_of_a_function(
    watched: Any, monkeypatch: pytest.MonkeyPatch, kind: Any, decorator: str, phase: str
) -> None:
    monkeypatch.setitem(kinds._kinds, kind, Plain(kind, ConversionContext))

    def job(ctx: Any) -> int:
        return 1

    async with watched(job_of(kind, job, decorator), policy=EVERYTHING) as room:
        await room.run("job")
        assert room.heard.payload("request.training.started")["phase"] == phase
        assert room.heard.payload("request.training.completed")["phase"] == phase
        assert room.heard.names()[-1] == "request.completed"


async def test_a_canceled_job_was_canceled(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds._kinds, "training", Plain("training", ConversionContext))
    begun = threading.Event()

    def job(ctx: Any) -> int:
        begun.set()
        ctx.cancel_token.wait(60)
        raise CanceledError("as you wish")

    async with watched(job_of("training", job), policy=EVERYTHING) as room:
        running = room.submit("job")
        await asyncio.to_thread(begun.wait)
        running.call.token.cancel("caller")
        await running.outcome()
        assert room.heard.payload("request.training.failed")["phase"] == "training"
        assert "request.failed" not in room.heard.names()
        assert room.heard.names()[-1] == "request.cancelled"
