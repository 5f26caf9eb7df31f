"""What hardware a function needs. Whether a host has it: `gen_worker.host_requirements`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ResourceRequirements", "Resources"]

Accelerator = Literal["cuda", "none"]
VramFit = Literal["full_model", "largest_component"]

_ACCELERATOR_SPELLINGS = {"gpu": "cuda", "cpu": "none"}
_OLDER_CAPABILITY_NAMES = ("cuda_compute_min", "compute_capability_min")


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What a function needs from the machine it runs on.

    All mistakes of one declaration are reported in one `ValueError`.
    """

    if TYPE_CHECKING:  # the types an author may write; the fields below hold what they become

        def __init__(
            self,
            *,
            accelerator: str | None = None,
            requires_gpu: bool | None = None,
            min_vram_gb: float | None = None,
            min_compute_capability: float | str | None = None,
            required_libraries: Iterable[str] = (),
            vram_must_fit: str | None = None,
            vram_base: int = 0,
            vram_size_multiplier: float = 0.0,
            vram_scales_with: Iterable[str] = (),
            runtime_scales_with: Iterable[str] = (),
            peak_vram_per_request_gb: float | None = None,
            cuda_compute_min: float | str | None = None,
            compute_capability_min: float | str | None = None,
        ) -> None: ...

    accelerator: Accelerator | None = None
    """`cuda` implies `requires_gpu`, and the other way round."""
    requires_gpu: bool | None = None
    min_vram_gb: float | None = None
    """GiB of total VRAM a GPU must have; smaller ones never get the function."""
    min_compute_capability: float | None = None
    """CUDA compute capability, such as 8.0; a numeric string is accepted."""
    required_libraries: tuple[str, ...] = ()
    """Modules that must be importable on the worker."""
    vram_must_fit: VramFit | None = None
    """Which size of the model `vram_size_multiplier` multiplies."""
    vram_base: int = 0
    """Bytes needed whatever the model."""
    vram_size_multiplier: float = 0.0
    vram_scales_with: tuple[str, ...] = ()
    """Payload fields (dotted and indexed paths too) that need more VRAM when they grow."""
    runtime_scales_with: tuple[str, ...] = ()
    """Payload fields that need more time when they grow."""
    peak_vram_per_request_gb: float | None = None
    cuda_compute_min: float | None = None
    """Older spelling of `min_compute_capability`; None afterwards."""
    compute_capability_min: float | None = None
    """Oldest spelling of `min_compute_capability`; None afterwards."""

    def __post_init__(self) -> None:
        checks = _Checks(self)
        checks.fill_in(_DEFAULTS)
        checks.accelerator()
        checks.flag("requires_gpu")
        checks.capability()
        for name in ("min_vram_gb", "peak_vram_per_request_gb"):
            checks.number(name)
        checks.number("vram_size_multiplier", may_be_zero=True)
        checks.whole_bytes("vram_base")
        checks.choice("vram_must_fit", ("full_model", "largest_component"))
        for name in ("required_libraries", "vram_scales_with", "runtime_scales_with"):
            checks.names(name)
        checks.finish("Resources")

    @property
    def compute_capability(self) -> dict[str, str] | None:
        """The minimum as the lock writes it, `{"min": "8.0"}`."""
        return _capability_table(self.min_compute_capability)

    @property
    def needs_gpu(self) -> bool:
        """Whether calls take a GPU slot and hosts without a GPU are refused."""
        return _needs_gpu(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as plain JSON values."""
        table = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in msgspec.structs.asdict(self).items()
            if value != _DEFAULTS[name]
        }
        if self.compute_capability is not None:
            table["compute_capability"] = self.compute_capability
        return table


_DEFAULTS = dict(zip(Resources.__struct_fields__, Resources.__struct_defaults__, strict=True))


class ResourceRequirements(msgspec.Struct, frozen=True, kw_only=True):
    """The resources of a `worker_function`; newer endpoints use `Resources`."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            batch_size_min: int | None = None,
            batch_size_target: int | None = None,
            batch_size_max: int | None = None,
            prefetch_depth: int | None = None,
            max_wait_ms: int | None = None,
            memory_hint_mb: int | None = None,
            kind: str | None = None,
            compute_capability_min: float | str | None = None,
            requires_gpu: bool | None = None,
            min_vram_gb: float | None = None,
            vram_multiplier: float | None = None,
            supported_conversion_profiles: Iterable[str] | None = None,
            supported_precisions: Iterable[str] | None = None,
            runtime_hints: Mapping[str, Any] | None = None,
        ) -> None: ...

    batch_size_min: int | None = None
    batch_size_target: int | None = None
    batch_size_max: int | None = None
    prefetch_depth: int | None = None
    max_wait_ms: int | None = None
    """Milliseconds a batch may wait for more items."""
    memory_hint_mb: int | None = None
    kind: str | None = None
    compute_capability_min: float | None = None
    """CUDA compute capability, such as 8.0; a numeric string is accepted."""
    requires_gpu: bool | None = None
    min_vram_gb: float | None = None
    """GiB of total VRAM a GPU must have."""
    vram_multiplier: float | None = None
    supported_conversion_profiles: tuple[str, ...] | None = None
    supported_precisions: tuple[str, ...] | None = None
    runtime_hints: Mapping[str, Any] | None = None
    """More keys for the serialised form; they never replace one of the fields above."""

    def __post_init__(self) -> None:
        checks = _Checks(self)
        for name in ("compute_capability_min", "min_vram_gb", "vram_multiplier"):
            checks.number(name, may_be_text=name == "compute_capability_min")
        for name in ("supported_conversion_profiles", "supported_precisions"):
            checks.names(name)
        for name in self.__struct_fields__[:6]:
            checks.count(name)
        checks.flag("requires_gpu")
        checks.finish("ResourceRequirements")

    @property
    def min_compute_capability(self) -> float | None:
        return self.compute_capability_min

    @property
    def required_libraries(self) -> tuple[str, ...]:
        return ()

    @property
    def accelerator(self) -> Accelerator | None:
        return "cuda" if self.requires_gpu else None

    @property
    def needs_gpu(self) -> bool:
        """Whether calls take a GPU slot and hosts without a GPU are refused."""
        return _needs_gpu(self)

    def to_dict(self) -> dict[str, Any]:
        """Return what was set, as plain JSON values."""
        table = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in msgspec.structs.asdict(self).items()
            if value is not None and name not in ("runtime_hints", "compute_capability_min")
        }
        capability = _capability_table(self.compute_capability_min)
        if capability is not None:
            table["compute_capability"] = capability
        return {**(self.runtime_hints or {}), **table}


