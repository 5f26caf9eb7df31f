"""How a handler stores files: whole, as an image, as a checkpoint, or piece by piece.

Every blocking `save_…` has an awaitable twin named `asave_…` for `async` handlers.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast

from gen_worker.cancel import shield
from gen_worker.context.call import CallContext
from gen_worker.errors import OutputTooLargeError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from pathlib import Path
    from typing import Unpack

    from PIL.Image import Image

    from gen_worker.context.local import OutputFiles
    from gen_worker.context.stream import OutputWriter
    from gen_worker.ports import SaveOptions
    from gen_worker.types import Asset, Tensors

__all__ = [
    "MAX_INLINE_BYTES",
    "MAX_OUTPUT_BYTES",
    "CheckpointFields",
    "OutputContext",
    "check_size",
    "file_size",
]

T = TypeVar("T")
Data = bytes | bytearray | memoryview

MAX_OUTPUT_BYTES = 20 * 1024**3
"""Limit of one output file, whatever the host."""

MAX_INLINE_BYTES = 3 * 1024 * 1024
"""Most bytes of one call's outputs that travel in the answer itself when the caller asked for that:
as base64 they just fit into a message of 4 MiB, which is what peers take unless told otherwise."""


class CheckpointFields(TypedDict, total=False):
    """What may be said about a checkpoint besides its bytes."""

    produced_by_kind: str | None
    step_number: int | None
    epoch_number: int | None
    output_kind: str | None
    target_dtype: str | None
    flavor: str | None
    attributes: Mapping[str, Any] | None


class OutputContext(CallContext):
    """The part of `RequestContext` that stores files."""

    __slots__ = ()

    def item_output_ref(self, filename: str) -> str:
        """Return the ref of a file that belongs to this call's item of a divided request."""
        from gen_worker.context.refs import item_key

        return self._ref(f"items/{item_key(self.item_id, self.item_index)}/{filename}")

    # Whole files

    def save_bytes(self, ref: str, data: Data) -> Asset:
        """Store bytes under `ref`, replacing what is there.

        Args:
            ref: A name below the call's outputs, such as `report.json` or `frames/0001.png`.
            data: At most 20 GiB.

        Raises:
            ValueError: `ref` is empty, a URL or leads out of the outputs.
            TypeError: `data` is not bytes.
            OutputTooLargeError: `data` is too long.
        """
        return self._block(self.asave_bytes(ref, data))

    async def asave_bytes(self, ref: str, data: Data, *, create: bool = False) -> Asset:
        """Await `save_bytes`, or `save_bytes_create` with `create`."""
        return await self._save_bytes(ref, data, create=create)

    def save_bytes_create(self, ref: str, data: Data) -> Asset:
        """Store bytes; `FileExistsError` when `ref` exists already."""
        return self._block(self.asave_bytes(ref, data, create=True))

    def save_file(self, ref: str, local_path: str | os.PathLike[str]) -> Asset:
        """Store a copy of a local file under `ref`; see `save_bytes`."""
        return self._block(self.asave_file(ref, local_path))

    async def asave_file(
        self, ref: str, local_path: str | os.PathLike[str], *, create: bool = False
    ) -> Asset:
        """Await `save_file`, or `save_file_create` with `create`."""
        size_bytes = file_size(local_path)
        if self._goes_inline(size_bytes):
            with open(local_path, "rb") as file:
                return self._inline(ref, file.read(), None)
        options = _options(must_create=create, expected_size_bytes=size_bytes)
        return cast("Asset", await self._store(ref, _path(local_path), options))

    def save_file_create(self, ref: str, local_path: str | os.PathLike[str]) -> Asset:
        """Store a copy of a local file; `FileExistsError` when `ref` exists already."""
        return self._block(self.asave_file(ref, local_path, create=True))

    async def _save_bytes(
        self, ref: str, data: Data, *, create: bool = False, mime_type: str | None = None
    ) -> Asset:
        content = _bytes(data)
        if self._goes_inline(len(content)):
            return self._inline(ref, content, mime_type)
        options = _options(
            must_create=create, expected_size_bytes=len(content), mime_type=mime_type
        )
        return cast("Asset", await self._store(ref, content, options))

    # Images

    def save_image(
        self,
        image: Image,
        ref: str | None = None,
        *,
        format: str = "webp",
        quality: int = 95,
        lossless: bool = False,
    ) -> Asset:
        """Encode a Pillow image and store it.

        Args:
            image: Converted when the format does not know its mode; JPEG puts it on white.
            ref: Default `image.<format>`, then `image-2.<format>` and so on.
            format: `webp`, `png`, `jpeg` or `jpg`.
            quality: 1 to 100, for WebP and JPEG.
            lossless: WebP only.

        Raises:
            ValueError: Another format.
        """
        return self._block(
            self.asave_image(image, ref, format=format, quality=quality, lossless=lossless)
        )

    async def asave_image(
        self,
        image: Image,
        ref: str | None = None,
        *,
        format: str = "webp",
        quality: int = 95,
        lossless: bool = False,
    ) -> Asset:
        """Await `save_image`; encoding happens in a thread."""
        from gen_worker.context.images import encode_image, image_format
        from gen_worker.context.local import off_loop

        def encode() -> bytes:
            since = perf_counter()
            data = encode_image(image, format, quality=quality, lossless=lossless)
            self._measured("image_encode_ms", (perf_counter() - since) * 1000)
            return data

        chosen = image_format(format)
        data = await off_loop(encode)
        target = self._default_image_ref(chosen.suffix) if ref is None else ref
        return await self._save_bytes(target, data, mime_type=chosen.mime_type)

    def _default_image_ref(self, suffix: str) -> str:
        count = self._extra["images"] = self._extra.get("images", 0) + 1
        return f"image.{suffix}" if count == 1 else f"image-{count}.{suffix}"

    # Checkpoints

    def save_checkpoint(
        self,
        ref: str,
        local_path: str | os.PathLike[str],
        format: str | None = None,
        **fields: Unpack[CheckpointFields],
    ) -> Tensors:
        """Store a local file of model weights under `ref`.

        Args:
            ref: A name below the call's outputs, such as `model.safetensors`.
            local_path: The file.
            format: Default from the suffix: `safetensors, bin, pt, pth, ckpt`, else `unknown`.
            **fields: See `CheckpointFields`.
        """
        return self._block(self.asave_checkpoint(ref, local_path, format, **fields))

    async def asave_checkpoint(
        self,
        ref: str,
        local_path: str | os.PathLike[str],
        format: str | None = None,
        **fields: Unpack[CheckpointFields],
    ) -> Tensors:
        """Await `save_checkpoint`."""
        size_bytes = file_size(local_path)
        options = _checkpoint_options(ref, local_path, format, size_bytes, fields)
        return cast("Tensors", await self._store(ref, _path(local_path), options))

    def save_checkpoint_bytes(
        self, ref: str, data: Data, format: str | None = None, **fields: Unpack[CheckpointFields]
    ) -> Tensors:
        """Store model weights that are in memory; see `save_checkpoint`."""
        return self._block(self.asave_checkpoint_bytes(ref, data, format, **fields))

    async def asave_checkpoint_bytes(
        self, ref: str, data: Data, format: str | None = None, **fields: Unpack[CheckpointFields]
    ) -> Tensors:
        """Await `save_checkpoint_bytes`."""
        content = _bytes(data)
        options = _checkpoint_options(ref, "", format, len(content), fields)
        return cast("Tensors", await self._store(ref, content, options))

    # Piece by piece

    def open_output_stream(
        self, ref: str, *, create: bool = False, expected_size_bytes: int | None = None
    ) -> OutputWriter[Asset]:
        """Start a file that is written piece by piece; use it in a `with` block.

        Args:
            ref: As for `save_bytes`.
            create: `FileExistsError` when `ref` exists already.
            expected_size_bytes: Lets the host plan; a file may still turn out larger or smaller.
        """
        options = _options(must_create=create, expected_size_bytes=expected_size_bytes)
        return cast("OutputWriter[Asset]", self._open(ref, options))

    def save_output_stream(
        self, ref: str, *, create: bool = False, expected_size_bytes: int | None = None
    ) -> OutputWriter[Asset]:
        """Do what `open_output_stream` does, under its older name."""
        return self.open_output_stream(ref, create=create, expected_size_bytes=expected_size_bytes)

    def open_checkpoint_stream(
        self,
        ref: str,
        *,
        format: str | None = None,
        create: bool = False,
        expected_size_bytes: int | None = None,
        **fields: Unpack[CheckpointFields],
    ) -> OutputWriter[Tensors]:
        """Start a file of model weights that is written piece by piece."""
        options = _checkpoint_options(ref, "", format, expected_size_bytes, fields, create=create)
        return cast("OutputWriter[Tensors]", self._open(ref, options))

    def _open(self, ref: str, options: SaveOptions) -> OutputWriter[Any]:
        self.raise_if_canceled()
        check_size(options.expected_size_bytes or 0)
        from gen_worker.context.stream import OutputWriter

        target, options = self._ref(ref), self._with_destination(options)
        opening = self._files.open_output(target, options, request_id=self.request_id)
        return OutputWriter(self, self._block(opening), target)

    # The host

    def _ref(self, ref: str) -> str:
        from gen_worker.context.refs import output_ref

        return output_ref(ref, self.request_id)

    @property
    def _files(self) -> OutputFiles:
        if self._ports is not None:
            return self._ports.files
        from gen_worker.context.local import LocalOutputs

        return LocalOutputs()

    def _block(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a host's coroutine in the handler's thread, shielded from an interrupt."""
        if self._ports is not None:
            run = self._ports.run
        else:
            from gen_worker.context.local import run_blocking as run
        with shield():
            result: T = run(coroutine)
        return result

    async def _store(self, ref: str, source: bytes | Path, options: SaveOptions) -> Asset | Tensors:
        check_size(options.expected_size_bytes or 0)
        options = self._with_destination(options)
        return await self._files.save(self._ref(ref), source, options, request_id=self.request_id)

    def _with_destination(self, options: SaveOptions) -> SaveOptions:
        """Add where the job's checkpoints go, which its payload or its hints say, and as what."""
        destination = (self._hints or {}).get("destination_repo")
        if options.checkpoint_format is None or not isinstance(destination, str) or not self.job_id:
            return options
        from msgspec.structs import replace

        self._extra["has_checkpoints"] = True
        spec = dict(self._extra.get("repo_spec", {}))
        return replace(options, destination=destination.strip(), repo_spec=spec)

    def _goes_inline(self, size_bytes: int) -> bool:
        """Tell whether an output travels in the answer, and count it."""
        if self._hints is None or self._hints.get("output_format") != "inline":
            return False
        total = self._extra.get("inline_bytes", 0) + size_bytes
        if total > MAX_INLINE_BYTES:
            return False
        self._extra["inline_bytes"] = total
        return True

    def _inline(self, ref: str, content: bytes, mime_type: str | None) -> Asset:
        from hashlib import sha256

        from gen_worker.context.media import HEAD_BYTES, media_type
        from gen_worker.types import Asset

        return Asset(
            ref=self._ref(ref),
            mime_type=mime_type or media_type(content[:HEAD_BYTES], ref),
            size_bytes=len(content),
            sha256=sha256(content).hexdigest(),
            inline_bytes=content,
        )


def _options(**options: Any) -> SaveOptions:
    from gen_worker.ports import SaveOptions

    return SaveOptions(**options)


def _checkpoint_options(
    ref: str,
    local_path: str | os.PathLike[str],
    format: str | None,
    size_bytes: int | None,
    fields: CheckpointFields,
    *,
    create: bool = False,
) -> SaveOptions:
    from gen_worker.context.media import weights_format
    from gen_worker.context.publishing import refuse_unknown

    refuse_unknown(fields, CheckpointFields.__annotations__, "a checkpoint")
    return _options(
        must_create=create,
        expected_size_bytes=size_bytes,
        checkpoint_format=format
        or weights_format(ref)
        or weights_format(os.fspath(local_path))
        or "unknown",
        metadata={name: value for name, value in fields.items() if value is not None},
    )


def _bytes(data: Data) -> bytes:
    if not isinstance(data, Data):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")
    return bytes(data)


def _path(path: str | os.PathLike[str]) -> Path:
    from pathlib import Path

    return Path(path)


def file_size(path: str | os.PathLike[str]) -> int:
    """Return the size of a file in bytes; `ValueError` for what is none, such as a pipe."""
    import stat

    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError(f"{os.fspath(path)!r} is not a file")
    return facts.st_size


def check_size(size_bytes: int) -> None:
    """Raise `OutputTooLargeError` for more than `MAX_OUTPUT_BYTES`."""
    if size_bytes > MAX_OUTPUT_BYTES:
        raise OutputTooLargeError(size_bytes=size_bytes, max_bytes=MAX_OUTPUT_BYTES)
