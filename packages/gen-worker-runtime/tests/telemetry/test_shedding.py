"""Events that find no room are dropped, counted, and reported once there is a moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker import RequestContext, inference_function
from gen_worker.testing import VirtualClock

if TYPE_CHECKING:
    import pytest


class Text(msgspec.Struct):
    text: str = ""


@inference_function
async def chatter(ctx: RequestContext, payload: Text) -> Text:
    for number in range(10):
        ctx.log(str(number))
    return payload


async def test_what_was_dropped_is_reported(watched: Any, heard: Any) -> None:
    heard.room = 4
    clock = VirtualClock()
    async with watched(chatter, heard=heard, clock=clock) as room:
        await room.run("chatter")
        assert heard.shed == 6, "of ten lines"
        assert "worker.telemetry.shed" not in heard.names()
        heard.messages.clear()
        clock.advance(1.0)
        assert heard.payload("worker.telemetry.shed")["shed"] == 6
        await room.run("chatter", request_id="r2")
        heard.messages.clear()
        clock.advance(1.0)
        report = heard.payload("worker.telemetry.shed")
        assert report["total"] == heard.shed
        assert report["shed"] == heard.shed - 6


async def test_a_report_that_finds_no_room_itself_is_followed_by_another(
    watched: Any, heard: Any
) -> None:
    heard.room = 4
    clock = VirtualClock()
    async with watched(chatter, heard=heard, clock=clock) as room:
        await room.run("chatter")
        for _ in range(3):
            clock.advance(1.0)
        assert len(heard.payloads("worker.telemetry.shed")) == 3
        assert heard.payloads("worker.telemetry.shed")[-1]["shed"] == 1


async def test_nothing_is_reported_while_nothing_is_lost(watched: Any) -> None:
    clock = VirtualClock()
    async with watched(chatter, clock=clock) as room:
        await room.run("chatter")
        clock.advance(60.0)
        await asyncio.sleep(0)
        assert "worker.telemetry.shed" not in room.heard.names()


async def test_a_report_never_fails_the_call(
    watched: Any, heard: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: object) -> bool:
        raise OSError("no outbox")

    monkeypatch.setattr(heard, "tell", broken)
    async with watched(chatter, heard=heard) as room:
        outcome = await room.run("chatter", {"text": "a"})
        assert outcome.value == msgspec.Raw(msgspec.msgpack.encode({"text": "a"}))
    assert "is left out" in caplog.text
