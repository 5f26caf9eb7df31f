"""The ladder on real diffusers pipelines: tiny ones with random weights, on a CPU.

Hooks are diffusers' and accelerate's own; the device that weights are fetched to is the CPU too, so
what is tested is which hooks are where, that they replace each other, and that no output changes.
"""

from __future__ import annotations

import gc
import os
import string
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import is_out_of_memory
from gen_worker.models import low_vram
from gen_worker.models.low_vram import (
    Ladder,
    apply_low_vram_config,
    escalate,
    place,
    with_oom_retry,
    without_hooks,
)
from gen_worker.models.low_vram.facts import Machine
from gen_worker.models.low_vram.groups import GroupOffload, components_of
from gen_worker.models.low_vram.hooks import remove_hooks, stamp_of
from gen_worker.models.low_vram.prefix import Placing, plan_prefix
from gen_worker.models.low_vram.steps import StepUnavailable, install
from gen_worker.models.residency import Budgets, Gpus, Residency, TorchMovers
from gen_worker.models.residency.gpu_memory import GpuMemory
from gen_worker.models.residency.weights import parts_of, weight_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
np: Any = pytest.importorskip("numpy")
accelerate: Any = pytest.importorskip("accelerate")
diffusers: Any = pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")

# Of the libraries themselves, at import or about their own options.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

GIB = 1024**3


class OnCpu:
    """Offloads to the CPU, where diffusers insists on a device with a number."""

    components: dict[str, Any]

    def enable_sequential_cpu_offload(self, gpu_id: Any = None, device: Any = None) -> None:
        self.remove_all_hooks()  # type: ignore[attr-defined]
        for module in self.components.values():
            if isinstance(module, torch.nn.Module):
                accelerate.cpu_offload(
                    module, torch.device("cpu"), offload_buffers=len(module._parameters) > 0
                )


class TinyDiffusion(OnCpu, diffusers.StableDiffusionPipeline):  # type: ignore[misc]
    pass


class TinyFlux(OnCpu, diffusers.FluxPipeline):  # type: ignore[misc]
    pass


def tokenizer() -> Any:
    words = ["<|startoftext|>", "<|endoftext|>", *string.ascii_lowercase]
    words += [letter + "</w>" for letter in string.ascii_lowercase]
    vocabulary = {word: number for number, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def clip() -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return transformers.CLIPTextModel(config)


def vae(**options: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=[16, 32],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
        **options,
    )


def diffusion(**components: Any) -> Any:
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        norm_num_groups=8,
    )
    parts = {
        "vae": vae(),
        "text_encoder": clip(),
        "tokenizer": tokenizer(),
        "unet": unet,
        "scheduler": diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        **components,
    }
    return quiet(
        TinyDiffusion(
            safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts
        )
    )


def flux(double: int = 2, single: int = 4, **components: Any) -> Any:
    torch.manual_seed(1)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
    )
    t5 = transformers.T5Config(
        vocab_size=100, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4
    )
    parts = {
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
        "vae": vae(shift_factor=0.1, scaling_factor=0.3),
        "text_encoder": clip(),
        "tokenizer": tokenizer(),
        "text_encoder_2": transformers.T5EncoderModel(t5),
        "tokenizer_2": tokenizer(),
        "transformer": transformer,
        **components,
    }
    return quiet(TinyFlux(**parts))


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval()
    return pipeline


def image(pipeline: Any) -> Any:
    options = {"max_sequence_length": 16} if isinstance(pipeline, TinyFlux) else {}
    return pipeline(
        "a red cat",
        num_inference_steps=2,
        height=16,
        width=16,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **options,
    ).images


@pytest.fixture(autouse=True, scope="module")
def cheap_collections() -> Iterator[None]:
    """Offload collects garbage at every step; the libraries' own objects need no visit."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class FakeGpus(Gpus):
    def __init__(self, total: float, free: float | None = None) -> None:
        self.total, self.free = total, total if free is None else free

    def is_available(self) -> bool:
        return True

    def memory(self, index: int = 0) -> GpuMemory:
        return GpuMemory(int(self.total * GIB), int(self.free * GIB))


def machine(total: float = 24, ram: float = 64, **ladder: Any) -> Machine:
    return Machine(Ladder(**ladder), gpus=FakeGpus(total), ram_gb=lambda: ram)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let steps that are meant for a GPU be installed for the CPU."""

    def here(pipeline: Any, mode: str, device: str, **options: Any) -> Any:
        return install(pipeline, mode, "cpu", **options)

    monkeypatch.setattr("gen_worker.models.low_vram.descent.install", here)


def hooked(module: Any) -> set[str]:
    return {
        name
        for name, part in module.named_modules()
        if hasattr(part, "_diffusers_hook") and part._diffusers_hook.get_hook("group_offloading")
    }


