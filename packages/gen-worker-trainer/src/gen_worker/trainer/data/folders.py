"""A folder of images with captions as batches: shuffled, repeated and gone on with exactly.

A batch is a mapping of columns. `image` has paths, `text` captions, `index` the place of each in
the folder's own order, repeats counted; further columns are what `metadata.jsonl` has. Which are in
which batch follows from the files' names, the seed and the epoch alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.trainer.data.cursor import Cursor, Positioned
from gen_worker.trainer.data.order import permuted
from gen_worker.trainer.errors import InputMaterializationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["FolderBatches", "FolderConfig"]

_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
_METADATA = "metadata.jsonl"
_FILE_NAME, _CAPTION = "file_name", "text"


class FolderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the images of a folder become batches."""

    batch_size: int = 32
    epochs: int = 1
    """0 never ends."""
    shuffle: bool = False
    shuffle_seed: int = 0
    drop_last: bool = False
    """Whether an epoch's last batch is left out if it is short."""
    shard_index: int = 0
    shard_count: int = 1
    """Batches are dealt to so many ranks in turn; what would not reach all of them is left out."""
    repeats: dict[str, int] = {}
    """How often the images below a subfolder come in an epoch; once without an entry."""


class _Image(NamedTuple):
    path: str
    text: str
    more: Mapping[str, Any]


class FolderBatches(Positioned):
    """Batches of the images below a folder. One iteration at a time; each begins at the cursor.

    A caption is the text of `metadata.jsonl` beside the image or above it, whose lines have
    `file_name` and `text`; else the content of the file of the same name that ends with `.txt`;
    else empty.
    """

    def __init__(self, folder: str | os.PathLike[str], config: FolderConfig | None = None) -> None:
        """Prepare; the folder is looked at by the first batch.

        Args:
            folder: With subfolders, in order of their names.
            config: How it is fed.
        """
        super().__init__()
        self._folder = os.fspath(folder)
        self._config = config or FolderConfig()
        self._images: list[_Image] | None = None

    def iter_batches(self) -> Iterator[dict[str, list[Any]]]:
        """Yield this rank's batches until the last epoch ends.

        Raises:
            InputMaterializationError: The folder cannot be read, or has no images.
        """
        config, images = self._config, self._opened()
        while not config.epochs or self._cursor.epoch < config.epochs:
            epoch = self._cursor.epoch
            batches = self._batches_of(epoch, len(images))
            last_round = len(batches) - config.shard_count
            if last_round < 0:
                return  # nor would any other epoch have enough
            for number in range(self._cursor.batch, last_round + 1, config.shard_count):
                self._cursor = Cursor(epoch=epoch, batch=number + config.shard_count)
                yield self._columns(batches[number + config.shard_index])
            self._cursor = Cursor(epoch=epoch + 1)

    def _batches_of(self, epoch: int, count: int) -> list[list[int]]:
        config = self._config
        order = list(range(count))
        if config.shuffle:
            order = permuted(count, config.shuffle_seed, epoch)
        size = config.batch_size
        batches = [order[start : start + size] for start in range(0, count, size)]
        if config.drop_last and batches and len(batches[-1]) < size:
            batches.pop()
        return batches

    def _columns(self, indices: Sequence[int]) -> dict[str, list[Any]]:
        images = self._opened()
        chosen = [images[index] for index in indices]
        names = dict.fromkeys(name for one in chosen for name in one.more)
        columns: dict[str, list[Any]] = {
            "image": [os.path.join(self._folder, one.path) for one in chosen],
            _CAPTION: [one.text for one in chosen],
            "index": list(indices),
        }
        return columns | {name: [one.more.get(name) for one in chosen] for name in names}

    # -- the folder --------------------------------------------------------------------------------

    def _opened(self) -> list[_Image]:
        if self._images is None:
            self._images = list(self._found())
            if not self._images:
                raise InputMaterializationError(
                    f"dataset.folder {self._folder!r} has no images: put some there, such as "
                    "cat.png with its caption in cat.txt"
                )
        return self._images

    def _found(self) -> Iterator[_Image]:
        if not os.path.isdir(self._folder):
            raise InputMaterializationError(f"dataset.folder {self._folder!r} is no folder")
        known: dict[str, dict[str, Any]] = {}
        for parent, folders, names in os.walk(self._folder):
            folders.sort()
            below = os.path.relpath(parent, self._folder)
            if _METADATA in names:
                known |= _metadata(parent, below)
            texts = {name for name in names if name.endswith(".txt")}
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() not in _SUFFIXES:
                    continue
                path = os.path.normpath(os.path.join(below, name))
                more = dict(known.get(path, {}))
                text = more.pop(_CAPTION, None)
                if text is None and f"{stem}.txt" in texts:
                    text = _read(os.path.join(parent, f"{stem}.txt")).strip()
                for _ in range(self._repeats(below)):
                    yield _Image(path, str(text or ""), more)

    def _repeats(self, below: str) -> int:
        """Return how often a subfolder's images come: the entry that is nearest above them."""
        parts = [] if below == os.curdir else below.split(os.sep)
        for length in range(len(parts), 0, -1):
            count = self._config.repeats.get("/".join(parts[:length]))
            if count is not None:
                return count
        return 1

    def _identifying(self) -> tuple[Any, ...]:
        config = self._config
        how = (config.batch_size, config.shuffle, config.shuffle and config.shuffle_seed)
        return how, [image.path.replace(os.sep, "/") for image in self._opened()]


def _metadata(parent: str, below: str) -> dict[str, dict[str, Any]]:
    """Return the lines of a `metadata.jsonl` by the paths of their images."""
    path = os.path.join(parent, _METADATA)
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = msgspec.json.decode(line, type=dict[str, Any])
            name = fields.pop(_FILE_NAME)
        except (msgspec.MsgspecError, KeyError) as error:
            raise InputMaterializationError(
                f"line {number} of {path!r} is not a JSON object with {_FILE_NAME!r}: {error}"
            ) from error
        taken = [column for column in ("image", "index") if column in fields]
        if taken or not isinstance(name, str):
            why = f"{taken[0]!r} is given by the folder" if taken else f"{_FILE_NAME!r} is no text"
            raise InputMaterializationError(f"line {number} of {path!r}: {why}")
        found[os.path.normpath(os.path.join(below, name))] = fields
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputMaterializationError(f"{path!r} cannot be read as text: {error}") from error
