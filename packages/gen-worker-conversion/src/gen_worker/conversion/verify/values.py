"""What a verification finds, as data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.conversion.errors import ConversionError
from gen_worker.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Difference",
    "Limits",
    "TensorReport",
    "VerificationError",
    "VerificationReport",
]

_SHOWN = 20


class VerificationError(ConversionError, FatalError):
    """An output is not what its source says it should be; it must not be published."""

    def __init__(self, file: str, problems: Sequence[str]) -> None:
        """List what is wrong.

        Args:
            file: The output.
            problems: Each a sentence without a full stop.
        """
        self.problems = tuple(problems)
        shown = "; ".join(self.problems[:_SHOWN])
        more = len(self.problems) - _SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        super().__init__(
            f"output {file!r} failed verification: {shown}{rest}: it is not published",
            file=file,
            step="verify",
        )

    def __reduce__(self) -> tuple[type[VerificationError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.file, self.problems)


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How far values are from those they stand for; what is not finite in either is left out."""

    max_abs: float = 0.0
    mean_abs: float = 0.0
    snr_db: float | None = None
    """Power of the values over that of the error; None where there is no error."""

    @classmethod
    def of(
        cls, count: int, largest: float, total: float, signal: float, noise: float
    ) -> Difference:
        """Return what sums over all values amount to.

        Args:
            count: Of values.
            largest: Absolute error.
            total: Of all absolute errors.
            signal: Sum of the squares of the values.
            noise: Sum of the squares of the errors.
        """
        snr = None
        if noise > 0:
            snr = 10 * math.log10(signal / noise) if signal > 0 else -math.inf
        return cls(max_abs=largest, mean_abs=total / max(count, 1), snr_db=_plain(snr))


class TensorReport(Difference, frozen=True, kw_only=True):
    """One tensor of an output beside that of the source."""

    component: str
    name: str
    dtype: str
    """As it is stored, or as it is read back where it is stored as several tensors."""
    source_dtype: str
    nan: int = 0
    inf: int = 0
    source_nan: int = 0
    source_inf: int = 0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What blocks a publication."""

    max_abs: float | None = None
    """Largest error of any value."""
    min_snr_db: float | None = None
    """Of each tensor where the error is not zero."""
    allow_new_nonfinite: bool = False
    """Whether values may become NaN or infinite, as large ones do in fp16."""

    def problems(self, report: TensorReport) -> list[str]:
        """Return what is beyond these limits."""
        where = f"tensor {report.component + '/' if report.component else ''}{report.name}"
        found = []
        if self.max_abs is not None and report.max_abs > self.max_abs:
            found.append(f"{where} is off by {report.max_abs:g}, {self.max_abs:g} is allowed")
        snr_db = math.inf if report.snr_db is None else report.snr_db
        if self.min_snr_db is not None and snr_db < self.min_snr_db:
            found.append(f"{where} has {snr_db:.1f} dB, {self.min_snr_db:g} dB are needed")
        new = report.nan + report.inf - report.source_nan - report.source_inf
        if new > 0 and not self.allow_new_nonfinite:
            found.append(f"{where} has {new} values that are no finite numbers any more")
        return found


class VerificationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an output was found to be."""

    loaded: dict[str, str] = {}
    """Class that each component loads with on the meta device, by component."""
    tensors: tuple[TensorReport, ...] = ()
    quality: Difference | None = None
    """Of the outputs on fixed inputs; None without a quality gate."""

    @property
    def worst(self) -> TensorReport | None:
        """The tensor with the lowest signal-to-noise ratio; None where all are exact."""
        off = [tensor for tensor in self.tensors if tensor.snr_db is not None]
        return min(off, key=lambda tensor: tensor.snr_db or 0.0, default=None)

    @property
    def nonfinite(self) -> int:
        return sum(tensor.nan + tensor.inf for tensor in self.tensors)

    def summary(self) -> dict[str, Any]:
        """Return the figures of all tensors together, for a revision's metadata."""
        worst = self.worst
        return {
            "loaded": self.loaded,
            "tensors": len(self.tensors),
            "exact_tensors": sum(tensor.max_abs == 0 for tensor in self.tensors),
            "max_abs": max((tensor.max_abs for tensor in self.tensors), default=0.0),
            "min_snr_db": worst.snr_db if worst else None,
            "worst_tensor": worst.name if worst else None,
            "nonfinite": self.nonfinite,
            "quality": msgspec.to_builtins(self.quality),
        }


def _plain(value: float | None) -> float | None:
    """Return what JSON has: no infinity."""
    return None if value is None else max(min(value, 999.0), -999.0)
