"""What images and captions are made into by the encoders of a pipeline, kept on disk by content.

Each image and each caption is encoded alone: what becomes of it, to the last bit, depends neither
on the batch it is in nor on whether it was kept.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from gen_worker.models.loading.libraries import library
from gen_worker.settings import load
from gen_worker.trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.trainer.recipes.diffusion.families import Family
    from gen_worker.trainer.recipes.diffusion.options import DiffusionOptions

__all__ = ["EncodedCache", "Encoders", "fingerprint"]

_SLICES, _SLICE_BYTES = 64, 1 << 20


class EncodedCache:
    """Tensors by key, each in a file. Several runs may share a directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what is kept; None when there is nothing, or it is damaged."""
        try:
            found: dict[str, Any] = library("safetensors.torch").load_file(self._path(key))
        except Exception:  # whatever is wrong with it, it is made again
            return None
        return found

    def put(self, key: str, tensors: dict[str, Any]) -> None:
        """Keep tensors. A full disk only means that they are made again."""
        path = self._path(key)
        content = library("safetensors.torch").save(
            {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
        )
        with suppress(OSError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            handle, draft = tempfile.mkstemp(dir=os.path.dirname(path))
            try:
                with open(handle, "wb") as file:
                    file.write(content)
                os.replace(draft, path)
            except OSError:
                os.unlink(draft)
                raise

    def _path(self, key: str) -> str:
        return os.path.join(self._directory, key[:2], f"{key}.safetensors")


class Encoders:
    """The autoencoder and the text encoders of a pipeline, with what they have made before."""

    def __init__(
        self, pipeline: Any, family: Family, base: str, options: DiffusionOptions, device: str
    ) -> None:
        """Prepare.

        Args:
            pipeline: Loaded; its encoders are moved to the device, at once or when they are used.
            family: Of the pipeline.
            base: Its folder, of which the encoders' files tell them from others.
            options: Of the run.
            device: Where to encode.
        """
        self._pipeline = pipeline
        self._family = family
        self._options = options
        self._device = device
        names = [name for name in pipeline.components if name.startswith("text_encoder")]
        self._texts = [one for name in names if (one := getattr(pipeline, name)) is not None]
        kind = f"{options.precision} {pipeline.vae.dtype}"
        self._vae_key = f"{kind} {fingerprint(os.path.join(base, 'vae'))}"
        prints = [fingerprint(os.path.join(base, name)) for name in names]
        self._text_key = f"{kind} {options.max_text_tokens} {' '.join(prints)}"
        self._cache = EncodedCache(options.cache_dir or _usual_directory())
        if not options.offload_encoders:
            for module in (pipeline.vae, *self._texts):
                module.to(device)

    # -- images ------------------------------------------------------------------------------------

    def image_key(self, content: bytes, placement: Any) -> str:
        """Return what tells what is seen of an image from everything else."""
        name = f"image {self._vae_key} {placement!r} "
        return blake3(name.encode()).update(content).hexdigest()

    def kept_image(self, key: str) -> dict[str, Any] | None:
        """Return what is kept of an image; from whichever thread."""
        return self._cache.get(key) if self._options.keeps_latents else None

    def image(self, key: str, pixels_CHW: Any) -> dict[str, Any]:
        """Return mean and deviation of an image's latents, on the processor."""
        torch, vae = library("torch"), self._pipeline.vae
        with self._here(vae), torch.no_grad():
            pixels_BCHW = pixels_CHW[None].to(self._device, vae.dtype)
            spread = vae.encode(pixels_BCHW).latent_dist
            made = {"mean": spread.mean[0].float().cpu(), "std": spread.std[0].float().cpu()}
        if self._options.keeps_latents:
            self._cache.put(key, made)
        return made

    def latents(self, made: dict[str, Any], generator: Any) -> Any:
        """Draw latents of an image, in the range that the denoiser knows."""
        torch, config = library("torch"), self._pipeline.vae.config
        drawn_CHW = torch.randn(made["mean"].shape, generator=generator)
        latents_CHW = made["mean"] + made["std"] * drawn_CHW
        if getattr(config, "latents_mean", None) and getattr(config, "latents_std", None):
            mean = torch.tensor(config.latents_mean).view(-1, 1, 1)
            return (
                (latents_CHW - mean)
                * config.scaling_factor
                / (torch.tensor(config.latents_std).view(-1, 1, 1))
            )
        shift = getattr(config, "shift_factor", None) or 0.0
        return (latents_CHW - shift) * config.scaling_factor

    # -- captions ----------------------------------------------------------------------------------

    def text(self, caption: str) -> dict[str, Any]:
        """Return what the text encoders make of a caption, on the processor."""
        name = f"text {self._text_key} {caption}"
        key = blake3(name.encode()).hexdigest()
        made = self._cache.get(key) if self._options.keeps_text else None
        if made is None:
            with self._here(*self._texts), library("torch").no_grad():
                made = {name: one.cpu() for name, one in self.read(caption).items()}
            if self._options.keeps_text:
                self._cache.put(key, made)
        return made

    def read(self, caption: str) -> dict[str, Any]:
        """Have the text encoders read a caption, on the device."""
        tokens = self._options.max_text_tokens
        return self._family.read(self._pipeline, caption, self._device, tokens)

    def all_here(self) -> AbstractContextManager[None]:
        """Have all encoders on the device within."""
        return self._here(self._pipeline.vae, *self._texts)

    @contextmanager
    def _here(self, *modules: Any) -> Iterator[None]:
        """Have modules on the device within."""
        if not self._options.offload_encoders:
            yield
            return
        for module in modules:
            module.to(self._device)
        try:
            yield
        finally:
            for module in modules:
                module.to("cpu")


def _usual_directory() -> str:
    """Return where encoded images and captions are kept, beside what else a job writes."""
    return os.path.join(load(TrainerSettings).artifacts_dir, "encoded")


def fingerprint(directory: str) -> str:
    """Return what tells a component's files from others, without reading all of large ones."""
    digest = blake3()
    for parent, folders, names in os.walk(directory):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            size = os.path.getsize(path)
            digest.update(f"{os.path.relpath(path, directory)} {size} ".encode())
            with open(path, "rb") as file:
                for index in range(_SLICES):
                    file.seek(max(0, size - _SLICE_BYTES) * index // (_SLICES - 1))
                    digest.update(file.read(_SLICE_BYTES))
                    if size <= _SLICE_BYTES:
                        break
    return digest.hexdigest()
