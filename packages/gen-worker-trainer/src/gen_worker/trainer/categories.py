"""What a failure is put down to, and what of it is told. Decided by types, never by words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gen_worker.errors import AuthError
from gen_worker.trainer.errors import (
    ArtifactUploadError,
    InputMaterializationError,
    OtherProcessError,
    StartupContractError,
    TrainingCanceled,
)

if TYPE_CHECKING:
    from gen_worker.trainer.loop import LoopPhase

__all__ = ["Category", "Phase", "category_of", "told"]

Phase = Literal["startup", "input", "model-load", "train-step", "upload"]
Category = Literal["startup", "input", "auth", "upload", "model-load", "train-step"]


def category_of(error: BaseException, phase: Phase | LoopPhase) -> Category:
    """Return what an error that was raised in a phase is put down to."""
    if isinstance(error, StartupContractError):
        return "startup"
    if isinstance(error, InputMaterializationError):
        return "input"
    if isinstance(error, AuthError):
        return "auth"
    if isinstance(error, ArtifactUploadError):
        return "upload"
    if isinstance(error, OtherProcessError) and phase == "input":
        return "train-step"  # where this process happened to wait says nothing
    return phase


def told(error: BaseException, category: Category) -> str:
    """Return what the event and the terminal callback say of an error."""
    if isinstance(error, TrainingCanceled):
        return error.reason
    if isinstance(error, InputMaterializationError):
        return "failed to materialize training inputs"
    text = str(error) or type(error).__name__
    return {
        "auth": "authorization failed",
        "upload": "failed to upload training artifacts",
        "model-load": "failed to initialize trainer model/backend",
    }.get(category, text)
