"""The ladder on a GPU: placement, real out-of-memory, equal bits on every step, less memory."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.models.low_vram import Ladder, escalate, place, with_oom_retry
from gen_worker.models.low_vram.facts import Machine
from gen_worker.models.low_vram.groups import GroupOffload, components_of
from gen_worker.models.low_vram.hooks import stamp_of
from gen_worker.models.low_vram.steps import install
from gen_worker.models.residency import Budgets, Residency
from gen_worker.models.residency.weights import weight_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

GPU = "cuda:0"
MIB = 1024**2
WIDTH = 512


@pytest.fixture(autouse=True)
def clean_gpu() -> Iterator[None]:
    yield
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)


def flux() -> Any:
    """Make a Flux of about 170 MiB that is asked with embeddings."""
    torch.manual_seed(1)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=12,
        attention_head_dim=64,
        num_attention_heads=WIDTH // 64,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=64,
        axes_dims_rope=[16, 24, 24],
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=[16, 32],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=8,
        shift_factor=0.1,
        scaling_factor=0.3,
    )
    pipeline = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.bfloat16)


def image(pipeline: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float32}
    return pipeline(
        prompt_embeds=torch.randn(1, 16, WIDTH, **options).to(GPU, torch.bfloat16),
        pooled_prompt_embeds=torch.randn(1, 64, **options).to(GPU, torch.bfloat16),
        num_inference_steps=3,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images


def peak_of(pipeline: Any) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    image(pipeline)
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated())


def machine(**ladder: Any) -> Machine:
    return Machine(Ladder(**ladder))


def test_what_fits_is_whole_on_the_gpu_and_never_offloaded() -> None:
    pipeline = flux()
    told: list[dict[str, Any]] = []
    placed = place(pipeline, GPU, tell=lambda kind, event: told.append(event), machine=machine())
    assert placed.mode == "off"
    assert [event["stage"] for event in told] == ["baseline"]
    assert {p.device.type for p in pipeline.transformer.parameters()} == {"cuda"}


def test_every_step_computes_the_same_bits() -> None:
    pipeline = flux()
    place(pipeline, GPU, machine=machine())
    expected = image(pipeline)
    for mode in ("model_offload", "group_offload", "sequential", "group_offload"):
        install(pipeline, mode, GPU, machine=machine())
        for _ in range(2):  # streams learn their order in the first call
            assert (image(pipeline) == expected).all(), mode


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
def test_a_resident_prefix_keeps_its_budget_and_the_bits(share: float) -> None:
    pipeline = flux()
    expected = image(pipeline.to(GPU))
    whole = peak_of(pipeline)
    pipeline.to("cpu")
    size = weight_bytes(pipeline)
    budget = int(size * share)
    GroupOffload(GPU, budget=budget).install(pipeline)
    held = torch.cuda.memory_allocated()
    assert held <= budget + MIB
    for _ in range(2):
        assert (image(pipeline) == expected).all()
    largest = max(components_of(pipeline), key=lambda part: part.size).blocks
    assert peak_of(pipeline) <= whole - size + max(budget, 3 * max(largest)) + 16 * MIB


def test_a_real_out_of_memory_while_moving_is_rescued() -> None:
    pipeline = flux()
    total = torch.cuda.get_device_properties(0).total_memory
    allowed = torch.cuda.memory_reserved() + weight_bytes(pipeline) // 2
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    told: list[dict[str, Any]] = []
    placed = place(pipeline, GPU, tell=lambda kind, event: told.append(event), machine=machine())
    assert placed.is_offloaded
    assert told[-1]["stage"] == "oom_escalation"


def test_a_real_out_of_memory_in_a_call_is_rescued() -> None:
    pipeline = flux()
    place(pipeline, GPU, machine=machine())
    expected = image(pipeline)
    size = weight_bytes(pipeline)
    total = torch.cuda.get_device_properties(0).total_memory
    ballast: list[Any] = []

    def call() -> Any:
        # Room for all but what the weights take while they are whole on the GPU.
        if stamp_of(pipeline) == "off":
            torch.cuda.empty_cache()
            allowed = torch.cuda.memory_reserved() + size // 2
            torch.cuda.set_per_process_memory_fraction(allowed / total)
        ballast[:] = [torch.empty(size, dtype=torch.uint8, device=GPU)]
        torch.cuda.set_per_process_memory_fraction(1.0)
        return image(pipeline)

    assert (with_oom_retry(call, pipelines=[pipeline]) == expected).all()
    assert stamp_of(pipeline) != "off"


def test_escalation_goes_on_to_the_last_step() -> None:
    pipeline = flux()
    place(pipeline, GPU, machine=machine())
    expected = image(pipeline)
    seen = []
    while escalate({"m": pipeline}, machine=machine()):
        seen.append(stamp_of(pipeline))
        assert (image(pipeline) == expected).all()
    assert seen == ["model_offload", "group_offload", "sequential"]


def test_the_residency_measures_and_moves_for_real() -> None:
    residency = Residency(Budgets(max_vram_gb=0.3))
    first, second = flux(), flux()
    before = torch.cuda.memory_allocated()
    residency.use("a", GPU, lambda: first).release()
    size = weight_bytes(first)
    assert residency.used_bytes(GPU) == size
    assert torch.cuda.memory_allocated() - before == pytest.approx(size, rel=0.05)
    residency.use("b", GPU, lambda: second).release()
    assert residency.inventory().ram_models == ("a",)
    assert {p.device.type for p in first.transformer.parameters()} == {"cpu"}
    with residency.use("a", GPU, lambda: None) as back:
        assert back is first
        assert {p.device.type for p in first.transformer.parameters()} == {"cuda"}
    assert residency.unload("b")
