"""Whose fault it is when a model does not load: decided by types and facts, never by words."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from gen_worker.errors import (
    ArtifactTransferError,
    CanceledError,
    RefCompatibilitySurprise,
    ValidationError,
    WorkerError,
    is_out_of_memory,
)
from gen_worker.models.loading.errors import (
    ComponentLoadError,
    MissingPackageError,
    ModelLoadError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.models.loading.values import LoadPlan

__all__ = ["as_surprise", "reported"]


@contextlib.contextmanager
def reported(plan: LoadPlan) -> Iterator[None]:
    """Turn what the libraries raise while a plan is carried out into our errors."""
    try:
        yield
    except Exception as error:
        translated = _translated(error, plan.ref)
        if translated is None:
            raise
        final = as_surprise(translated, plan.ref) if plan.is_callers else translated
        if final is error:
            raise
        raise final from error


def as_surprise(error: Exception, ref: str) -> Exception:
    """Return the error of a model that the caller chose: a surprise when the model is at fault.

    Damaged files, full disks, missing packages and memory are not the model's fault.
    """
    if not isinstance(error, ModelLoadError) or error.fits:
        return error
    return RefCompatibilitySurprise(
        f"the model {ref!r} does not fit this function: {error}", ref=ref, axis=error.axis
    )


def _translated(error: Exception, ref: str) -> Exception | None:
    """Return our error for a library's; None when it is no statement about the model."""
    if isinstance(error, ModelLoadError):
        return error
    if isinstance(error, (WorkerError, CanceledError, ArtifactTransferError, ValidationError)):
        return None
    if isinstance(error, MemoryError) or is_out_of_memory(error):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return None  # of the disk; the libraries raise theirs without a number
    if isinstance(error, ImportError):
        package = error.name or ""
        return MissingPackageError(
            f"loading model {ref!r} needs a package that is not installed ({error}): install "
            f"{package or 'it'!r}",
            package=package,
            ref=ref,
        )
    return ComponentLoadError(
        f"model {ref!r} could not be loaded, {type(error).__name__}: {_first_line(error)}",
        component="",
        ref=ref,
    )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
