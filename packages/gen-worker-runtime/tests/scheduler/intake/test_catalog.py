"""What releases say about their functions, read once."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.errors import FunctionUnavailableError, UnknownFunctionError

GIB = 1024**3


async def test_facts_are_what_the_lock_says(open_door: Any) -> None:
    async with open_door() as door:
        release_id = await door.publish()
        name = ("acme", "paint", release_id)
        assert door.catalog.known(*name, "draw") is None
        draw = await door.catalog.facts(*name, "draw")
        assert door.catalog.known(*name, "draw") is draw
        assert (draw.kind, draw.output_mode, draw.timeout_ms, draw.max_batch) == (
            "inference",
            "single",
            60_000,
            4,
        )
        assert not draw.is_streamed
        assert draw.usual_name == "acme/paint/draw"
        assert set(draw.locked.bindings) == {"engine", "vae", "fixed", "sized"}
        assert draw.models["sd"].ref == "acme/sd:v2"
        assert draw.own_models["draft"].ref == "acme/draft"
        assert (await door.catalog.facts(*name, "erase")).is_streamed


async def test_hardware_is_understood_in_both_dialects(open_door: Any) -> None:
    async with open_door() as door:
        name = ("acme", "paint", await door.publish())
        gpu = (await door.catalog.facts(*name, "gpu")).resources
        assert (gpu.needs_gpu, gpu.vram_base, gpu.min_compute_capability) == (True, 2 * GIB, 8.0)
        assert gpu.vram_scales_with == ("steps",)
        train = await door.catalog.facts(*name, "train")
        assert train.kind == "training"
        assert (train.resources.min_vram_gb, train.resources.min_compute_capability) == (24, 9.0)
        assert train.resources.needs_gpu


async def test_what_is_not_there_is_said_with_what_is(open_door: Any) -> None:
    async with open_door() as door:
        release_id = await door.publish()
        with pytest.raises(UnknownFunctionError, match="'draw', 'erase', 'gpu', 'train'"):
            await door.catalog.facts("acme", "paint", release_id, "nobody")
        with pytest.raises(UnknownFunctionError, match="has no release"):
            await door.catalog.facts("acme", "paint", "nothing", "draw")


async def test_a_lock_that_says_what_cannot_be_is_no_ones_call(open_door: Any) -> None:
    async with open_door() as door:
        await door.publish(draw={"module": "paint", "resources": {"min_vram_gb": -1}})
        with pytest.raises(FunctionUnavailableError, match="min_vram_gb"):
            await door.submit()
        assert await door.catalog.functions() == []


async def test_functions_are_listed_once_as_prod_has_them(open_door: Any) -> None:
    async with open_door() as door:
        assert await door.catalog.functions() == []
        await door.publish()
        table = {"module": "paint", "label": "Draws better"}
        second = await door.publish("two", draw=table, added=table)
        await door.releases.tags.promote("acme", "paint", second, tag="dev")
        served = {one.name: one for one in await door.catalog.functions()}
        assert list(served) == ["added", "draw", "erase", "gpu", "train"]
        draw = served["draw"]
        assert (draw.owner, draw.endpoint, draw.label) == ("acme", "paint", "Draws")
        assert (draw.registered_name, draw.python_name) == ("Draw", "Draw")
        assert draw.input_schema is not None
        assert draw.input_schema["title"] == "Drawn"
        assert served["erase"].output_schema == {"type": "string"}
        assert served["added"].input_schema is None