def has_hooks(pipeline: Any) -> bool:
    parts = [x for x in pipeline.components.values() if isinstance(x, torch.nn.Module)]
    return any(hooked(part) or hasattr(part, "_hf_hook") for part in parts)


@pytest.mark.parametrize("make", [diffusion, flux])
def test_every_step_replaces_the_last_and_changes_no_bit(make: Callable[[], Any]) -> None:
    pipeline = make()
    before = image(pipeline)
    names = list(pipeline.unet.state_dict() if make is diffusion else [])
    up_and_down = [
        "vae_only",
        "model_offload",
        "group_offload",
        "sequential",
        "group_offload",
        "model_offload",
    ]
    for mode in up_and_down:
        result = install(pipeline, mode, "cpu", machine=machine())
        assert result["mode"] == stamp_of(pipeline) == mode
        assert has_hooks(pipeline) is (mode != "vae_only")
        assert np.array_equal(image(pipeline), before), mode
    remove_hooks(pipeline)
    assert not has_hooks(pipeline)
    assert np.array_equal(image(pipeline), before)
    assert not names or names == list(pipeline.unet.state_dict())


def test_the_vae_is_sliced_and_tiled_and_fused_attention_is_not() -> None:
    pipeline = diffusion()
    result = apply_low_vram_config(pipeline, mode="vae_only")
    assert (result["vae_slicing"], result["vae_tiling"]) == (True, True)
    assert (pipeline.vae.use_slicing, pipeline.vae.use_tiling) == (True, True)
    assert result["attention_slicing"] is False


def test_sizes_are_those_of_the_weights() -> None:
    pipeline = diffusion()
    modules = [x for x in pipeline.components.values() if isinstance(x, torch.nn.Module)]
    expected = sum(
        tensor.numel() * tensor.element_size()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    )
    assert low_vram.estimate_pipeline_size_gb(pipeline) * GIB == expected
    install(pipeline, "sequential", "cpu", machine=machine())
    assert low_vram.estimate_pipeline_size_gb(pipeline) * GIB == expected


def flux_budget(blocks: int) -> int:
    """Return the bytes for so many resident blocks of a tiny Flux and nothing else."""
    parts = {part.name: part for part in components_of(flux())}
    transformer = parts["transformer"]
    rest = transformer.size - sum(transformer.blocks)
    leaves = 2 * max(part.largest_leaf for part in parts.values())
    streamed = transformer.blocks[blocks:]
    return leaves + rest + sum(transformer.blocks[:blocks]) + 2 * max(streamed)


@pytest.mark.parametrize("wanted", [0, 3])
def test_a_resident_prefix_carries_no_hooks_and_changes_no_bit(wanted: int) -> None:
    pipeline = flux()
    budget = flux_budget(wanted)
    placings = {x.name: x for x in plan_prefix(components_of(pipeline), budget)}
    resident = placings["transformer"].resident_blocks
    assert placings["transformer"].how == "blocks"
    assert resident >= wanted
    before = image(pipeline)
    keys = list(pipeline.transformer.state_dict())
    assert GroupOffload("cpu", budget=budget).install(pipeline)
    blocks = [f"transformer_blocks.{i}" for i in range(2)]
    blocks += [f"single_transformer_blocks.{i}" for i in range(4)]
    found = hooked(pipeline.transformer)
    assert found & set(blocks) == set(blocks[resident:])
    # Besides them only the module itself, which moves its smallest child.
    assert found - set(blocks) == {""}
    assert hooked(pipeline.text_encoder_2)
    assert list(pipeline.transformer.state_dict()) == keys
    assert np.array_equal(image(pipeline), before)
    remove_hooks(pipeline)
    assert not hooked(pipeline.transformer)
    assert np.array_equal(image(pipeline), before)


def test_a_unet_streams_its_blocks_too() -> None:
    pipeline = diffusion()
    before = image(pipeline)
    GroupOffload("cpu")._stream_blocks(pipeline.unet, Placing("unet", "blocks", 1))
    found = hooked(pipeline.unet)
    assert {"down_blocks.1", "up_blocks.0", "up_blocks.1"} <= found
    assert not {"down_blocks.0", "mid_block"} & found
    assert np.array_equal(image(pipeline), before)


def test_with_room_for_all_but_a_little_only_the_rest_is_streamed() -> None:
    pipeline = flux()
    GroupOffload("cpu", budget=weight_bytes(pipeline)).install(pipeline)
    names = ("transformer", "vae", "text_encoder", "text_encoder_2")
    streamed = [name for name in names if hooked(getattr(pipeline, name))]
    assert len(streamed) == 1
    assert streamed != ["transformer"]


