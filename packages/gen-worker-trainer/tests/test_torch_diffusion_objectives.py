"""What is learned of noise: targets, weights and time steps, against the formulas they are from."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.trainer.data.images import tensor_of

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")
Image: Any = pytest.importorskip("PIL.Image")

from gen_worker.trainer.recipes.diffusion import DiffusionOptions  # noqa: E402
from gen_worker.trainer.recipes.diffusion.objectives import objective_of  # noqa: E402

_LATENTS = torch.linspace(-1, 1, 3 * 4 * 2 * 2).view(3, 4, 2, 2)
_NOISE = _LATENTS.flip(0) * 2


def draws(objective: Any, count: int = 1500) -> Any:
    generator = torch.Generator().manual_seed(0)
    return torch.cat([objective.draw(generator) for _ in range(count)])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noise_is_told_as_the_scheduler_says(kind: str) -> None:
    config = diffusers.DDIMScheduler(prediction_type=kind).config
    objective = objective_of(config, DiffusionOptions(min_snr_gamma=5.0), is_flow=False)
    when = torch.tensor([10, 500, 990])

    noised = objective.noised(_LATENTS, _NOISE, when)

    kept = diffusers.DDPMScheduler.from_config(config).alphas_cumprod[when].view(-1, 1, 1, 1)
    image, noise = kept.sqrt(), (1 - kept).sqrt()
    targets = {
        "epsilon": _NOISE,
        "v_prediction": image * _NOISE - noise * _LATENTS,
        "sample": _LATENTS,
    }
    torch.testing.assert_close(noised.noisy_BCHW, image * _LATENTS + noise * _NOISE)
    torch.testing.assert_close(noised.target_BCHW, targets[kind])
    snr = (kept / (1 - kept)).flatten()
    weights = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones(3)}
    torch.testing.assert_close(noised.weights_B, snr.clamp(max=5.0) / weights[kind])


def test_time_steps_of_noise_are_uniform() -> None:
    config = diffusers.DDPMScheduler().config
    objective = objective_of(config, DiffusionOptions(), is_flow=False)
    when = draws(objective)

    assert (int(when.min()), int(when.max())) <= (9, 999)
    assert float(when.float().mean()) == pytest.approx(499.5, abs=25)
    assert objective.noised(_LATENTS, _NOISE, when[:3]).weights_B.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("scheduler", "options", "median"),
    [
        ({"shift": 3.0}, {}, 0.75),
        ({"shift": 3.0, "use_dynamic_shifting": True}, {}, 0.5),
        ({"shift": 3.0}, {"timestep_shift": 1.0}, 0.5),
        ({"shift": 1.0}, {"timesteps": "uniform"}, 0.5),
        ({"shift": 1.0}, {"logit_mean": 1.0}, 0.731),
    ],
)
def test_flows_go_from_images_to_noise(
    scheduler: dict[str, Any], options: dict[str, Any], median: float
) -> None:
    config = diffusers.FlowMatchEulerDiscreteScheduler(**scheduler).config
    objective = objective_of(config, DiffusionOptions(**options), is_flow=True)
    when = draws(objective)

    assert float(when.median()) == pytest.approx(median, abs=0.03)
    noised = objective.noised(_LATENTS, _NOISE, when[:3])
    part = when[:3].view(-1, 1, 1, 1)
    torch.testing.assert_close(noised.noisy_BCHW, _LATENTS + part * noised.target_BCHW)
    torch.testing.assert_close(noised.target_BCHW, _NOISE - _LATENTS)
    torch.testing.assert_close(noised.timesteps_B, 1000 * when[:3])


def test_pixels_become_numbers_from_minus_one_to_one() -> None:
    image = Image.new("RGB", (3, 2), (0, 255, 51))
    tensor = tensor_of(image)

    assert tensor.shape == (3, 2, 3)
    assert tensor.dtype == torch.float32
    expected = torch.tensor([-1.0, 1.0, -0.6]).view(3, 1, 1).expand(3, 2, 3)
    torch.testing.assert_close(tensor, expected)


def test_options_that_cannot_be_are_all_named() -> None:
    with pytest.raises(ValueError, match=r"lora_rank must .*caption_dropout must .*ema_decay"):
        DiffusionOptions(lora_rank=0, caption_dropout=2.0, ema_decay=-1.0)
    with pytest.raises(ValueError, match="exclude one another"):
        DiffusionOptions(train_text_encoders=True, offload_encoders=True)