def _needs_gpu(resources: Resources | ResourceRequirements) -> bool:
    return (
        bool(resources.requires_gpu)
        or resources.accelerator == "cuda"
        or resources.min_compute_capability is not None
        or resources.min_vram_gb is not None
    )


def _capability_table(minimum: float | None) -> dict[str, str] | None:
    return None if minimum is None else {"min": str(minimum)}


class _Checks:
    """Normalises the fields of one record in place and collects what is wrong with them."""

    def __init__(self, record: msgspec.Struct) -> None:
        self._record = record
        self._problems: list[str] = []

    def _get(self, name: str) -> Any:
        return getattr(self._record, name)

    def _set(self, name: str, value: object) -> None:
        msgspec.structs.force_setattr(self._record, name, value)

    def _wrong(self, name: str, expected: str) -> None:
        self._problems.append(f"{name} must be {expected}, not {self._get(name)!r}")

    def fill_in(self, defaults: Mapping[str, Any]) -> None:
        """Take None for "not given" wherever it is given."""
        for name, default in defaults.items():
            if self._get(name) is None:
                self._set(name, default)

    def accelerator(self) -> None:
        given = self._get("accelerator")
        value = given.strip().lower() or None if isinstance(given, str) else given
        if value in _ACCELERATOR_SPELLINGS:
            self._problems.append(
                f"accelerator {given!r} is spelled {_ACCELERATOR_SPELLINGS[value]!r} here"
            )
        elif value not in ("cuda", "none", None):
            self._wrong("accelerator", '"cuda", "none" or None')
        self._set("accelerator", value)
        if value == "none":
            self._refuse_gpu_fields()
        elif value == "cuda" and self._get("requires_gpu") is None:
            self._set("requires_gpu", True)
        elif value is None and self._get("requires_gpu") is True:
            self._set("accelerator", "cuda")

    def _refuse_gpu_fields(self) -> None:
        names = ("min_vram_gb", "min_compute_capability", *_OLDER_CAPABILITY_NAMES)
        offenders = [name for name in names if self._get(name) is not None]
        if self._get("requires_gpu") is True:
            offenders.insert(0, "requires_gpu")
        if offenders:
            self._problems.append(
                f'accelerator="none" contradicts {", ".join(offenders)}: '
                'drop them, or write accelerator="cuda"'
            )

    def capability(self) -> None:
        """Fold the older spellings into `min_compute_capability`."""
        names = ("min_compute_capability", *_OLDER_CAPABILITY_NAMES)
        for name in names:
            self.number(name, may_be_text=True)
        given = {name: self._get(name) for name in names if self._get(name) is not None}
        if len(set(given.values())) > 1:
            shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
            self._problems.append(f"{shown} mean the same and differ: keep one")
        elif given:
            self._set("min_compute_capability", next(iter(given.values())))
        for name in _OLDER_CAPABILITY_NAMES:
            self._set(name, None)

    def number(self, name: str, *, may_be_zero: bool = False, may_be_text: bool = False) -> None:
        given = self._get(name)
        if given is None:
            return
        value = _as_number(given, may_be_text=may_be_text)
        if value is None or value < 0 or (value == 0 and not may_be_zero):
            self._wrong(name, "a number of at least 0" if may_be_zero else "a number above 0")
        else:
            self._set(name, value)

    def count(self, name: str) -> None:
        value = self._get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            self._wrong(name, "an int")

    def whole_bytes(self, name: str) -> None:
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self._wrong(name, "a whole number of bytes, at least 0")

    def flag(self, name: str) -> None:
        value = self._get(name)
        if value is not None and not isinstance(value, bool):
            self._wrong(name, "True, False or None")

    def choice(self, name: str, allowed: Sequence[str]) -> None:
        given = self._get(name)
        value = given or None
        if value is not None and value not in allowed:
            self._wrong(name, " or ".join(repr(item) for item in allowed))
        self._set(name, value)

    def names(self, name: str) -> None:
        given = self._get(name)
        if given is None:
            return
        is_collection = isinstance(given, Iterable) and not isinstance(given, str)
        items = tuple(given) if is_collection else (given,)
        if not is_collection or not all(isinstance(item, str) for item in items):
            self._wrong(name, "a tuple of strings")
            return
        self._set(name, tuple(item.strip() for item in items if item.strip()))

    def finish(self, owner: str) -> None:
        if self._problems:
            raise ValueError(f"{owner}: " + "; ".join(self._problems))


def _as_number(value: object, *, may_be_text: bool) -> float | None:
    if isinstance(value, bool):
        return None
    if not isinstance(value, (int, float)) and not (may_be_text and isinstance(value, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
