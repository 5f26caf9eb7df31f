"""The images of one step side by side: a column for each prompt, so that steps can be compared."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Column", "grid_of"]

_LARGEST_CELL = 512
_GAP = 4
_LABEL_HEIGHT = 16
_INK, _PAPER = "black", "white"


class Column(NamedTuple):
    """What a prompt became."""

    prompt: str
    images: Sequence[bytes]
    """Files, from the top."""


def grid_of(columns: Sequence[Column]) -> bytes | None:
    """Return a PNG of all images; None where there are none, or Pillow is not installed.

    Its layout follows from the prompts and the sizes of the images alone.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        return None
    cells = [[_cell(Image, content) for content in column.images] for column in columns]
    shown = [one for column in cells for one in column if one is not None]
    if not shown:
        return None
    width = max(image.width for image in shown)
    height = max(image.height for image in shown)
    rows = max(len(column) for column in cells)
    size = (len(columns) * (width + _GAP) + _GAP, _LABEL_HEIGHT + rows * (height + _GAP) + _GAP)
    grid = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(grid)
    for number, (column, images) in enumerate(zip(columns, cells, strict=True)):
        left = _GAP + number * (width + _GAP)
        draw.text((left, _GAP), _fitting(draw, column.prompt, width), fill=_INK)
        for row, image in enumerate(images):
            if image is not None:
                grid.paste(image, (left, _LABEL_HEIGHT + _GAP + row * (height + _GAP)))
    buffer = io.BytesIO()
    grid.save(buffer, "PNG")
    return buffer.getvalue()


def _cell(pillow: Any, content: bytes) -> Any:
    """Return an image of a size that fits; None for what Pillow cannot read."""
    try:
        image = pillow.open(io.BytesIO(content)).convert("RGB")
    except Exception:  # the sample itself is written whatever it is
        return None
    image.thumbnail((_LARGEST_CELL, _LARGEST_CELL))
    return image


def _fitting(draw: Any, text: str, width: int) -> str:
    """Return as much of a text as there is room for, in letters that every font has."""
    line = " ".join(text.split()).encode("latin-1", "replace").decode("latin-1")
    while line and draw.textlength(line) > width:
        line = line[:-1]
    return line
