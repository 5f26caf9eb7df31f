"""Tracebacks and authors' reports reach the operator, cut and without credentials."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from gen_worker import RequestContext, inference, inference_function
from gen_worker.diagnostics import emit_diagnostic_log
from gen_worker.errors import ValidationError
from gen_worker.runtime.telemetry import WorkerIdentity
from gen_worker.runtime.telemetry.diagnostics import tail_of

SECRET = "hf_abcdefghijklmnopqrst"
IDENTITY = WorkerIdentity("w1", "release-1", "pod-1")


class Text(msgspec.Struct):
    text: str = ""


@inference_function
def broken(ctx: RequestContext, payload: Text) -> Text:
    raise RuntimeError(f"could not read https://example.com/x?token={SECRET}")


@inference_function
def refuse(ctx: RequestContext, payload: Text) -> Text:
    raise ValidationError("not like this")


async def test_what_a_handler_raised_reaches_the_operator(watched: Any) -> None:
    async with watched(broken, identity=lambda: IDENTITY) as room:
        await room.run("broken")
        (report,) = room.heard.diagnostics
        assert (report.worker_id, report.release_id, report.runpod_pod_id) == IDENTITY
        assert (report.category, report.severity) == ("request_exception", "error")
        facts = msgspec.json.decode(report.payload_json)
        assert facts["request_id"] == "r1"
        assert facts["function_name"] == "broken"
        assert facts["exception_class"] == "RuntimeError"
        assert "in broken" in facts["traceback"]
        assert SECRET not in report.payload_json.decode()
        assert SECRET not in report.message


@pytest.mark.parametrize("payload", [{}, {"text": 1}])
async def test_a_refusal_is_no_news(watched: Any, payload: dict[str, Any]) -> None:
    async with watched(refuse) as room:
        await room.run("refuse", payload)
        assert room.heard.diagnostics == []


async def test_a_cancel_is_no_news(watched: Any) -> None:
    @inference_function
    async def hold(ctx: RequestContext, payload: Text) -> Text:
        await asyncio.Event().wait()
        return payload

    async with watched(hold) as room:
        job = room.submit("hold")
        await asyncio.sleep(0)
        job.call.token.cancel("caller")
        await job.outcome()
        assert room.heard.diagnostics == []


async def test_reports_are_within_their_limits(watched: Any) -> None:
    async with watched(refuse) as room:
        facts = {f"k{number}": "x" * 3000 for number in range(60)}
        assert emit_diagnostic_log("weights_check", "m" * 5000, facts, endpoint_class="C" * 2000)
        (report,) = room.heard.diagnostics
        assert len(report.message) == 1024
        assert len(report.payload_json) <= 16 * 1024
        assert msgspec.json.decode(report.payload_json)["truncated"] is True


async def test_reports_end_with_the_worker(watched: Any) -> None:
    async with watched(refuse) as room:
        assert emit_diagnostic_log("mine")
        assert len(room.heard.diagnostics) == 1
    assert not emit_diagnostic_log("mine")


def test_the_end_of_a_traceback_is_kept() -> None:
    assert tail_of("short") == "short"
    assert tail_of("a" * 5000 + "the end").endswith("the end")
    assert len(tail_of("a" * 5000)) == 2001


@pytest.mark.parametrize("what", ["setup", "warmup"])
async def test_a_class_that_cannot_start_says_why(watched: Any, what: str) -> None:
    class Broken:
        def setup(self) -> None:
            if what == "setup":
                raise RuntimeError(f"no weights, token={SECRET}")

        def warmup(self) -> None:
            raise RuntimeError(f"no weights, token={SECRET}")

        @inference.function
        def ask(self, ctx: RequestContext, payload: Text) -> Text:
            return payload

    async with watched(inference()(Broken)) as room:
        await room.run("ask")
        report = room.heard.diagnostics[0]
        assert (report.category, report.severity) == (f"serial_{what}", "error")
        assert report.message == "RuntimeError: no weights, token=<redacted>"
        facts = msgspec.json.decode(report.payload_json)
        assert facts["endpoint_class"] == "Broken"
        assert f"in {what}" in facts["traceback"]
        assert SECRET not in report.payload_json.decode()
