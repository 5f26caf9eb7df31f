"""The steps as data, and the decision between them: facts in, a mode out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import msgspec

if TYPE_CHECKING:
    from gen_worker.models.settings import ModelSettings

__all__ = [
    "LADDER",
    "MODES",
    "OFFLOADED",
    "Facts",
    "Ladder",
    "Mode",
    "Step",
    "auto_mode",
    "disk_directory",
    "preflight_mode",
    "steps_after",
]

Mode = Literal["off", "vae_only", "fp8_layerwise", "model_offload", "group_offload", "sequential"]


class Step(NamedTuple):
    """One step of the ladder."""

    mode: Mode
    offloads: bool
    """Hooks move the pipeline: it gets no `.to()` any more."""
    is_optional: bool = False
    """Changes the outputs, so the operator has to allow it."""


LADDER = (
    Step("off", False),
    Step("vae_only", False),
    Step("fp8_layerwise", False, is_optional=True),
    Step("model_offload", True),
    Step("group_offload", True),
    Step("sequential", True),
)
MODES: tuple[str, ...] = ("auto", *get_args(Mode))
OFFLOADED = frozenset(step.mode for step in LADDER if step.offloads)


class Ladder(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator says of the ladder; sizes in GiB."""

    mode: str = "auto"
    """What `auto` stands for."""
    margin_gb: float = 2.0
    """Free memory that a call needs besides its models."""
    vae_below_gb: float = 10.0
    model_below_gb: float = 8.0
    group_below_gb: float = 6.0
    may_use_disk: bool = True
    disk_below_ram_gb: float = 16.0
    directory: str = "/tmp/cozy-offload"
    may_cast: bool = False
    """Whether `fp8_layerwise` is a step."""

    @classmethod
    def of(cls, settings: ModelSettings) -> Ladder:
        return cls(
            mode=settings.memory_mode,
            margin_gb=settings.activation_margin_gb,
            vae_below_gb=settings.vae_slice_vram_gb,
            model_below_gb=settings.model_offload_vram_gb,
            group_below_gb=settings.group_offload_vram_gb,
            may_use_disk=settings.auto_disk_offload,
            disk_below_ram_gb=settings.disk_offload_ram_gb,
            directory=settings.offload_dir,
            may_cast=settings.fp8_layerwise,
        )


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one pipeline and its GPU, in GiB; 0 is unknown."""

    total_gb: float = 0.0
    free_gb: float = 0.0
    size_gb: float = 0.0
    """All weights."""
    peak_gb: float = 0.0
    """What the author declared that a request takes at its peak."""
    placed_gb: float = 0.0
    """Weights that are on the GPU already."""
    cast_saves_gb: float = 0.0
    """What weights in 8 bits would save; 0: they cannot be."""
    ram_gb: float = 0.0

    @property
    def needed_gb(self) -> float:
        return max(self.size_gb, self.peak_gb)


def auto_mode(facts: Facts, ladder: Ladder) -> Mode:
    """Return the least aggressive mode for a GPU of this size."""
    total, needed = facts.total_gb, facts.needed_gb
    if not total:
        return "off"
    if total < ladder.group_below_gb:
        return "group_offload"
    if needed > total - ladder.margin_gb or (not needed and total < ladder.model_below_gb):
        return "model_offload"
    return "off" if needed and total >= ladder.vae_below_gb else "vae_only"


def preflight_mode(facts: Facts, ladder: Ladder) -> Mode | None:
    """Return the step to take instead of moving the pipeline; None: it is to be moved.

    A mode that the operator forces is taken whatever the sizes say.
    """
    if not facts.total_gb:
        return None
    if ladder.mode != "auto":
        return ladder.mode if ladder.mode in OFFLOADED else None
    room = facts.free_gb - ladder.margin_gb
    missing = facts.needed_gb - facts.placed_gb
    if missing <= room:
        return None
    if ladder.may_cast and facts.cast_saves_gb and missing - facts.cast_saves_gb <= room:
        return "fp8_layerwise"
    return "group_offload" if facts.total_gb < ladder.group_below_gb else "model_offload"


def steps_after(mode: str, *, may_cast: bool = False) -> tuple[Mode, ...]:
    """Return the steps below a mode, the next one first; all for an unknown mode."""
    names = [step.mode for step in LADDER]
    start = names.index(mode) if mode in names else 0
    below = LADDER[start + 1 :]
    return tuple(step.mode for step in below if may_cast or not step.is_optional)


def disk_directory(facts: Facts, ladder: Ladder) -> str | None:
    """Return where a group offload keeps its weights; None: in RAM."""
    is_short = 0 < facts.ram_gb < ladder.disk_below_ram_gb
    return ladder.directory if ladder.may_use_disk and is_short else None
