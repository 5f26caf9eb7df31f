"""Fine-tunes the denoiser of a pipeline on images with captions.

B images, C channels, H and W height and width.
"""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from gen_worker.errors import ValidationError
from gen_worker.models.loading.libraries import library, quiet
from gen_worker.trainer.data.images import ImageFile, image_bytes, tensor_of
from gen_worker.trainer.data.order import seed_of, uniforms
from gen_worker.trainer.errors import InputMaterializationError
from gen_worker.trainer.gradient import GradientTrainer, Loss, options_of
from gen_worker.trainer.gradient.accumulating import precision_of
from gen_worker.trainer.gradient.batches import columns_of
from gen_worker.trainer.recipes.diffusion.encoding import Encoders
from gen_worker.trainer.recipes.diffusion.exporting import attach_lora, export
from gen_worker.trainer.recipes.diffusion.families import Asked, family_of
from gen_worker.trainer.recipes.diffusion.objectives import objective_of
from gen_worker.trainer.recipes.diffusion.options import DiffusionOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gen_worker.trainer.gradient import GradientState
    from gen_worker.trainer.steps import StepContext

__all__ = ["DiffusionTrainer"]

_log = logging.getLogger("gen_worker.trainer")
_EVALUATION = -1
"""An epoch of its own: an evaluation has the same noise each time."""