def test_what_cannot_be_streamed_stays_on_the_device() -> None:
    pipeline = diffusion()
    before = image(pipeline)
    pipeline.vae._supports_group_offloading = False
    install(pipeline, "group_offload", "cpu", machine=machine())
    assert not hooked(pipeline.vae)
    assert hooked(pipeline.unet)
    assert np.array_equal(image(pipeline), before)


def test_weights_on_disk_are_kept_apart_by_component(tmp_path: Path) -> None:
    # Both encoders have layers of the same names, and diffusers names files by layers.
    # The T5's two embeddings are one tensor besides.
    pipeline = flux()
    other = flux()
    for parameter in other.transformer.parameters():
        parameter.data += 0.05
    before, other_before = image(pipeline), image(other)
    here = machine(ram=1, directory=str(tmp_path / "off"))
    for pipe, expected in ((pipeline, before), (other, other_before)):
        result = install(pipe, "group_offload", "cpu", machine=here)
        assert os.path.isdir(result["disk_offload_path"])
        assert sum(len(files) for _, _, files in os.walk(result["disk_offload_path"]))
        assert np.array_equal(image(pipe), expected)
    assert len(os.listdir(tmp_path / "off")) == 2
    # Read back when it changes steps, and gone with the pipeline.
    remove_hooks(pipeline)
    assert np.array_equal(image(pipeline), before)
    assert len(os.listdir(tmp_path / "off")) == 1
    del pipe, other
    gc.collect()
    assert os.listdir(tmp_path / "off") == []


def test_short_ram_refuses_to_read_weights_back_for_sequential(tmp_path: Path) -> None:
    pipeline = flux()
    tight = machine(ram=1e-6, directory=str(tmp_path))
    install(pipeline, "group_offload", "cpu", machine=tight)
    with pytest.raises(StepUnavailable, match="RAM"):
        install(pipeline, "sequential", "cpu", machine=tight)
    assert stamp_of(pipeline) == "group_offload"
    install(pipeline, "sequential", "cpu", machine=machine())
    assert stamp_of(pipeline) == "sequential"


def test_eight_bits_stay_under_every_later_step() -> None:
    pipeline = flux()
    exact = image(pipeline)
    facts = machine().facts(pipeline, "cuda:0")
    size = weight_bytes(pipeline)
    result = install(pipeline, "fp8_layerwise", "cpu", machine=machine())
    assert result["fp8_layerwise"] is True
    saved = size - weight_bytes(pipeline)
    assert 0 < saved <= facts.cast_saves_gb * GIB
    cast = image(pipeline)
    assert not np.array_equal(cast, exact)
    assert abs(cast - exact).mean() < 0.1
    for mode in ("model_offload", "group_offload", "sequential"):
        install(pipeline, mode, "cpu", machine=machine())
        assert np.array_equal(image(pipeline), cast), mode
    with pytest.raises(StepUnavailable):
        install(pipeline, "fp8_layerwise", "cpu", machine=machine())


def test_hooks_come_off_for_a_block_and_go_on_again() -> None:
    pipeline = diffusion()
    before = image(pipeline)
    for mode in ("model_offload", "group_offload", "sequential"):
        install(pipeline, mode, "cpu", machine=machine())
        with without_hooks(pipeline):
            assert not has_hooks(pipeline)
            assert all(p.device.type == "cpu" for p in pipeline.unet.parameters())
        assert has_hooks(pipeline)
        assert stamp_of(pipeline) == mode
        assert np.array_equal(image(pipeline), before)
    remove_hooks(pipeline)


class Scripted:
    """Raises the real error: at the named calls, so many times."""

    failures: dict[str, int]
    calls: list[str]

    def _may(self, name: str) -> None:
        self.calls.append(name)
        if self.failures.get(name, 0):
            self.failures[name] -= 1
            raise torch.OutOfMemoryError(f"CUDA out of memory at {name}")

    def to(self, *arguments: Any, **options: Any) -> Any:
        if "cuda" in str(arguments[:1]):
            self._may("to")
            return self
        return super().to(*arguments, **options)  # type: ignore[misc]

    def enable_model_cpu_offload(self, *arguments: Any, **options: Any) -> None:
        self._may("model")
        super().enable_model_cpu_offload(device="cpu")  # type: ignore[misc]

    def enable_sequential_cpu_offload(self, *arguments: Any, **options: Any) -> None:
        self._may("sequential")
        super().enable_sequential_cpu_offload()  # type: ignore[misc]


def scripted(pipeline: Any, **failures: int) -> Any:
    pipeline.__class__ = type("Scripted", (Scripted, type(pipeline)), {})
    pipeline.failures, pipeline.calls = failures, []
    return pipeline


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("failures", "mode"),
    [
        ({}, "off"),
        ({"to": 1}, "model_offload"),
        ({"to": 1, "model": 1}, "group_offload"),
    ],
)
def test_the_real_error_while_placing(failures: dict[str, int], mode: str) -> None:
    pipeline = diffusion()
    before = image(pipeline)
    told: list[dict[str, Any]] = []
    placed = place(
        scripted(pipeline, **failures),
        "cuda:0",
        model_id="tiny",
        tell=lambda kind, payload: told.append(payload),
        machine=machine(),
    )
    assert placed.mode == stamp_of(pipeline) == mode
    assert told[-1]["stage"] == ("oom_escalation" if failures else "baseline")
    assert np.array_equal(image(pipeline), before)


