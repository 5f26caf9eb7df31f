"""Which final checkpoint is where it belongs: a run may be killed between making and sending it."""

from __future__ import annotations

import os

import msgspec

from gen_worker.trainer.checkpoints.files import write_file
from gen_worker.trainer.checkpoints.store import read_checkpoint

__all__ = ["is_sent", "note_sent"]

_NAME = "sent.json"


class _Sent(msgspec.Struct, frozen=True):
    """Which one it is: a run that is made longer has another."""

    step: int
    created_at: float


def note_sent(folder: str, final_json: str) -> None:
    """Write down that a final checkpoint is sent, and its end told.

    Args:
        folder: Of the job; outlives the process.
        final_json: Path of the checkpoint's JSON.
    """
    os.makedirs(folder, exist_ok=True)
    write_file(os.path.join(folder, _NAME), msgspec.json.encode(_of(final_json)))


def is_sent(folder: str, final_json: str) -> bool:
    """Tell whether that was written down of this very checkpoint."""
    try:
        with open(os.path.join(folder, _NAME), "rb") as file:
            known = msgspec.json.decode(file.read(), type=_Sent)
    except (FileNotFoundError, msgspec.MsgspecError):
        return False
    return known == _of(final_json)


def _of(final_json: str) -> _Sent:
    checkpoint = read_checkpoint(final_json).checkpoint
    return _Sent(checkpoint.step, checkpoint.created_at)
