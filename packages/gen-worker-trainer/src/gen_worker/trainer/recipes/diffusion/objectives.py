"""How noise is added to latents, and what a denoiser is to say of it.

Both kinds draw for each image from a generator of its own, so that what is drawn depends on
neither the batch it is in nor what was drawn before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gen_worker.models.loading.libraries import library

if TYPE_CHECKING:
    from gen_worker.trainer.recipes.diffusion.options import DiffusionOptions

__all__ = ["Flow", "NoisePrediction", "Noised", "Objective", "objective_of"]


class Noised(NamedTuple):
    """A batch of latents with noise, and what is to be said of it."""

    noisy_BCHW: Any
    timesteps_B: Any
    target_BCHW: Any
    weights_B: Any


class Objective(Protocol):
    """What is learned."""

    def draw(self, generator: Any) -> Any:
        """Return when an image is looked at, as a tensor of one element."""
        ...

    def noised(self, latents_BCHW: Any, noise_BCHW: Any, when_B: Any) -> Noised: ...


class NoisePrediction:
    """To tell the noise, its velocity or the image, as the pipeline's scheduler says."""

    def __init__(self, scheduler_config: Any, options: DiffusionOptions) -> None:
        self._scheduler = library("diffusers").DDPMScheduler.from_config(scheduler_config)
        self._kind = self._scheduler.config.prediction_type
        self._gamma = options.min_snr_gamma

    def draw(self, generator: Any) -> Any:
        count = self._scheduler.config.num_train_timesteps
        return library("torch").randint(0, count, (1,), generator=generator)

    def noised(self, latents_BCHW: Any, noise_BCHW: Any, when_B: Any) -> Noised:
        scheduler = self._scheduler
        noisy_BCHW = scheduler.add_noise(latents_BCHW, noise_BCHW, when_B)
        target_BCHW = noise_BCHW
        if self._kind == "v_prediction":
            target_BCHW = scheduler.get_velocity(latents_BCHW, noise_BCHW, when_B)
        elif self._kind == "sample":
            target_BCHW = latents_BCHW
        return Noised(noisy_BCHW, when_B, target_BCHW, self._weights(when_B))

    def _weights(self, when_B: Any) -> Any:
        """Return min-SNR weights (arXiv:2303.09556, section 3.4): those of the image, converted."""
        torch = library("torch")
        if not self._gamma:
            return torch.ones(len(when_B), device=when_B.device)
        snr_B = library("diffusers.training_utils").compute_snr(self._scheduler, when_B)
        limited_B = snr_B.clamp(max=self._gamma)
        if self._kind == "sample":
            return limited_B
        # Pure noise has no signal at all, and there the limit is of the same kind.
        return limited_B / (snr_B + 1 if self._kind == "v_prediction" else snr_B.clamp(min=1e-8))


class Flow:
    """To tell the way from an image to noise, along a straight line (rectified flow)."""

    def __init__(self, scheduler_config: Any, options: DiffusionOptions) -> None:
        config = scheduler_config
        is_fixed = not config.get("use_dynamic_shifting", False)
        self._shift = options.timestep_shift or (config.get("shift", 1.0) if is_fixed else 1.0)
        self._count = config.get("num_train_timesteps", 1000)
        self._options = options

    def draw(self, generator: Any) -> Any:
        options, training = self._options, library("diffusers.training_utils")
        part = training.compute_density_for_timestep_sampling(
            weighting_scheme=options.timesteps,
            batch_size=1,
            logit_mean=options.logit_mean,
            logit_std=options.logit_std,
            mode_scale=options.mode_scale,
            generator=generator,
        )
        return self._shift * part / (1 + (self._shift - 1) * part)

    def noised(self, latents_BCHW: Any, noise_BCHW: Any, when_B: Any) -> Noised:
        sigma = when_B.view(-1, 1, 1, 1)
        noisy_BCHW = (1 - sigma) * latents_BCHW + sigma * noise_BCHW
        weights_B = library("diffusers.training_utils").compute_loss_weighting_for_sd3(
            self._options.loss_weighting, when_B
        )
        return Noised(noisy_BCHW, when_B * self._count, noise_BCHW - latents_BCHW, weights_B)


def objective_of(scheduler_config: Any, options: DiffusionOptions, *, is_flow: bool) -> Objective:
    """Return what a pipeline with such a scheduler learns."""
    kind = Flow if is_flow else NoisePrediction
    return kind(scheduler_config, options)