@pytest.mark.usefixtures("on_cpu")
def test_eight_bits_are_tried_before_offload_where_they_are_allowed() -> None:
    pipeline = scripted(flux(), to=1)
    told: list[dict[str, Any]] = []
    placed = place(
        pipeline,
        "cuda:0",
        dtype=torch.bfloat16,
        tell=lambda kind, payload: told.append(payload),
        machine=machine(may_cast=True),
    )
    assert placed.mode == "fp8_layerwise"
    assert pipeline.calls == ["to", "to"]
    assert [event["stage"] for event in told] == ["oom_escalation", "baseline"]
    assert pipeline.transformer.transformer_blocks[0].attn.to_q.weight.dtype == torch.float8_e4m3fn
    assert pipeline.vae.dtype == torch.bfloat16
    assert escalate({"m": pipeline}, machine=machine(may_cast=True))
    assert stamp_of(pipeline) == "model_offload"


@pytest.mark.usefixtures("on_cpu")
def test_the_real_error_in_the_call_takes_steps_until_it_succeeds() -> None:
    pipeline = diffusion()
    before = image(pipeline)
    seen: list[str] = []

    def call() -> Any:
        seen.append(stamp_of(pipeline))
        if stamp_of(pipeline) != "group_offload":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return image(pipeline)

    def sees_gpus() -> Machine:
        return machine()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gen_worker.models.low_vram.retry.Machine", sees_gpus)
        apply_low_vram_config(pipeline, mode="vae_only")
        assert np.array_equal(with_oom_retry(call, pipelines=[pipeline]), before)
    assert seen == ["vae_only", "model_offload", "group_offload"]


@pytest.fixture
def failing() -> Callable[[Any, str], Any]:
    """Make one module of a pipeline raise the real error when it is called."""

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def run(pipeline: Any, where: str) -> Any:
        target = pipeline.vae.decoder if where == "vae" else pipeline.unet.mid_block
        handle = target.register_forward_pre_hook(fail)
        try:
            image(pipeline)
        except torch.OutOfMemoryError as error:
            return error
        finally:
            handle.remove()

    return run


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(("where", "mode"), [("vae", "vae_only"), ("unet", "model_offload")])
def test_a_failure_in_the_vae_is_answered_there(
    where: str, mode: str, failing: Callable[[Any, str], Any]
) -> None:
    pipeline = diffusion()
    error = failing(pipeline, where)
    assert is_out_of_memory(error)
    place(scripted(pipeline), "cuda:0", machine=machine())
    assert escalate({"m": pipeline}, error=error, machine=machine())
    assert stamp_of(pipeline) == mode


@pytest.mark.usefixtures("on_cpu")
def test_shared_components_take_the_same_step_and_both_pipelines_run() -> None:
    first = diffusion()
    second = diffusion(vae=first.vae, text_encoder=first.text_encoder)
    expected = [image(first), image(second)]
    for mode in ("model_offload", "group_offload", "sequential"):
        for pipeline in (first, second):
            install(pipeline, mode, "cpu", machine=machine())
        assert np.array_equal(image(first), expected[0])
        assert np.array_equal(image(second), expected[1])


def test_shared_modules_are_one_part() -> None:
    first = diffusion()
    second = diffusion(vae=first.vae, text_encoder=first.text_encoder)
    shared = set(parts_of(first)) & set(parts_of(second))
    assert sum(part.size_bytes for part in shared) == weight_bytes([first.vae, first.text_encoder])
    residency = Residency(Budgets(max_vram_gb=1.0, max_ram_gb=4.0))
    residency.use("first", "cpu", lambda: first).release()
    residency.use("second", "cpu", lambda: second).release()
    distinct = weight_bytes(first) + weight_bytes(second.unet)
    assert residency.used_bytes("cpu") == distinct


def test_what_others_use_stays_when_a_pipeline_is_moved() -> None:
    first = diffusion()
    keep = {part.key for part in parts_of([first.vae])}
    moved: list[str] = []
    for name in ("vae", "unet", "text_encoder"):
        module = getattr(first, name)
        module.to = lambda device, name=name: moved.append(f"{name} {device}")
    TorchMovers().to_ram(first, keep)
    assert sorted(moved) == ["text_encoder cpu", "unet cpu"]


def test_errors_of_torch_are_recognised() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("x"))
    assert not is_out_of_memory(RuntimeError("out of memory"))
