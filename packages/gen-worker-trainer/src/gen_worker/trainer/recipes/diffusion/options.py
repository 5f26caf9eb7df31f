"""What a job may say about how a pipeline is fine-tuned."""

from __future__ import annotations

from typing import Literal

from gen_worker.trainer.data.images import ImageOptions
from gen_worker.trainer.gradient import GradientOptions

__all__ = ["DiffusionOptions"]


class DiffusionOptions(GradientOptions, frozen=True, kw_only=True):
    """Hyperparameters of `DiffusionTrainer`, besides those of every `GradientTrainer`."""

    method: Literal["lora", "full"] = "lora"
    """Whether small matrices are trained beside the denoiser's, or the denoiser itself."""
    lora_rank: int = 16
    lora_alpha: float = 0.0
    """What the matrices count, times the rank; 0: as much as the rank."""
    lora_targets: tuple[str, ...] = ()
    """Names of the layers that get matrices; empty: those of attention."""
    train_text_encoders: bool = False
    """Whether the encoders of CLIP are trained, too."""
    seed: int = 0
    """Of noise, time steps, crops, dropped captions and the first values of LoRAs."""

    image_column: str = "image"
    caption_column: str = "text"
    images: ImageOptions = ImageOptions()
    caption_dropout: float = 0.0
    """Chance that an image is trained on without its caption; 0.1 is usual with guidance."""
    max_text_tokens: int = 256
    """Of the T5 encoder of SD3 and Flux; those of CLIP have 77."""

    cache: Literal["auto", "on", "off"] = "auto"
    """Whether what frozen encoders make is kept on disk; `auto`: of images only where each is the
    same in every epoch."""
    cache_dir: str = ""
    """Empty: `encoded` beside the job's other directories."""
    offload_encoders: bool = False
    """Whether encoders are on the device only while they are used."""

    min_snr_gamma: float = 0.0
    """Limits how much time steps with little noise count (arXiv:2303.09556); 5 is usual, 0: off."""
    timesteps: Literal["logit_normal", "uniform", "mode"] = "logit_normal"
    """How time steps of flows are drawn (arXiv:2403.03206, section 3.1)."""
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    timestep_shift: float = 0.0
    """More than 1 prefers more noise; 0: as the pipeline's scheduler says."""
    loss_weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    """How much time steps of flows count."""
    guidance: float = 1.0
    """Of models that are told it, as Flux dev is."""

    sample_steps: int = 20
    sample_guidance: float = 0.0
    """0: what the pipeline takes by itself."""

    def __post_init__(self) -> None:
        """Refuse what cannot be; every mistake is named."""
        problems = [
            f"{name} must be at least 1, it is {getattr(self, name)!r}"
            for name in ("lora_rank", "max_text_tokens", "sample_steps")
            if getattr(self, name) < 1
        ]
        names = ("lora_alpha", "min_snr_gamma", "timestep_shift", "logit_std", "sample_guidance")
        problems += [
            f"{name} must not be negative, it is {getattr(self, name)!r}"
            for name in names
            if getattr(self, name) < 0
        ]
        if not 0 <= self.caption_dropout <= 1:
            problems.append(f"caption_dropout must be from 0 to 1, it is {self.caption_dropout!r}")
        if self.train_text_encoders and self.offload_encoders:
            problems.append("train_text_encoders and offload_encoders exclude one another")
        try:
            super().__post_init__()
        except ValueError as error:
            problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def keeps_text(self) -> bool:
        """Whether what encoders make of captions is kept on disk."""
        return self.cache != "off" and not self.train_text_encoders

    @property
    def keeps_latents(self) -> bool:
        """Whether what the autoencoder makes of images is kept on disk."""
        return self.cache == "on" or (self.cache == "auto" and not self.images.is_random)
