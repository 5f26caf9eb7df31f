"""Files of this machine: inputs a payload names or brings along, outputs below one directory."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from gen_worker.context.local import LocalOutputs, off_loop
from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.context.local_stream import LocalStream
    from gen_worker.models.refs import Ref, TensorhubRef
    from gen_worker.ports import FileLimits, SaveOptions
    from gen_worker.types import Asset, Tensors

    F = TypeVar("F", Asset, Tensors)

__all__ = ["LocalFiles"]

# Compiled at their first use, as most calls name no file.
_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]+)://"
_BARE_ID_CHARS = 64
_SUFFIX = r"\.[A-Za-z0-9]{1,12}\Z"


class LocalFiles(LocalOutputs):
    """The `Files` port of a laptop.

    An input is a path, a `file://` URL, the ref of an output stored here, a blob of the content
    store, or bytes in the payload itself. Files of this machine are used where they are; what
    was written for a request is removed with it.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        allow_local_files: bool = True,
        cas_dir: str | None = None,
    ) -> None:
        """See `local_ports`."""
        super().__init__(root)
        self._allow_local_files = allow_local_files
        self._cas_dir = cas_dir
        self._scratch: dict[str, str] = {}
        self._streams: dict[str, list[LocalStream]] = {}
        self._lock = threading.Lock()

    async def materialize(
        self, value: Asset | Tensors, limits: FileLimits, *, request_id: str
    ) -> Asset | Tensors:
        return await off_loop(self._materialize, value, limits, request_id)

    async def find_directory(
        self,
        ref: str,
        *,
        request_id: str,
        checkpoint_id: str = "",
        attributes: Mapping[str, Any] | None = None,
        is_dataset: bool = False,
    ) -> str | None:
        """Return what `ref` names: as a path, or as a model that is here already.

        Raises:
            ValidationError: A checkpoint is asked for of what has none.
        """
        if not self._allow_local_files or re.match(_SCHEME, ref):
            return None
        path = os.path.abspath(os.path.expanduser(ref))
        if os.path.isdir(path) or (os.path.isfile(path) and not is_dataset):
            if checkpoint_id and os.path.basename(path) != checkpoint_id:
                kind = "directory" if os.path.isdir(path) else "file"
                raise ValidationError(
                    f"{ref!r} is a {kind} and no checkpoint {checkpoint_id!r:.80}: leave "
                    "checkpoint_id out"
                )
            return path
        if is_dataset:
            return None
        return await off_loop(self._stored_model, ref, checkpoint_id, attributes or {})

    async def open_output(self, ref: str, options: SaveOptions, *, request_id: str) -> LocalStream:
        stream = await super().open_output(ref, options, request_id=request_id)
        with self._lock:
            self._streams.setdefault(request_id, []).append(stream)
        return stream

    async def release(self, request_id: str) -> None:
        """Remove what was written for a request's inputs, and outputs it never finished."""
        await super().release(request_id)
        with self._lock:
            directory = self._scratch.pop(request_id, None)
            streams = self._streams.pop(request_id, ())
        for stream in streams:
            if stream.is_open:
                stream.abort()
        if directory is not None:
            import shutil

            await off_loop(shutil.rmtree, directory, True)

    def _stored_model(
        self, ref: str, checkpoint_id: str, attributes: Mapping[str, Any]
    ) -> str | None:
        """Return where a model of the local store is; nothing is fetched."""
        from gen_worker.models.assembly import open_store
        from gen_worker.models.choice import ModelChoice
        from gen_worker.models.refs import parse_prefixed_ref
        from gen_worker.models.sources import open_sources

        try:
            parsed = parse_prefixed_ref(ref)
        except ValidationError:
            return None
        if checkpoint_id:
            parsed = _pinned(parsed, checkpoint_id)
        wanted = {name: (str(value),) for name, value in attributes.items()}
        choice = ModelChoice.of(parsed, attributes=wanted)
        with open_sources(open_store(self._cas_dir), is_offline=True) as sources:
            model = sources.find(choice)
        return model.path if model is not None else None

    def _materialize(self, value: F, limits: FileLimits, request_id: str) -> F:
        # Late: only some payloads name files.
        from gen_worker.runtime.files.described import described
        from gen_worker.runtime.files.input_checks import check_size

        inline = getattr(value, "inline_bytes", None)
        if not value.ref and inline is None:
            return value  # an empty default, not a file
        if inline is not None:
            check_size(len(inline), limits, "inline file")
            path = self._write_inline(value.ref, inline, request_id)
        else:
            path = self._locate(value)
        return described(value, path, limits)

    def _locate(self, value: Asset | Tensors) -> str:
        digest = getattr(value, "blob_digest", None)
        if digest:
            # Late: few payloads name blobs, and the store is another package's.
            from gen_worker.models.assembly import open_store

            return open_store(self._cas_dir).blob(digest)
        stored = self._stored_output(value.ref)
        if stored is None and not self._allow_local_files:
            raise ValidationError(f"file {value.ref!r} is refused: send the content inline instead")
        return stored or _path_of(value.ref)

    def _stored_output(self, ref: str) -> str | None:
        """Return the file of an earlier call's output or upload, so that calls can be chained."""
        from gen_worker.runtime.files.kept import kept_file

        return kept_file(self, ref)

    def _write_inline(self, ref: str, content: bytes, request_id: str) -> str:
        suffix = re.search(_SUFFIX, ref)
        name = f"{os.urandom(8).hex()}{suffix[0] if suffix else ''}"
        try:
            path = os.path.join(self._scratch_of(request_id), name)
            with open(path, "xb") as file:
                file.write(content)
        except OSError as error:
            from gen_worker.context.local_stream import write_error

            raise write_error("an inline file", error) from error
        return path

    def _scratch_of(self, request_id: str) -> str:
        import tempfile

        with self._lock:
            if request_id not in self._scratch:
                self._scratch[request_id] = tempfile.mkdtemp(prefix="gen-worker-inputs-")
            return self._scratch[request_id]


def _pinned(ref: Ref, checkpoint_id: str) -> TensorhubRef:
    from gen_worker.models.refs import TensorhubRef

    if not isinstance(ref, TensorhubRef):
        raise ValidationError(f"{str(ref)!r} is of no hub, and has no checkpoint_id: leave it out")
    is_bare = len(checkpoint_id) == _BARE_ID_CHARS
    digest = f"blake3:{checkpoint_id}" if is_bare else checkpoint_id
    return TensorhubRef(owner=ref.owner, repo=ref.repo, flavor=ref.flavor, digest=digest)


def _path_of(ref: str) -> str:
    scheme = re.match(_SCHEME, ref)
    if scheme is None:
        return os.path.abspath(os.path.expanduser(ref))
    if scheme[1].lower() in ("http", "https"):
        raise ValidationError(
            f"file {ref!r} is a URL, which only a worker downloads: "
            "download it and give the path, or send the content inline"
        )
    from urllib.parse import unquote, urlsplit

    url = urlsplit(ref)
    if url.scheme != "file" or url.netloc not in ("", "localhost"):
        raise ValidationError(f"file {ref!r} must be a path or a file:// URL of this machine")
    return unquote(url.path)
