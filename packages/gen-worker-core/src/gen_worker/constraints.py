"""Markers that an author puts on payload fields to bound what a caller may send.

`Annotated[int, Clamp(1, 50)]` pulls a number into its range, `Annotated[ImageAsset,
AssetLimits(max_bytes=…)]` bounds a file. What refuses values instead (`ge`, `le`, `min_length`,
`pattern`, …) is `msgspec.Meta`, checked while decoding.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gen_worker.transforms import Leaf, Transform, compile_transform, run_transform

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.annotations import Metadata

__all__ = ["AssetLimits", "Clamp", "compile_clamps"]

_TRUNCATING = ("truncate", "trunc", "down", "floor")


class Clamp(msgspec.Struct, frozen=True):
    """Pulls a number into `min`..`max` instead of refusing it.

    Applied after decoding, in nested structs, lists and mapping values too; the bounds become
    `minimum` and `maximum` in the JSON schema. None, bools and anything that is no number stay as
    they are; infinities and NaN become `max`. `ValueError` when the range is empty.
    """

    min: float
    max: float
    cast: Literal["", "int", "float"] = ""
    """Type of the result; empty keeps int or float as the caller sent it."""
    round: str = "half_up"
    """With `cast="int"`: `half_up` rounds 0.5 up, `truncate` cuts towards zero."""

    def __post_init__(self) -> None:
        problems = []
        for name in ("min", "max"):
            bound = getattr(self, name)
            if isinstance(bound, bool) or not isinstance(bound, (int, float)) or bound != bound:
                problems.append(f"{name} must be a number, not {bound!r}")
        if not problems and self.min > self.max:
            problems.append(f"min {self.min!r} is above max {self.max!r}")
        if self.cast not in ("", "int", "float"):
            problems.append(f'cast must be "int", "float" or empty, not {self.cast!r}')
        if self.round not in ("half_up", *_TRUNCATING):
            problems.append(f'round must be "half_up" or "truncate", not {self.round!r}')
        if not problems and self.cast == "int":
            if math.isinf(self.min) or math.isinf(self.max):
                problems.append('cast="int" needs finite bounds')
            elif _ceil(self.min) > _floor(self.max):
                problems.append(f"there is no int between {self.min!r} and {self.max!r}")
        if problems:
            raise ValueError("Clamp: " + "; ".join(problems))

    def apply(self, value: Any) -> Any:
        """Return `value` inside the range; the same object when it is there already."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return value
        is_finite = isinstance(value, int) or math.isfinite(value)
        clipped = min(max(value, self.min), self.max) if is_finite else self.max
        if self.cast == "int" or (isinstance(value, int) and self.cast != "float"):
            return self._as_int(clipped)
        return clipped if isinstance(clipped, float) else _as_float(clipped, self.max)

    def _as_int(self, value: float) -> int:
        # Rounding may leave the range again, so the whole bounds inside it come last.
        if isinstance(value, float):
            whole = math.floor(value)
            if self.round != "half_up":
                whole = math.trunc(value)
            elif value - whole >= 0.5:
                whole += 1
            value = whole
        return int(min(max(value, _ceil(self.min)), _floor(self.max)))

    def to_json_schema(self, *, is_int: bool) -> dict[str, float]:
        """Return `minimum` and `maximum`; an infinite bound is no bound."""
        bounds = {
            "minimum": _ceil(self.min) if is_int else self.min,
            "maximum": _floor(self.max) if is_int else self.max,
        }
        return {name: bound for name, bound in bounds.items() if math.isfinite(bound)}


def _as_float(value: float, otherwise: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an int beyond every float counts as not finite
        return float(otherwise)


def _ceil(bound: float) -> float:
    return math.ceil(bound) if math.isfinite(bound) else bound


def _floor(bound: float) -> float:
    return math.floor(bound) if math.isfinite(bound) else bound


class AssetLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a file that a caller sends for this field may be; None leaves it to the host.

    Checked before the handler runs. Sizes of images are in pixels.
    """

    max_bytes: int | None = None
    allowed_mime_types: tuple[str, ...] = ()
    """Such as `("image/png", "image/webp")`; empty allows what the asset's type allows."""
    max_width: int | None = None
    max_height: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be an int above 0, not {value!r}"
            for name in ("max_bytes", "max_width", "max_height", "max_pixels")
            if (value := getattr(self, name)) is not None
            and (isinstance(value, bool) or not isinstance(value, int) or value <= 0)
        ]
        if isinstance(self.allowed_mime_types, str):
            problems.append(f"allowed_mime_types must be a tuple, not {self.allowed_mime_types!r}")
        if problems:
            raise ValueError("AssetLimits: " + "; ".join(problems))
        msgspec.structs.force_setattr(self, "allowed_mime_types", tuple(self.allowed_mime_types))


def compile_clamps(payload_type: Any) -> Callable[[Any], Any] | None:
    """Build the function that clamps decoded payloads of this type.

    It returns its argument when nothing had to change, else a copy that shares the rest, and raises
    `ValidationError` for a payload that is nested too deeply.

    Returns:
        None when the type holds no `Clamp`.

    Raises:
        TypeError: A `Clamp` sits on something that is no number; the message names the field.
    """
    transform = compile_transform(payload_type, Leaf(_clamp_of, Clamp))
    return None if transform is None else partial(run_transform, transform)


def _clamp_of(annotation: Any, metadata: Metadata) -> Transform | None:
    if annotation not in (int, float, Any):
        return None
    clamp = next((item for item in reversed(metadata) if isinstance(item, Clamp)), None)
    if clamp is None:
        return None
    return _transform_of(clamp)


def _transform_of(clamp: Clamp) -> Transform:
    apply, low, high = clamp.apply, clamp.min, clamp.max
    kept = {"int": (int,), "float": (float,)}.get(clamp.cast, (int, float))

    def transform(value: Any, _context: Any) -> Any:
        # Nearly every value is in range already; NaN is not.
        return value if type(value) in kept and low <= value <= high else apply(value)

    return transform
