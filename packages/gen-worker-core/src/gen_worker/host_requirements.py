"""What a host offers, and why it cannot run a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.resources import ResourceRequirements, Resources

__all__ = [
    "Gpu",
    "HostFacts",
    "HostGap",
    "HostGapReason",
    "is_importable",
    "missing_host_requirements",
]


class Gpu(NamedTuple):
    """One GPU of a host."""

    vram_gb: float
    """Total, in GiB."""
    compute_capability: float | None = None
    """Such as 8.9; None when it could not be read."""


class HostFacts(NamedTuple):
    """What a host has to offer."""

    gpus: tuple[Gpu, ...] = ()


HostGapReason = Literal[
    "cuda_unavailable",
    "compute_capability_unmet",
    "insufficient_vram",
    "missing_optional_library",
]


class HostGap(NamedTuple):
    """One reason why a function cannot run on a host."""

    reason: HostGapReason
    detail: str
    axes: Mapping[str, str] = {}
    """What there is and what it would take, by the names that orchestrators know."""


def is_importable(library: str) -> bool:
    """Tell whether a module, or a distribution of that name, is installed; imports nothing.

    Case does not matter: `pil`, `Pillow` and `flash-attn` are all found.
    """
    import importlib.util
    from importlib.metadata import PackageNotFoundError, distribution

    module = library.replace("-", "_").partition(".")[0]
    for spelling in (module, module.lower(), module.upper()):
        try:
            if importlib.util.find_spec(spelling) is not None:
                return True
        except (ImportError, ValueError):
            continue
    try:
        distribution(library)
    except (PackageNotFoundError, ValueError):
        return False
    return True


def missing_host_requirements(
    resources: Resources | ResourceRequirements,
    host: HostFacts,
    *,
    has_library: Callable[[str], bool] = is_importable,
) -> tuple[HostGap, ...]:
    """Return why `host` cannot run the function; empty when it can.

    With several GPUs one that fulfils everything is enough. The first entry is the reason to
    report, the rest is for whoever mends the host.
    """
    gaps = [gap] if (gap := _gpu_gap(resources, host.gpus)) is not None else []
    missing = [name for name in resources.required_libraries if not has_library(name)]
    if missing:
        detail = f"not importable: {', '.join(missing)}"
        axes = {"missing_libraries": ",".join(missing)}
        gaps.append(HostGap("missing_optional_library", detail, axes))
    return tuple(gaps)


def _gpu_gap(resources: Resources | ResourceRequirements, gpus: Sequence[Gpu]) -> HostGap | None:
    if not resources.needs_gpu:
        return None
    if not gpus:
        axes = {"accelerator": "cuda", "gpu_count": "0"}
        return HostGap("cuda_unavailable", "a CUDA GPU is needed, none was found", axes)
    capability = resources.min_compute_capability
    if capability is not None:
        found = [gpu.compute_capability for gpu in gpus]
        gpus = [gpu for gpu in gpus if (gpu.compute_capability or 0.0) >= capability]
        if not gpus:
            best = max((value for value in found if value is not None), default=None)
            shown = "unknown" if best is None else f"{best:.1f}"
            detail = f"compute capability {capability} is needed, the best found is {shown}"
            axes = {
                "required_compute_capability": f"{capability:.1f}",
                "detected_compute_capability": shown,
            }
            return HostGap("compute_capability_unmet", detail, axes)
    vram_gb = resources.min_vram_gb
    largest_gb = max(gpu.vram_gb for gpu in gpus)
    if vram_gb is not None and largest_gb < vram_gb:
        detail = f"{vram_gb:g} GiB of VRAM are needed, the largest fitting GPU has {largest_gb:g}"
        axes = {"required_vram_gb": f"{vram_gb:.3f}", "detected_vram_gb": f"{largest_gb:.3f}"}
        return HostGap("insufficient_vram", detail, axes)
    return None
