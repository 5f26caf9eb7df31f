"""A pipeline from the hub, through the library, to an image; stopped, adapted and taken down."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")

from gen_worker.cancel import CancelToken  # noqa: E402  # torch decides whether this runs at all
from gen_worker.errors import CanceledError  # noqa: E402
from gen_worker.models import Repo, SharedBase  # noqa: E402
from gen_worker.models.fetch import Fetcher  # noqa: E402
from gen_worker.models.hub import publish_folder  # noqa: E402
from gen_worker.models.library import ModelLibrary  # noqa: E402
from gen_worker.models.net import Opener  # noqa: E402
from gen_worker.models.residency import Residency  # noqa: E402
from gen_worker.models.sources import Sources  # noqa: E402
from gen_worker.models.store import ContentStore  # noqa: E402
from gen_worker.models.tiny import tiny_lora  # noqa: E402
from gen_worker.ports import ModelRequest, drive  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import RunningHub

PIPELINE = diffusers.StableDiffusionPipeline


class Machine:
    def __init__(self, root: Path, hub: RunningHub) -> None:
        self.client = hub.client()
        self.opener = Opener(trusted=[hub.url])
        store = ContentStore(root, reserve_bytes=0)
        sources = Sources(store, self.opener, Fetcher(self.opener, durable=False), hub=self.client)
        self.steps: list[tuple[str, int, int]] = []
        self.library = ModelLibrary(
            sources,
            Residency(),
            on_step=lambda asks, done, total: self.steps.append((asks.request_id, done, total)),
        )

    def close(self) -> None:
        self.opener.close()
        self.client.close()

    def call(self, binding: Repo[Any], use: Callable[[Any], Any], **options: Any) -> Any:
        request = ModelRequest("paint", "pipe", "r1", options.pop("token", CancelToken()))
        choice = {**binding.choose("pipe", {}, None), **options}

        async def run() -> Any:
            prepared = await self.library.prepare(binding, choice, PIPELINE, request)
            async with self.library.lease(prepared, device="cpu", request=request) as pipe:
                return use(pipe)

        return drive(run())


@pytest.fixture
def machine(tmp_path: Path, hub: RunningHub, models: Callable[..., Path]) -> Iterator[Machine]:
    with hub.client() as client:
        publish_folder(client, models("stable_diffusion"), "tiny/sd")
    one = Machine(tmp_path / "cas", hub)
    yield one
    one.close()


def paint(pipe: Any, seed: int = 0, steps: int = 2) -> Any:
    generator = torch.Generator().manual_seed(seed)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        "a cat",
        num_inference_steps=steps,
        height=32,
        width=32,
        generator=generator,
        output_type="np",
    ).images
    return images[0]


def test_a_pipeline_paints_and_its_steps_are_told(machine: Machine) -> None:
    image = machine.call(Repo("tiny/sd"), paint)
    assert image.shape == (32, 32, 3)
    assert image.std() > 0
    assert (machine.call(Repo("tiny/sd"), paint) == image).all()
    assert (machine.call(Repo("tiny/sd"), lambda pipe: paint(pipe, seed=1)) != image).any()
    assert machine.steps[:2] == [("r1", 1, 2), ("r1", 2, 2)]


def test_a_canceled_call_stops_at_its_next_step(machine: Machine) -> None:
    token = CancelToken()

    def start_and_cancel(pipe: Any) -> None:
        def cancel(*_: Any) -> dict[str, Any]:
            token.cancel()
            return {}

        pipe("a cat", num_inference_steps=40, height=32, width=32, callback_on_step_end=cancel)

    with pytest.raises(CanceledError):
        machine.call(Repo("tiny/sd"), start_and_cancel, token=token)
    assert len(machine.steps) <= 2


def test_a_lora_lies_over_one_call_only(machine: Machine, hub: RunningHub, tmp_path: Path) -> None:
    machine.call(Repo("tiny/sd"), lambda pipe: tiny_lora(tmp_path / "lora", pipe))
    with hub.client() as client:
        publish_folder(client, tmp_path / "lora", "tiny/style")
    binding = Repo("tiny/sd").allow_lora()
    plain = machine.call(binding, paint)
    chosen = [{"ref": "tiny/style", "weight": 1.0}]

    styled = machine.call(binding, paint, loras=chosen)

    assert (styled != plain).any()
    assert (machine.call(binding, paint) == plain).all()


def test_calls_of_several_threads_share_one_object(machine: Machine) -> None:
    machine.call(Repo("tiny/sd"), id)  # there by now
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(machine.call(Repo("tiny/sd"), id)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_variants_share_what_their_base_names(
    machine: Machine, hub: RunningHub, models: Callable[..., Path]
) -> None:
    with hub.client() as client:
        publish_folder(client, models("stable_diffusion", seed=5), "tiny/other")
    base = SharedBase(
        PIPELINE,
        **{name: Repo("tiny/sd") for name in ("vae", "text_encoder", "tokenizer", "scheduler")},
    )
    first = base.variant(unet=Repo("tiny/sd"))
    second = base.variant(unet=Repo("tiny/other"))

    whole = machine.call(Repo("tiny/sd"), paint)
    one, image = machine.call(first, lambda pipe: (pipe, paint(pipe)))
    other, changed = machine.call(second, lambda pipe: (pipe, paint(pipe)))

    assert one.vae is other.vae
    assert one.unet is not other.unet
    assert (image == whole).all()
    assert (changed != whole).any()
    assert machine.call(first, id) == id(one)


def test_a_variant_that_takes_loras_shares_with_nobody(machine: Machine) -> None:
    base = SharedBase(
        PIPELINE,
        **{name: Repo("tiny/sd") for name in ("vae", "text_encoder", "tokenizer", "scheduler")},
    )
    plain = machine.call(base.variant(unet=Repo("tiny/sd")), lambda pipe: pipe)
    styled = machine.call(base.variant(unet=Repo("tiny/sd")).allow_lora(), lambda pipe: pipe)

    assert styled is not plain
    assert styled.text_encoder is not plain.text_encoder
    assert styled.text_encoder.device == plain.text_encoder.device
