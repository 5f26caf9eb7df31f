"""On a GPU, LoRAs work on every step of the ladder and leave the same bits behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker import Tensors
from gen_worker.models import ModelChoice
from gen_worker.models.loading import load, plan
from gen_worker.models.lora import load_loras
from gen_worker.models.low_vram.hooks import stamp_of
from gen_worker.models.low_vram.steps import install

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

GPU = "cuda:0"


def pixels(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np"}
    return pipeline("a horse", generator=generator, **options).images[0]


@pytest.mark.parametrize("mode", ["", "model_offload", "group_offload", "sequential"])
@pytest.mark.parametrize("name", ["stable_diffusion", "flux"])
def test_a_lora_on_every_step(
    models: Callable[..., Path], tmp_path: Path, name: str, mode: str
) -> None:
    from gen_worker.models.tiny import tiny_lora

    choice = ModelChoice(ref="acme/tiny", dtype="float32")
    pipeline = load(plan(models(name), choice=choice, device=GPU)).object
    lora = Tensors("lora", local_path=tiny_lora(tmp_path, pipeline))
    if mode:
        install(pipeline, mode, GPU)
    else:
        pipeline.to(GPU)
    before = pixels(pipeline)
    with load_loras(pipeline, [SimpleNamespace(tensors=lora)]):
        assert stamp_of(pipeline) == mode
        assert (pixels(pipeline) != before).any()
    assert stamp_of(pipeline) == mode
    assert pipeline.get_list_adapters() == {}
    assert (pixels(pipeline) == before).all()
