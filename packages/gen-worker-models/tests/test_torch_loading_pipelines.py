"""Real pipelines and models, tiny ones, from every layout of files to an image or a text."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError, RefCompatibilitySurprise
from gen_worker.models import ModelChoice
from gen_worker.models.formats import UnsafeFileFormat
from gen_worker.models.loading import (
    ComponentLoadError,
    ConfigNeededError,
    LoadPlan,
    MissingComponentsError,
    MissingPackageError,
    TypeMismatchError,
    load,
    plan,
)

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Of diffusers with NumPy 2 and this torch; not of ours.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
]


@pytest.fixture
def copy_of(models: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    def copy(name: str, **options: Any) -> Path:
        return Path(shutil.copytree(models(name, **options), tmp_path / "copy"))

    return copy


def pixels(pipeline: Any, seed: int, size: int = 64) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        "a horse",
        num_inference_steps=2,
        height=size,
        width=size,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    )
    return made.images[0]


@pytest.mark.parametrize(
    ("name", "cls", "size"),
    [
        ("stable_diffusion", "StableDiffusionPipeline", 64),
        ("stable_diffusion_xl", "StableDiffusionXLPipeline", 64),
        ("flux", "FluxPipeline", 16),
    ],
)
def test_a_pipeline_makes_the_same_image_for_the_same_seed(
    models: Callable[..., Path], name: str, cls: str, size: int
) -> None:
    path = models(name)
    made = plan(path, getattr(diffusers, cls))
    loaded = load(made)
    assert type(loaded.object) is getattr(diffusers, cls)
    assert loaded.is_pipeline
    assert loaded.size_bytes == pytest.approx(made.size_bytes, rel=0.01)
    assert set(loaded.components) >= {"vae", "scheduler", "tokenizer"}
    first = pixels(loaded.object, 0, size)
    assert first.shape == (size, size, 3)
    assert first.var() > 0
    assert (pixels(load(plan(path)).object, 0, size) == first).all()
    assert (pixels(loaded.object, 1, size) != first).any()


def test_sharded_weights_are_the_same_weights(models: Callable[..., Path]) -> None:
    whole = load(plan(models("stable_diffusion"))).object
    made = plan(models("stable_diffusion", shard_bytes=60_000))
    assert max(len(part.weights) for part in made.components) > 1
    assert (pixels(load(made).object, 0) == pixels(whole, 0)).all()


def test_a_variant_is_loaded_in_its_precision(models: Callable[..., Path]) -> None:
    path = models("stable_diffusion", variant="bf16", dtype="bfloat16")
    loaded = load(plan(path))
    assert loaded.object.unet.dtype == loaded.object.text_encoder.dtype == torch.bfloat16
    full = load(plan(path, choice=ModelChoice(ref="a/b", dtype="fp32"))).object
    assert full.unet.dtype == full.vae.dtype == torch.float32


def test_one_component(models: Callable[..., Path]) -> None:
    path = models("stable_diffusion")
    vae = load(plan(path, diffusers.AutoencoderKL)).object
    text = load(plan(path, transformers.CLIPTextModel, choice=ModelChoice(ref="a/b"))).object
    tokenizer = load(plan(path, transformers.CLIPTokenizer)).object
    scheduler = load(plan(path, diffusers.DDIMScheduler)).object
    assert vae.config.latent_channels == 4
    assert text(**tokenizer("a horse", return_tensors="pt")).last_hidden_state.shape[-1] == 32
    assert scheduler.config.beta_schedule == "scaled_linear"


def test_an_auto_pipeline_makes_its_own_class(models: Callable[..., Path]) -> None:
    loaded = load(plan(models("stable_diffusion"), diffusers.AutoPipelineForImage2Image))
    assert type(loaded.object) is diffusers.StableDiffusionImg2ImgPipeline


def test_the_annotated_class_counts_not_the_one_in_the_model(models: Callable[..., Path]) -> None:
    path = models("stable_diffusion")
    loaded = load(plan(path, diffusers.StableDiffusionImg2ImgPipeline))
    assert type(loaded.object) is diffusers.StableDiffusionImg2ImgPipeline
    with pytest.raises(MissingComponentsError, match="'StableDiffusionPipeline'") as caught:
        plan(path, diffusers.StableDiffusionXLPipeline)
    assert caught.value.missing == ("text_encoder_2", "tokenizer_2")


@pytest.mark.parametrize("shard", ["5GB", "40KB"])
def test_a_language_model_writes(models: Callable[..., Path], shard: str) -> None:
    path = models("llama", shard_size=shard)
    model = load(plan(path)).object
    tokenizer = load(plan(path, transformers.AutoTokenizer)).object
    assert type(model) is transformers.LlamaForCausalLM
    tokens = tokenizer("once upon a time", return_tensors="pt")
    made = [model.generate(**tokens, max_new_tokens=6, do_sample=False) for _ in range(2)]
    assert made[0].shape[1] == tokens["input_ids"].shape[1] + 6
    assert (made[0] == made[1]).all()
    assert isinstance(tokenizer.decode(made[0][0]), str)


def test_the_class_of_a_language_model_may_be_left_open(models: Callable[..., Path]) -> None:
    loaded = load(plan(models("llama"), transformers.AutoModelForCausalLM))
    assert type(loaded.object) is transformers.LlamaForCausalLM
    assert loaded.size_bytes == pytest.approx(plan(models("llama")).size_bytes, rel=0.01)


def test_no_code_of_a_model_is_run(copy_of: Callable[..., Path], tmp_path: Path) -> None:
    path = copy_of("llama")
    trap = tmp_path / "ran"
    (path / "evil.py").write_text(f"open({str(trap)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"}
    config["_attn_implementation_internal"] = "someone/kernel"
    (path / "config.json").write_text(json.dumps(config))
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    loaded = load(plan(path, transformers.AutoModelForCausalLM))
    assert type(loaded.object) is transformers.LlamaForCausalLM
    assert not hasattr(loaded.object.config, "auto_map")
    assert not trap.exists()
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_the_private_view_goes_with_the_object(
    copy_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import tempfile

    path, place = copy_of("llama"), tmp_path / "temporary"
    (path / "notes.py").write_text("")
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))  # others make views in the usual one
    loaded = load(plan(path, transformers.AutoTokenizer))
    (view,) = place.glob("gen-worker-view-*")
    assert not (view / "notes.py").exists()
    del loaded
    gc.collect()
    assert not view.exists()


def test_pickled_weights_are_refused(copy_of: Callable[..., Path]) -> None:
    path = copy_of("llama")
    model = load(plan(path)).object
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    with pytest.raises(UnsafeFileFormat, match=r"pytorch_model\.bin"):
        plan(path)


def test_a_pipeline_takes_components_by_reference(models: Callable[..., Path]) -> None:
    path = models("stable_diffusion")
    base = load(plan(path))
    shared = {"vae": base.object.vae, "text_encoder": base.object.text_encoder}
    other = load(plan(path, shared=shared), components=shared)
    assert other.object.vae is base.object.vae
    assert other.object.unet is not base.object.unet
    assert other.shared == ("vae", "text_encoder")
    assert (pixels(other.object, 0) == pixels(base.object, 0)).all()


def test_a_canceled_load_stops_before_the_next_component(models: Callable[..., Path]) -> None:
    token = CancelToken()
    token.cancel()
    told: list[str] = []
    with pytest.raises(CanceledError):
        load(plan(models("flux")), token=token, tell=lambda kind, _: told.append(kind))
    assert told == ["model.load.started", "model.load.failed"]


def test_a_load_is_told(models: Callable[..., Path]) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    made = plan(models("stable_diffusion"), choice=ModelChoice(ref="acme/sd"))
    load(made, tell=lambda kind, payload: told.append((kind, payload)))
    assert [kind for kind, _ in told] == ["model.load.started", "model.load.completed"]
    assert told[0][1] == {"model_id": "acme/sd"}
    assert told[1][1]["error_type"] == ""
    assert told[1][1]["duration_ms"] >= 0


def _other_width(path: Path) -> None:
    config = path / "unet" / "config.json"
    config.write_text(config.read_text().replace('"sample_size": 32', '"layers_per_block": 2'))


def _other_shapes(path: Path) -> None:
    config = path / "unet" / "config.json"
    text = config.read_text().replace('"cross_attention_dim": 32', '"cross_attention_dim": 48')
    config.write_text(text)


@pytest.mark.parametrize("spoil", [_other_width, _other_shapes])
def test_weights_that_do_not_fit_their_configuration(
    copy_of: Callable[..., Path], spoil: Callable[[Path], None]
) -> None:
    path = copy_of("stable_diffusion")
    spoil(path)
    with pytest.raises((ComponentLoadError, MissingComponentsError)):
        load(plan(path))
    chosen = ModelChoice(ref="acme/other", source="override")
    with pytest.raises(RefCompatibilitySurprise) as caught:
        load(plan(path, choice=chosen))
    assert caught.value.ref == "acme/other"


def test_a_missing_package_is_not_the_callers_fault(models: Callable[..., Path]) -> None:
    attributes = {"quant_library": ("torchao",), "quant_recipe": ("int8",)}
    choice = ModelChoice(ref="acme/sd", source="override", attributes=attributes)
    made = plan(models("stable_diffusion"), choice=choice)
    with pytest.raises(MissingPackageError, match="'torchao'") as caught:
        load(made)
    assert caught.value.package == "torchao"


def test_an_object_of_another_type_is_refused(models: Callable[..., Path]) -> None:
    class Mine:
        @classmethod
        def from_pretrained(cls, path: str) -> str:
            return path

    with pytest.raises(
        TypeMismatchError, match=r"type mismatch for pipe: expected .*Mine, got builtins\.str"
    ):
        load(plan(models("llama"), Mine, parameter="pipe", choice=ModelChoice(ref="a/b")))


def test_one_checkpoint_file_of_a_component(models: Callable[..., Path], tmp_path: Path) -> None:
    vae = models("stable_diffusion") / "vae"
    shutil.copy(vae / "config.json", tmp_path / "config.json")
    file = tmp_path / "my-vae.safetensors"
    shutil.copy(vae / "diffusion_pytorch_model.safetensors", file)
    for path in (tmp_path, file):
        made: LoadPlan = plan(path, diffusers.AutoencoderKL)
        assert made.method == "file"
        loaded = load(made).object
        assert loaded.config.block_out_channels == [4, 8]
    (tmp_path / "config.json").unlink()
    with pytest.raises((ConfigNeededError, ComponentLoadError)):
        load(plan(file, diffusers.AutoencoderKL))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may ask another host for anything."""
    import socket

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a load asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
