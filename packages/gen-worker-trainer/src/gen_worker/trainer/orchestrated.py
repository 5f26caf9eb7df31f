"""What a launcher and a job agree on, by the name that older launchers import it from."""

from __future__ import annotations

import msgspec

from gen_worker.trainer.contracts import TrainerSubprocessContractV1, run_subprocess

__all__ = ["TrainerAuthContext", "TrainerSubprocessContractV1", "run_subprocess"]


class TrainerAuthContext(msgspec.Struct, frozen=True):
    """Who a job writes for."""

    owner: str
    token: str
    scope: str

    def __repr__(self) -> str:
        return f"<TrainerAuthContext of {self.owner!r} for {self.scope!r}>"
