"""Tiny models that every method fits, whatever its blocks: what the tests of the tables convert."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.convert import plan_conversion, run_conversion, verify_flavor
from gen_worker.models.loading.libraries import library

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.conversion.convert import ConversionPlan
    from gen_worker.conversion.convert.cells import Cell
    from gen_worker.conversion.verify import VerificationReport


class Sources:
    """Each is made once, when it is first asked for."""

    computed = staticmethod(lambda parts: computed(parts))
    finished = staticmethod(lambda plan: finished(plan))
    logits = staticmethod(lambda model: logits(model))
    snr_db = staticmethod(lambda made, expected: snr_db(made, expected))

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def pipeline(self) -> Path:
        """Return a Stable Diffusion pipeline with layers wide enough for blocks of 128."""
        diffusers = library("diffusers")
        torch = library("torch")
        transformers = library("transformers")

        from gen_worker.models.tiny.tokens import clip_tokenizer

        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            block_out_channels=(64,),
            layers_per_block=1,
            sample_size=16,
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            norm_num_groups=32,
            cross_attention_dim=128,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(32,),
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=32,
            sample_size=32,
        )
        text = transformers.CLIPTextConfig(
            vocab_size=514,
            hidden_size=128,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=128,
            bos_token_id=512,
            eos_token_id=513,
            pad_token_id=513,
        )
        whole = diffusers.StableDiffusionPipeline(
            unet=unet,
            vae=vae,
            text_encoder=transformers.CLIPTextModel(text),
            tokenizer=clip_tokenizer(),
            scheduler=diffusers.DDIMScheduler(
                clip_sample=False, set_alpha_to_one=False, steps_offset=1
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        whole.save_pretrained(self.root / "pipeline")
        return self.root / "pipeline"

    @cached_property
    def file(self) -> Path:
        """Return the pipeline as one file of float32."""
        from gen_worker.conversion.layout import diffusers_to_singlefile

        place = self.root / "one" / "model.safetensors"
        diffusers_to_singlefile(self.pipeline, place, dtype="")
        return place

    @cached_property
    def folder(self) -> Path:
        """Return a language model with rows of 256, one whole block of every type of GGUF."""
        torch = library("torch")
        transformers = library("transformers")

        from gen_worker.models.tiny.tokens import text_tokenizer

        tokenizer = text_tokenizer()
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=256,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
        transformers.LlamaForCausalLM(config).save_pretrained(self.root / "llama")
        tokenizer.save_pretrained(self.root / "llama")
        return self.root / "llama"

    @cached_property
    def encoder(self) -> Path:
        """Return a sentence encoder."""
        torch = library("torch")
        transformers = library("transformers")

        torch.manual_seed(0)
        place = self.root / "encoder"
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
        config = transformers.BertConfig(
            vocab_size=len(words),
            hidden_size=256,
            intermediate_size=256,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
        transformers.BertModel(config).save_pretrained(place)
        vocabulary = {word: index for index, word in enumerate(words)}
        transformers.BertTokenizer(vocab=vocabulary).save_pretrained(place)
        return place

    @cached_property
    def gguf(self) -> Path:
        """Return the language model as a GGUF file of float32."""
        from gen_worker.conversion.gguf import plan_language_model, write_gguf

        plan = plan_language_model(self.folder, "f32", name="llama")
        place = self.root / "gguf" / "llama.gguf"
        write_gguf(plan.tensors, plan.metadata, os.fspath(place))
        return place

    @cached_property
    def text(self) -> Path:
        """Return what methods are calibrated with."""
        place = self.root / "text.txt"
        place.write_text("the quick brown fox jumps over the lazy dog\n" * 40)
        return place

    def parts(self, form: str, path: Path) -> dict[str, Any]:
        """Return what the libraries load of an output, by component; of a model its own."""
        diffusers, transformers = library("diffusers"), library("transformers")
        if form == "folder":
            return {"": transformers.AutoModelForCausalLM.from_pretrained(path)}
        if form == "file to pipeline":  # has no tokenizers
            return {
                "unet": diffusers.UNet2DConditionModel.from_pretrained(path, subfolder="unet"),
                "text_encoder": transformers.CLIPTextModel.from_pretrained(path / "text_encoder"),
                "vae": diffusers.AutoencoderKL.from_pretrained(path, subfolder="vae"),
            }
        if form == "pipeline":
            return dict(diffusers.StableDiffusionPipeline.from_pretrained(path).components)
        files = [path] if path.is_file() else list(path.glob("*.safetensors"))
        single = diffusers.StableDiffusionPipeline.from_single_file(
            str(files[0]), config=str(self.pipeline), local_files_only=True
        )
        return dict(single.components)

    @cached_property
    def expected(self) -> dict[str, Any]:
        """Return what the sources compute, by component."""
        return computed(self.parts("pipeline", self.pipeline)) | computed(
            self.parts("folder", self.folder)
        )

    def of(self, form: str) -> tuple[Path, Any]:
        """Return the source of a kind, and the layout that is asked for."""
        start, _, end = form.partition(" to ")
        layout = {"": None, "file": "singlefile", "pipeline": "diffusers"}[end]
        return getattr(self, start.removesuffix(" file")), layout

    def plan(self, cell: Cell, out: Path) -> ConversionPlan:
        """Plan a cell of the table."""
        source, layout = self.of(cell.form)
        named = ["text_encoder"] if cell.extent == "text encoders" else None
        return plan_conversion(
            source,
            [cell.token],
            out=out,
            layout=layout,
            components=named,
            calibration=self.text if cell.is_calibrated and cell.extent != "none" else None,
        )

    def converted(self, cell: Cell, out: Path) -> VerificationReport:
        """Make a cell of the table and verify it."""
        return finished(self.plan(cell, out))


def finished(plan: ConversionPlan) -> VerificationReport:
    """Carry a plan out and verify it; every file with new weights has its hash."""
    assert not plan.refusals, plan.refusals
    result = run_conversion(plan)
    [flavor] = plan.flavors
    assert sum(file.size_bytes for file in result.files[flavor.flavor]) >= sum(
        part.size_bytes for part in flavor.components if part.action != "copy"
    )
    return verify_flavor(plan, flavor)


def computed(parts: dict[str, Any]) -> dict[str, Any]:
    """Return what loaded components make of fixed inputs."""
    functions = {"": logits, "unet": denoised, "text_encoder": encoded}
    return {name: functions[name](part) for name, part in parts.items() if name in functions}


def denoised(unet: Any) -> Any:
    """Return what a denoiser makes of fixed noise."""
    torch = library("torch")
    random = torch.Generator().manual_seed(5)
    noise, words = (torch.randn(*shape, generator=random) for shape in ((1, 4, 8, 8), (1, 7, 128)))
    if not getattr(unet, "is_quantized", False):
        unet = unet.to(torch.float32)
    with torch.inference_mode():
        return unet.eval()(noise, 3, words).sample


def encoded(text_encoder: Any) -> Any:
    """Return what a text encoder makes of a few tokens."""
    torch = library("torch")
    with torch.inference_mode():
        made = text_encoder.eval()(torch.tensor([[512, 3, 9, 27, 81, 243, 513]]))
    return made.last_hidden_state.float()


def logits(model: Any) -> Any:
    """Return what a language model expects after a few tokens."""
    torch = library("torch")
    with torch.inference_mode():
        return model.eval()(torch.arange(5, 25)[None]).logits.float()


def snr_db(made: Any, expected: Any) -> float:
    """Return the power of values over that of their error; infinite where there is none."""
    torch = library("torch")
    made, expected = made.double(), expected.double()
    noise = (made - expected).square().sum()
    return float(10 * torch.log10(expected.square().sum() / noise))
