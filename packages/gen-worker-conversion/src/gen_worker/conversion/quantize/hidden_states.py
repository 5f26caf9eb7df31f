"""Hidden states of all windows between two blocks, in a file: memory holds those of one window.

Legend: T tokens of a window, D features.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.lazy.stored import WeightsFile, bytes_of
from gen_worker.conversion.writer.output_file import OutputFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["HiddenStates"]


class HiddenStates:
    """Float32 `(1, T, D)` by window; there as a whole or not at all."""

    def __init__(self, path: str, shape: tuple[int, int]) -> None:
        """Name it.

        Args:
            path: Of the file.
            shape: T and D.
        """
        self.path = path
        self.shape = shape

    @property
    def is_there(self) -> bool:
        return os.path.exists(self.path)

    def write(self, values: Iterable[Any]) -> None:
        """Write the values of all windows.

        Raises:
            OutputSpaceError: The disk is full.
        """
        with OutputFile(self.path) as file:
            for value in values:
                made = value.detach().float().contiguous()
                file.write(bytes_of(made))
            file.finish()

    def __iter__(self) -> Iterator[Any]:
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        file = WeightsFile.at(self.path)
        size = 4 * self.shape[0] * self.shape[1]
        for start in range(0, file.size_bytes, size):
            yield file.read(start, size).view(torch.float32).view(1, *self.shape)

    def remove(self) -> None:
        if self.is_there:
            os.unlink(self.path)
