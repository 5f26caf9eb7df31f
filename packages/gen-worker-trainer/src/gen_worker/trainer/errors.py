"""How a training job fails; each class says which part of the run it was, so that no text has to.

The bases are those that the older contract promises: `ValueError` for a wrong start, `RuntimeError`
for the rest.
"""

from __future__ import annotations

from typing import Literal

from gen_worker.errors import (
    ArtifactTransferError,
    CanceledError,
    FatalError,
    ResourceError,
    ValidationError,
)

__all__ = [
    "ArtifactUploadError",
    "CancelCause",
    "CheckpointError",
    "CheckpointSpaceError",
    "CheckpointsInUseError",
    "InputMaterializationError",
    "LossError",
    "OtherProcessError",
    "StartupContractError",
    "TrainingCanceled",
]

CancelCause = Literal["canceled", "timeout"]


class StartupContractError(ValidationError):
    """A job cannot be started as it was asked for."""

    def __init__(self, code: str, message: str) -> None:
        """Keep the code for programs.

        Args:
            code: Such as `startup.missing_trainer_import`.
            message: What to change.
        """
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class InputMaterializationError(ArtifactTransferError, RuntimeError):
    """A model, dataset or checkpoint that a job names cannot be had."""


class ArtifactUploadError(ArtifactTransferError, RuntimeError):
    """What a job produced, or how it ended, did not arrive where it belongs."""


class TrainingCanceled(CanceledError, RuntimeError):
    """The run was asked to stop, or took too long."""

    def __init__(self, reason: str = "canceled") -> None:
        """Keep why.

        Args:
            reason: `canceled` or `timeout`; the text of the event.
        """
        super().__init__(reason)
        self.reason = reason


class LossError(FatalError, RuntimeError):
    """A loss is no finite number, and the job is to fail of that."""


class CheckpointError(FatalError, RuntimeError):
    """A checkpoint is not what was written, or is none."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class CheckpointSpaceError(ResourceError, RuntimeError):
    """The disk has no room for the next checkpoint; the last one is as it was."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class CheckpointsInUseError(FatalError, RuntimeError):
    """Another job writes its checkpoints into the same directory."""

    def __init__(self, message: str, *, path: str, pid: int = 0) -> None:
        """Keep who does.

        Args:
            message: What to do.
            path: The directory.
            pid: Of the other process; 0 when it has not said.
        """
        super().__init__(message)
        self.path = path
        self.pid = pid


class OtherProcessError(FatalError, RuntimeError):
    """The run is over because of another of its processes."""

    def __init__(self, message: str, *, rank: int = -1) -> None:
        """Keep which.

        Args:
            message: What it was.
            rank: Of the process; -1 when that is not known.
        """
        super().__init__(message)
        self.rank = rank
