"""Calibration as a part of a conversion: which methods take the data of a request, and the pass."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.calibration import resolve_calibration_action
from gen_worker.conversion.convert.targets import is_cast
from gen_worker.conversion.convert.values import Refusal
from gen_worker.conversion.errors import ConversionInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.convert.targets import Target
    from gen_worker.conversion.convert.values import ConversionRequest
    from gen_worker.conversion.lazy import Checkpoint
    from gen_worker.conversion.quantize.calibration_text import CalibrationData
    from gen_worker.conversion.quantize.checkpoint import QuantizedCheckpoint
    from gen_worker.conversion.quantize.methods import Method

__all__ = ["Calibration", "calibration_of", "described", "takes_data", "unused_data"]


class Calibration(NamedTuple):
    """What one component of an output awaits before it can be written."""

    made: QuantizedCheckpoint
    source: Checkpoint
    data: CalibrationData
    folder: str
    """With its `config.json`."""
    tokenizer: str
    """Folder."""

    @property
    def memory_bytes(self) -> int:
        """What the pass holds at most."""
        from gen_worker.conversion.quantize.calibrating import calibration_memory_bytes

        return calibration_memory_bytes(self.made, self.source)

    @property
    def operations(self) -> float:
        """How many multiplications and additions the pass takes, about."""
        from gen_worker.conversion.quantize.calibrating import calibration_operations

        return calibration_operations(self.made, self.source, self.data)

    @property
    def attributes(self) -> dict[str, str]:
        """What a flavor tells of it."""
        return {"calibration": self.data.digest, "calibration_samples": str(self.data.samples)}

    def run(
        self,
        folder: str,
        *,
        progress: Callable[[int, int], None] | None = None,
        token: CancelToken | None = None,
    ) -> None:
        """Do the pass; see `calibrate_checkpoint`.

        Args:
            folder: Where it keeps what it makes.
            progress: Called with windows that are done and that there are.
            token: Ends the work between two windows.
        """
        from gen_worker.conversion.quantize.calibrating import calibrate_checkpoint, tokenizer_in

        calibrate_checkpoint(
            self.made,
            self.source,
            self.folder,
            self.data,
            folder,
            tokenizer=tokenizer_in(self.tokenizer),
            progress=progress,
            token=token,
        )


def takes_data(request: ConversionRequest, method: Method, token: str) -> bool:
    """Tell whether a method is calibrated with the data of a request.

    Without data a method that merely gains by them does what its name says without them: scales of
    activations are asked for by giving data.

    Raises:
        ConversionInputError: It needs data and there are none, or it cannot take those that are
            given.
    """
    has_data = request.calibration is not None
    if not has_data and method.calibration == "beneficial":
        return False
    try:
        action = resolve_calibration_action(
            method.calibration,
            has_dataset=has_data,
            skip_calibration=request.skip_calibration,
            scheme=token,
        )
    except ValueError as error:
        raise ConversionInputError(str(error), step="calibrate") from error
    return action == "calibrate"


def calibration_of(
    request: ConversionRequest, name: str, source: Checkpoint, made: QuantizedCheckpoint
) -> Calibration:
    """Describe the pass of a component.

    Args:
        request: With data.
        name: Of the component; empty for a model in one folder.
        source: Its weights.
        made: What becomes of them.

    Raises:
        ConversionInputError: Its configuration or its tokenizer is not there.
    """
    assert request.calibration is not None
    folder = os.path.join(request.source, name) if name else request.source
    suffix = name.removeprefix("text_encoder") if name.startswith("text_encoder") else ""
    tokenizer = os.path.join(request.source, f"tokenizer{suffix}") if name else request.source
    for path in (os.path.join(folder, "config.json"), tokenizer):
        if not os.path.exists(path):
            raise ConversionInputError(
                f"{name or request.source!r} cannot be calibrated with text: {path!r} is not "
                "there; give the folder of a language model, or components that are text encoders",
                file=path,
                step="calibrate",
            )
    return Calibration(made, source, request.calibration, folder, tokenizer)


def described(
    data: CalibrationData | str | os.PathLike[str] | None,
) -> CalibrationData | None:
    """Return the data of a request; a path is read for its digest."""
    from gen_worker.conversion.quantize.calibration_text import calibration_data

    return calibration_data(data) if isinstance(data, (str, os.PathLike)) else data


def unused_data(request: ConversionRequest, targets: Sequence[Target]) -> Iterator[Refusal]:
    """Refuse data that none of the targets takes: casts and types of GGUF."""
    quantized = [one for one in targets if not one.is_gguf and not is_cast(one)]
    if request.calibration is not None and targets and not quantized:
        reason = "nothing that is asked for is calibrated with text: leave the data out"
        yield Refusal(target="", reason=reason)