class DiffusionTrainer(GradientTrainer):
    """Trains pipelines of the classes in `families`, on columns of images and captions."""

    hyperparams_type = DiffusionOptions

    def build(self, ctx: StepContext) -> dict[str, Any]:
        """Load the pipeline, and choose what of it is trained."""
        options = options_of(ctx.job.hyperparams, DiffusionOptions, dtype=ctx.dtype)
        self.options = options
        self.pipeline = pipeline = self.load_pipeline(ctx)
        self.family = family = family_of(pipeline)
        trained = [family.denoiser, *(family.clip_encoders if options.train_text_encoders else ())]
        modules = {name: getattr(pipeline, name) for name in trained}
        self.config = modules[family.denoiser].config
        self.check_sizes()
        self.objective = objective_of(pipeline.scheduler.config, options, is_flow=family.is_flow)
        for part in pipeline.components.values():
            if hasattr(part, "requires_grad_"):
                part.requires_grad_(False).eval()
        for name, module in modules.items():
            if options.method == "full":
                module.requires_grad_(True)
            else:
                targets = family.targets if name == family.denoiser else None
                attach_lora(name, module, targets, options)
        self.encoders = Encoders(pipeline, family, self.base, options, ctx.device)
        self.skipped = 0
        self._counting = threading.Lock()
        return modules

    def load_pipeline(self, ctx: StepContext) -> Any:
        """Return the base model; what is not trained, and can be, in the run's precision.

        Raises:
            ValidationError: The job names no pipeline of diffusers.
        """
        self.base = base = str(ctx.model_handles.get("base_model_dir") or "")
        if not os.path.isfile(os.path.join(base, "model_index.json")):
            raise ValidationError(
                f"the base model {base!r} is no folder of a pipeline of diffusers: set "
                "inputs.base_model_ref in the job spec to one that has a model_index.json",
                path="$.inputs.base_model_ref",
            )
        torch, options = library("torch"), self.options
        is_wide = options.precision == "fp32" or ctx.device.startswith("cpu")
        narrow = torch.bfloat16 if options.precision == "bf16" else torch.float16
        dtypes = {"default": torch.float32 if is_wide else narrow, "vae": torch.float32}
        if options.method == "full":
            dtypes |= dict.fromkeys(("unet", "transformer"), torch.float32)
        with quiet("diffusers", "transformers"):
            pipeline = library("diffusers").DiffusionPipeline.from_pretrained(
                base, dtype=dtypes, local_files_only=True, use_safetensors=True
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def check_sizes(self) -> None:
        """Refuse images whose sides the model cannot have.

        Raises:
            ValidationError: They are no multiples of what it needs.
        """
        images = self.options.images
        multiple = self.pipeline.vae_scale_factor * self.family.patch(self.config)
        names = ("bucket_step",) if images.buckets else ("resolution",)
        wrong = [name for name in names if getattr(images, name) % multiple]
        if wrong:
            raise ValidationError(
                f"images.{wrong[0]} is {getattr(images, wrong[0])}: this model needs a multiple "
                f"of {multiple}",
                path=f"$.hyperparams.images.{wrong[0]}",
            )

    def configure(self, ctx: StepContext) -> GradientState:
        """Return the state, which can also make samples."""
        state = super().configure(ctx)
        state.generate_sample = partial(self.sample, state, ctx)  # type: ignore[attr-defined]
        return state

    # -- batches -----------------------------------------------------------------------------------

    def load_batch(self, raw: Any, epoch: int, ctx: StepContext) -> list[dict[str, Any]] | None:
        """Read and decode the images of a batch, in a thread; None if none is whole."""
        columns, options = columns_of(raw), self.options
        missing = [
            name for name in (options.image_column, options.caption_column) if name not in columns
        ]
        if missing:
            raise ValidationError(
                f"the data has no column {missing[0]!r}: its columns are {tuple(columns)}"
            )
        values = columns[options.image_column]
        indices = columns.get("index") or [None] * len(values)
        rows = []
        for place, value in enumerate(values):
            caption = str(columns[options.caption_column][place] or "")
            try:
                rows.append(self.load_row(value, caption, epoch, indices[place], place))
            except InputMaterializationError as error:
                if options.images.on_error == "fail":
                    raise
                _log.warning("an image is left out: %s", error)
                with self._counting:
                    self.skipped += 1
        return rows or None

    def load_row(
        self, value: Any, caption: str, epoch: int, index: int | None, place: int
    ) -> dict[str, Any]:
        """Return an image, or what is kept of it, and all chances that it is given."""
        options = self.options
        path = value.get("path") if isinstance(value, dict) else value
        name = f"image {path!r}" if isinstance(path, str) else f"row {place} of a batch"
        content = image_bytes(value, f"{name} ({caption[:40]!r})")
        file = ImageFile(content, name, options.images)
        # An image that has no index is told from others by what it is.
        who = index if index is not None else library("blake3").blake3(content).hexdigest()
        key = (options.seed, epoch, who)
        placement = options.images.placement(*file.size, "placement", *key)
        kept_as = self.encoders.image_key(content, placement)
        made = self.encoders.kept_image(kept_as)
        (chance,) = uniforms(1, "caption", *key)
        sizes = (*placement.original[::-1], *placement.crop, *placement.size[::-1])
        return {
            "kept_as": kept_as,
            "made": made,
            "pixels": None if made else tensor_of(file.placed(placement)),
            "caption": "" if chance < options.caption_dropout else caption,
            "sizes": library("torch").tensor(sizes, dtype=library("torch").float32),
            "seed": seed_of("noise", *key),
        }

    def prepare_batch(self, raw: Any, state: Any, ctx: StepContext) -> list[dict[str, Any]]:
        """Encode what is not kept yet, and draw noise; one mapping for each image."""
        is_loaded = isinstance(raw, list)
        rows = raw if is_loaded else self.load_batch(raw, self.epoch_of(state, ctx), ctx)
        return [self.prepared(row) for row in rows or ()]

    def epoch_of(self, state: Any, ctx: StepContext) -> int:
        """Return the epoch of a batch that nobody has loaded ahead."""
        cursor = getattr(ctx.dataset, "cursor", None)
        is_training = callable(cursor) and library("torch").is_grad_enabled()
        return int(cursor().epoch) if cursor and is_training else _EVALUATION

    def prepared(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return what the denoiser is asked about one image."""
        torch = library("torch")
        made = row["made"] or self.encoders.image(row["kept_as"], row["pixels"])
        generator = torch.Generator().manual_seed(row["seed"])
        latents_CHW = self.encoders.latents(made, generator)
        is_fixed = not self.options.train_text_encoders
        return {
            "latents": latents_CHW,
            "noise": torch.randn(latents_CHW.shape, generator=generator),
            "when": self.objective.draw(generator),
            "sizes": row["sizes"],
            "caption": row["caption"],
            "text": self.encoders.text(row["caption"]) if is_fixed else None,
        }

    # -- learning ----------------------------------------------------------------------------------

    def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Loss:
        """Say how far the denoiser is off; images of one size are asked about together."""
        torch = library("torch")
        groups: dict[Any, list[Any]] = {}
        for row in batch:
            groups.setdefault(row["latents"].shape, []).append(row)
        losses = [self.losses(rows, state) for rows in groups.values()]
        metrics = {"skipped_images": float(self.skipped)} if self.skipped else {}
        if not losses:
            return Loss(torch.zeros(()), weight=0.0, metrics=metrics)
        return Loss(torch.cat(losses).mean(), weight=float(len(batch)), metrics=metrics)

    def losses(self, rows: list[dict[str, Any]], state: Any) -> Any:
        """Return the loss of each of several images of one size."""
        torch = library("torch")
        latents_BCHW = torch.stack([row["latents"] for row in rows])
        noise_BCHW = torch.stack([row["noise"] for row in rows])
        when_B = torch.cat([row["when"] for row in rows])
        noised = self.objective.noised(latents_BCHW, noise_BCHW, when_B)
        texts = [row["text"] or self.encoders.read(row["caption"]) for row in rows]
        asked = Asked(
            noisy_BCHW=noised.noisy_BCHW,
            timesteps_B=noised.timesteps_B,
            text={name: torch.stack([one[name] for one in texts]) for name in texts[0]},
            sizes_B6=torch.stack([row["sizes"] for row in rows]),
            guidance=self.options.guidance,
            config=self.config,
        )
        said_BCHW = self.family.predict(state.modules[self.family.denoiser], asked)
        errors_BCHW = (said_BCHW.float() - noised.target_BCHW.float()).square()
        return errors_BCHW.mean(dim=(1, 2, 3)) * noised.weights_B

    # -- what comes of it --------------------------------------------------------------------------

    def export(self, state: Any, directory: Path, ctx: StepContext) -> Mapping[str, Any]:
        """Write what `load_lora_weights` of the pipeline loads, or the components themselves."""
        return export(self.pipeline, self.family, list(state.modules), directory, ctx, self.options)

    def sample(
        self,
        state: Any,
        ctx: StepContext,
        *,
        prompt: str,
        negative_prompt: str = "",
        seed: int | None = None,
    ) -> Any:
        """Return an image of a prompt: the same of the same weights and seed."""
        options, pipeline = self.options, self.pipeline
        guidance = {"guidance_scale": options.sample_guidance} if options.sample_guidance else {}
        negative = {"negative_prompt": negative_prompt} if negative_prompt else {}
        resolution = options.images.resolution
        with state.evaluating(), precision_of(state, ctx), self.encoders.all_here():
            return pipeline(
                prompt,
                height=resolution,
                width=resolution,
                num_inference_steps=options.sample_steps,
                generator=library("torch").Generator("cpu").manual_seed(seed or 0),
                **guidance,
                **negative,
            ).images[0]
