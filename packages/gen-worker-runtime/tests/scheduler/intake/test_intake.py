"""Calls become requests: named, checked, with the models their callers chose, and kept once."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.errors import (
    ArtifactTransferError,
    HardwareUnmetError,
    InputTooLargeError,
    OverloadedError,
    OverrideError,
    UnknownFunctionError,
    ValidationError,
)
from gen_worker.models.overrides import OVERRIDE_CODES
from gen_worker.runtime.scheduler import (
    Ending,
    GpuClass,
    KeyConflictError,
    LedgerWriteError,
    NewEvent,
    WaitingLimits,
)
from gen_worker.runtime.scheduler.job_options import Webhook
from gen_worker.runtime.scheduler.requests import RequestOptions

GIB = 1024**3
DONE = NewEvent(b"result", b"{}")


async def test_a_call_is_kept_with_all_that_its_worker_needs(open_door: Any) -> None:
    async with open_door() as door:
        release_id = await door.publish()
        live = await door.live(
            "acme/paint/Draw:prod",
            {"steps": 5},
            request_id="a",
            timeout_ms=1500,
            invoker_id="ada",
            hints={"required_flavor_refs": ["acme/x"], "mode": "fast"},
            priority=2,
            webhook=Webhook(url="https://a.example"),
        )
        record, options = live.record, live.options
        assert (record.owner, record.endpoint, record.function) == ("bob", "paint", "draw")
        assert (record.release_id, record.tag, record.priority) == (release_id, "prod", 2)
        assert (record.timeout_ms, record.deadline_at) == (1500, door.clock.now + 1.5)
        assert (options.endpoint_owner, options.invoker_id) == ("acme", "ada")
        assert options.hints == {"required_flavor_refs": '["acme/x"]', "mode": "fast"}
        assert options.webhook == Webhook(url="https://a.example")
        assert options.models == {}
        assert live.queue == f"{release_id}/draw"
        assert await door.payload_of(record) == {"prompt": "hi", "steps": 5}
        assert door.hub.asked == []


async def test_refs_are_what_the_payload_makes_of_the_lock(open_door: Any) -> None:
    async with open_door() as door:
        await door.publish()
        always = ["acme/flux:prod", "acme/vae:prod", "Org/Text"]
        refs = (await door.live()).options.refs
        assert list(refs) == [*always, "acme/small:prod", "acme/sd:v2", "acme/draft:prod"]
        refs = (await door.live(payload={"quality": "final"})).options.refs
        assert list(refs) == [*always, "acme/large:prod", "acme/sd:v2"]
        assert (await door.live("erase")).options.refs == ()


async def test_bytes_are_bytes_for_the_worker(open_door: Any) -> None:
    async with open_door() as door:
        await door.publish()
        sent = {"prompt": "aGk=", "mask": "aGk=", "masks": {"a": ["aGk=", None, "no base64"]}}
        live = await door.live(payload=sent)
        assert await door.payload_of(live.record) == {
            "prompt": "aGk=",
            "mask": b"hi",
            "masks": {"a": [b"hi", None, "no base64"]},
        }


# -- models of the caller's own --------------------------------------------------------------------


async def test_a_callers_models_take_the_place_of_the_authors(open_door: Any) -> None:
    async with open_door() as door:
        await door.publish()
        usual = await door.live()
        models = {"engine": "me/own:dev#bf16", "vae": {"ref": "me/own", "tag": "prod"}}
        live = await door.live(payload={"_models": models})
        chosen = live.options.models
        assert set(chosen) == {"base_model", "vae"}
        engine = chosen["base_model"]
        assert (engine.ref, engine.tag, engine.flavor) == ("me/own", "dev", "bf16")
        assert (engine.slot_name, engine.provider, engine.source) == (
            "base_model",
            "tensorhub",
            "override",
        )
        assert live.options.refs[:2] == ("me/own:dev#bf16", "me/own:prod")
        assert await door.payload_of(live.record) == {"prompt": "hi"}
        assert live.queue != usual.queue
        beside = await door.live(overrides=models)
        assert beside.options == live.options
        assert beside.queue == live.queue


@pytest.mark.parametrize(
    ("code", "models"),
    [
        ("unknown_override_param", {"nobody": "me/own"}),
        ("model_override_not_allowed", {"fixed": "me/own"}),
        ("model_override_not_allowed", {"old": "me/own"}),
        ("model_override_not_allowed", {"sized": "me/own"}),
        ("override_ref_not_found", {"engine": "me/nothing"}),
        ("override_tag_not_found", {"engine": "me/own:gone"}),
        ("override_flavor_not_found", {"engine": "me/own#int4"}),
        ("incompatible_pipeline_class", {"engine": "me/other"}),
    ],
)
async def test_one_wrong_entry_refuses_the_whole_request(
    open_door: Any, code: str, models: dict[str, str]
) -> None:
    async with open_door() as door:
        await door.publish()
        with pytest.raises(OverrideError) as caught:
            await door.submit(payload={"_models": {"vae": "me/own", **models}})
        (param,) = models
        assert (caught.value.code, caught.value.param) == (code, param)
        assert f"_models[{param!r}]" in str(caught.value)
        assert code in OVERRIDE_CODES
        assert len(door.requests) == 0
        assert door.ledger.statistics().requests == 0


async def test_a_hub_that_does_not_answer_refuses_only_who_needs_it(open_door: Any) -> None:
    async with open_door() as door:
        await door.publish()
        door.hub.is_down = True
        with pytest.raises(ArtifactTransferError, match="does not answer") as caught:
            await door.submit(payload={"_models": {"engine": "me/own"}})
        assert caught.value.retryable
        await door.submit()


# -- names -----------------------------------------------------------------------------------------


async def test_a_request_keeps_the_release_that_its_name_meant(open_door: Any) -> None:
    async with open_door() as door:
        first = await door.publish()
        before = await door.submit()
        second = await door.publish("two")
        assert (await door.submit()).record.release_id == first
        await door.releases.tags.promote("acme", "paint", second)
        assert (await door.submit()).record.release_id == second
        assert before.record.release_id == first


async def test_a_promotion_while_the_hub_is_asked_counts(open_door: Any) -> None:
    async with open_door() as door:
        await door.publish()
        second = await door.publish("two")

        async def promote() -> None:
            await door.releases.tags.promote("acme", "paint", second)

        door.hub.during.append(promote)
        submitted = await door.submit(payload={"_models": {"engine": "me/own"}})
        assert submitted.record.release_id == second
        assert door.hub.asked == ["me/own:prod"] * 2


async def test_a_name_that_never_stays_is_refused_for_now(open_door: Any) -> None:
    async with open_door() as door:
        ids = [await door.publish(), await door.publish("two")]

        async def move() -> None:
            now = door.releases.tags.resolve("draw").release_id
            await door.releases.tags.promote("acme", "paint", ids[now == ids[0]])

        door.hub.during += [move] * 100
        with pytest.raises(OverloadedError, match="is being moved"):
            await door.submit(payload={"_models": {"engine": "me/own"}})


@pytest.mark.parametrize("name", ["nobody", "draw:dev", "other/draw", "me/paint/draw"])
async def test_what_no_tag_points_to_is_not_there(open_door: Any, name: str) -> None:
    async with open_door() as door:
        await door.publish()
        with pytest.raises(UnknownFunctionError):
            await door.submit(name)


# -- keys ------------------------------------------------------------------------------------------


async def test_the_same_key_and_body_are_one_request_whatever_happened_since(
    open_door: Any,
) -> None:
    async with open_door() as door:
        await door.publish()
        payload = {"_models": {"engine": "me/own"}}
        first = await door.submit(payload=payload, key="k")
        await door.releases.tags.promote("acme", "paint", await door.publish("two"))
        door.hub.known.clear()  # the model is gone, and the request is not
        again = await door.submit(payload=payload, key="k")
        assert (again.is_new, again.record.seq) == (False, first.record.seq)
        assert len(door.hub.asked) == 1
        live = door.requests.by_seq(first.record.seq)
        door.requests.take(live.queue)
        door.requests.given(live, "w1")
        await door.requests.ended(live, 1, Ending(status="succeeded", attempt=1), DONE)
        ended = await door.submit(payload=payload, key="k")
        assert (ended.is_new, ended.record.status) == (False, "succeeded")


@pytest.mark.parametrize(("name", "steps"), [("draw", 2), ("erase", 1)])
async def test_a_key_belongs_to_one_name_and_body(open_door: Any, name: str, steps: int) -> None:
    async with open_door() as door:
        await door.publish()
        await door.submit(payload={"steps": 1}, key="k", request_id="first")
        with pytest.raises(KeyConflictError) as caught:
            await door.submit(name, {"steps": steps}, key="k")
        assert caught.value.request_id == "first"
        other = await door.submit(name, {"steps": steps}, key="k", owner="carol")
        assert other.is_new


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b" [1]", b'"text"', b"null", b"1", b"{", b'{"a":1}x', b"[" * 100_000]
)
async def test_what_is_no_object_is_refused(open_door: Any, payload: bytes) -> None:
    async with open_door() as door:
        await door.publish()
        with pytest.raises(ValidationError):
            await door.submit(payload=payload)


async def test_an_empty_object_is_one(open_door: Any) -> None:
    async with open_door() as door:
        await door.publish()
        submitted = await door.submit(payload=b" { } ")
        assert await door.payload_of(submitted.record) == {}


@pytest.mark.parametrize(
    "payload", [b'{"a":123456789012345678901}', b'{"a":' * 100_000 + b"1" + b"}" * 100_000]
)
async def test_what_messagepack_has_no_room_for_is_refused(open_door: Any, payload: bytes) -> None:
    async with open_door() as door:
        await door.publish()
        with pytest.raises(ValidationError):
            await door.submit(payload=payload)


async def test_what_is_too_large_is_refused(open_door: Any) -> None:
    async with open_door(max_payload_bytes=100) as door:
        await door.publish()
        with pytest.raises(InputTooLargeError):
            await door.submit(payload={"prompt": "x" * 100})


async def test_what_no_gpu_has_the_memory_for_waits_for_none(open_door: Any) -> None:
    async with open_door() as door:
        await door.publish()
        assert (await door.live("gpu")).options.factors == {}
        assert (await door.live("gpu", {"steps": 3})).options.factors == {"steps": 3.0}
        door.pool.gpus = (GpuClass("RTX 4090", 24 * GIB),)
        await door.submit("gpu")
        door.pool.gpus = (GpuClass("RTX 3070", 8 * GIB),)
        with pytest.raises(HardwareUnmetError, match=r"need 12\.0 GiB of VRAM .* RTX 3070"):
            await door.submit("gpu")
        await door.submit("draw")
        assert door.ledger.statistics().requests == 4


async def test_a_full_queue_says_when_to_come_again(open_door: Any) -> None:
    limits = WaitingLimits(max_per_owner=2)
    async with open_door(RequestOptions(waiting=limits)) as door:
        await door.publish()
        first = await door.submit(key="k")
        await door.submit()
        with pytest.raises(OverloadedError) as caught:
            await door.submit()
        assert caught.value.retry_after_s > 0
        await door.submit(owner="carol")
        assert (await door.submit(key="k")).record == first.record  # it was accepted already


async def test_a_full_disk_refuses_and_nothing_is_kept(open_door: Any) -> None:
    async with open_door() as door:
        await door.publish()
        lane = door.ledger._writing
        work, lane._work = lane._work, lambda ops: [LedgerWriteError("full", path="")] * len(ops)
        with pytest.raises(LedgerWriteError):
            await door.submit(request_id="a")
        lane._work = work
        assert await door.ledger.record("a") is None
        assert (await door.submit(request_id="a")).is_new
