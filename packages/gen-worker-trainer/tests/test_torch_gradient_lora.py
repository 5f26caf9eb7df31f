"""Adapters are trained alone, saved as peft loads them, and merged without harm to the model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest.importorskip("torch")
pytest.importorskip("peft")

import peft  # type: ignore[import-not-found,import-untyped,unused-ignore]
import torch  # type: ignore[import-not-found,unused-ignore]
from safetensors import safe_open  # type: ignore[import-not-found,import-untyped,unused-ignore]

from gen_worker.models.tiny import tiny_llama, tiny_stable_diffusion
from gen_worker.trainer import GradientTrainer, StepContext, TrainingJobSpec
from gen_worker.trainer.lora import (
    BaseModel,
    attach_lora,
    base_model_of,
    default_targets,
    load_lora,
    merged_copy,
    save_lora,
    save_merged,
    trainable_names,
)

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of what is imported


def llama(directory: str) -> Any:
    from transformers import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        AutoModelForCausalLM,
    )

    return AutoModelForCausalLM.from_pretrained(directory)


def unet(directory: str) -> Any:
    from diffusers import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        UNet2DConditionModel,
    )

    make: Any = UNet2DConditionModel
    return make.from_pretrained(directory, subfolder="unet")


def plain(directory: str) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4))


Make = tuple["Callable[[], Any]", "Callable[[Any], Any]"]


@pytest.fixture(scope="module", params=["llama", "unet", "plain"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return what makes the same base model every time, and what asks it something."""
    directory = str(tmp_path_factory.mktemp("base"))
    chance = torch.Generator().manual_seed(2)
    if request.param == "llama":
        tiny_llama(directory)
        ids = torch.randint(0, 20, (2, 5), generator=chance)
        return (lambda: llama(directory)), (lambda model: model(input_ids=ids).logits)
    if request.param == "unet":
        tiny_stable_diffusion(directory)
        size = unet(directory).config
        latents = torch.randn(1, size.in_channels, 8, 8, generator=chance)
        text = torch.randn(1, 3, size.cross_attention_dim, generator=chance)
        return (lambda: unet(directory)), (lambda model: model(latents, 3, text).sample)
    rows = torch.randn(3, 4, generator=chance)
    return (lambda: plain(directory)), (lambda model: model(rows))


def asked(model: Any, ask: Any) -> Any:
    model.eval()
    with torch.no_grad():
        return ask(model)


def with_effect(model: Any) -> Any:
    """Give an adapter weights that change what the model says."""
    chance = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=chance)
    return model


def test_only_the_adapter_is_trained(kind: Make) -> None:
    make, ask = kind
    before = asked(make(), ask)
    model = attach_lora(make(), rank=2)
    names = trainable_names(model)
    assert names
    assert all("lora_" in name for name in names)
    torch.testing.assert_close(asked(model, ask), before)


def test_an_adapter_of_a_half_precision_model_is_whole() -> None:
    model = attach_lora(plain("").to(torch.bfloat16), rank=2)
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    assert kinds == {torch.float32}
    assert model[0].base_layer.weight.dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_saved_adapters_are_those_of_peft(kind: Make, tmp_path: Path) -> None:
    make, ask = kind
    model = with_effect(attach_lora(make(), rank=2, alpha=4, base=BaseModel("acme/base", "r7")))
    told = save_lora(model, tmp_path)
    assert told["primary_path"] == "adapter_model.safetensors"
    expected = asked(model, ask)
    assert not torch.allclose(expected, asked(make(), ask))

    loaded = peft.PeftModel.from_pretrained(make(), str(tmp_path))
    torch.testing.assert_close(asked(loaded, ask), expected)
    for fresh in (make(), attach_lora(make(), rank=2, alpha=4)):
        torch.testing.assert_close(asked(load_lora(fresh, tmp_path), ask), expected)

    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("acme/base", "r7")
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "base_model": "acme/base",
            "base_model_revision": "r7",
        }


def test_merging_gives_a_model_without_adapter(kind: Make, tmp_path: Path) -> None:
    make, ask = kind
    model = with_effect(attach_lora(make(), rank=2))
    before = {name: one.clone() for name, one in model.state_dict().items()}
    expected = asked(model, ask)
    merged = merged_copy(model)
    torch.testing.assert_close(asked(merged, ask), expected, rtol=1e-4, atol=1e-5)
    assert merged.state_dict().keys() == make().state_dict().keys()
    after = model.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in before.items())

    told = save_merged(model, tmp_path)
    assert (tmp_path / told["primary_path"]).is_file()
    if hasattr(merged, "save_pretrained"):
        again = type(merged).from_pretrained(str(tmp_path))
        torch.testing.assert_close(asked(again, ask), asked(merged, ask))


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    save_lora(attach_lora(plain(""), rank=2), tmp_path)
    with pytest.raises(
        ValueError, match=r"another model.*lora_A.*\[2, 4\], the model has \[3, 4\]"
    ):
        load_lora(attach_lora(plain(""), rank=3), tmp_path)


def test_pickled_adapters_are_refused(tmp_path: Path) -> None:
    from gen_worker.models.formats import UnsafeFileFormat

    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(UnsafeFileFormat):
        load_lora(plain(""), tmp_path)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"'ranks'.*rank must be.*dropout must be.*use_dora"):
        attach_lora(plain(""), rank=0, dropout=1.0, ranks=3)
    with pytest.raises(ValueError, match="no adapter"):
        save_lora(plain(""), "nowhere")


def test_usual_layers_are_adapted(tmp_path: Path) -> None:
    tiny_llama(str(tmp_path))
    assert default_targets(llama(str(tmp_path))) == ["q_proj", "v_proj"]
    assert default_targets(plain("")) == "all-linear"


def test_a_jobs_base_model_is_the_adapters() -> None:
    ctx = StepContext(TrainingJobSpec("run", 1), model_handles={"base_model_ref": "acme/base@r7"})
    assert base_model_of(ctx) == ("acme/base", "r7")
    assert base_model_of(StepContext(TrainingJobSpec("run", 1))) == ("", "")


def test_a_trainer_learns_an_adapter_and_exports_it(kind: Make, tmp_path: Path) -> None:
    make, ask = kind

    class Tuner(GradientTrainer):
        def build(self, ctx: StepContext) -> Any:
            return attach_lora(make(), rank=2, base=base_model_of(ctx))

        def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Any:
            return ask(state.model).float().square().mean()

        def export(self, state: Any, directory: Path, ctx: StepContext) -> Any:
            return save_lora(state.model, directory)

    job = TrainingJobSpec("run", 5, hyperparams={"dtype": "fp32", "lr": 0.05, "ema_decay": 0.5})
    ctx = StepContext(job, device="cpu")
    trainer = Tuner()
    state = trainer.configure(ctx)
    losses = []
    for _ in range(5):
        losses.append(float(trainer.train_step({}, state, ctx).metrics["loss"]))
        trainer.optimizer_step(state, ctx)
    assert losses[-1] < losses[0]
    told = trainer.save_checkpoint(state=state, step=5, output_dir=tmp_path, final=True, ctx=ctx)
    assert told == {"primary_path": "adapter_model.safetensors", "format": "peft_lora"}
    with state.evaluating():
        expected = ask(state.model)
    torch.testing.assert_close(asked(load_lora(make(), tmp_path), ask), expected)
