"""A client for every route of the hub."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ArtifactTransferError, ValidationError
from gen_worker.models.hub.capability import Capability, read_capability
from gen_worker.models.hub.clock import SYSTEM_CLOCK, Clock
from gen_worker.models.hub.connection import HubConnection, raise_for, segment
from gen_worker.models.hub.errors import (
    HubAuthError,
    HubRequestError,
    HubUnreachableError,
    IngestTimeoutError,
    MalformedAnswerError,
    NoCompatibleArtifactError,
    PublicModelError,
    not_found,
)
from gen_worker.models.hub.uploading import Uploader
from gen_worker.models.hub.wire import CHUNK_BYTES, LATEST, Resolution, resolution_from
from gen_worker.models.snapshot import parse_blake3

if TYPE_CHECKING:
    import httpx

    from gen_worker.cancel import CancelToken
    from gen_worker.models.hub.connection import Reply
    from gen_worker.models.hub.revision import Revision
    from gen_worker.models.hub.uploading import Tell
    from gen_worker.models.hub.wire import Uploaded
    from gen_worker.models.refs import TensorhubRef

__all__ = ["HubClient", "preferred_dtypes"]

_POLL_FIRST_S = 0.5
_POLL_GROWTH = 1.5
_POLL_MAX_S = 10.0
_POLL_JITTER_S = 0.25
_INGEST_MAX_S = 15 * 60.0
_COPY_BYTES = 1024 * 1024
_BLOB_TIMEOUT_S = 300.0
_AXES = ("dtype", "file_type", "file_layout")


class HubClient:
    """Blocking, and safe to share between threads. Close it, or use it as a context manager."""

    def __init__(
        self,
        base_url: str,
        token: str = "",
        *,
        owner: str = "",
        clock: Clock = SYSTEM_CLOCK,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Bind to a hub; nothing is sent yet.

        Args:
            base_url: Such as `https://hub.example`.
            token: Sent as a bearer; what it says of its own limits is kept to.
            owner: On whose behalf, sent with every request.
            clock: Time for polling and backing off.
            transport: Instead of the network, in tests.

        Raises:
            ValidationError: The URL is none.
        """
        self.connection = HubConnection(
            base_url, token, owner=owner, clock=clock, transport=transport
        )
        self.capability: Capability | None = read_capability(token)

    def __repr__(self) -> str:
        return f"HubClient({self.connection.base_url!r})"

    def __enter__(self) -> HubClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def resolve(
        self,
        ref: TensorhubRef,
        *,
        attributes: Mapping[str, Sequence[str]] | None = None,
        for_inference: bool = False,
        cancel: CancelToken | None = None,
    ) -> Resolution:
        """Ask what a ref means now.

        Args:
            ref: Pinned by a digest, or by tag and flavor.
            attributes: Preferred `dtype`, `file_type` and `file_layout`, the first of each
                counts; they take the place of the tag.
            for_inference: Ask as a worker does, at the route for workers.
            cancel: Gives up when canceled.

        Raises:
            NotOnHubError: The repository, tag, flavor or checkpoint does not exist.
            NoCompatibleArtifactError: Nothing has those attributes.
            HubAuthError: The token does not allow it.
            ModelResolutionError: The answer is of no use.
            ArtifactTransferError: The hub cannot be reached, or fails.
        """
        scope = "inference/repos" if for_inference else "repos"
        path = f"/api/v1/{scope}/{segment(ref.owner)}/{segment(ref.repo)}/resolve"
        reply = self.connection.call(
            "POST", path, phase="resolve", body=_question(ref, attributes), cancel=cancel
        )
        _raise_for_model(reply, str(ref))
        return resolution_from(reply.data)

    def request_public(
        self,
        model_ref: str,
        *,
        dtypes: Sequence[str] = (),
        file_types: Sequence[str] = (),
        file_layouts: Sequence[str] = (),
        waiting: Callable[[str], object] | None = None,
        cancel: CancelToken | None = None,
        patience_s: float = _INGEST_MAX_S,
    ) -> Resolution:
        """Ask for a public model, and wait while the hub gets hold of it.

        Args:
            model_ref: With its provider, such as `hf:owner/repo`.
            dtypes: In order of preference; empty means bf16, then fp16.
            file_types: Empty means safetensors.
            file_layouts: Empty means diffusers.
            waiting: Called with the hub's name of the task before each pause.
            cancel: Gives up when canceled.
            patience_s: How long to wait in all.

        Raises:
            PublicModelError: The hub does not provide it.
            NoCompatibleArtifactError: It has no such form.
            IngestTimeoutError: It took too long.
        """
        body = {
            "model_ref": model_ref,
            "constraints": {
                "dtypes": preferred_dtypes(dtypes),
                "file_types": list(file_types) or ["safetensors"],
                "file_layouts": list(file_layouts) or ["diffusers"],
            },
            "include_urls": True,
        }
        clock = self.connection.clock
        deadline, delay_s = clock.now() + patience_s, _POLL_FIRST_S
        while True:
            reply = self.connection.call(
                "POST",
                "/api/v1/public/models/request",
                phase="ingest",
                body=body,
                cancel=cancel,
            )
            if reply.status != 202:
                _raise_for_public(reply, model_ref)
                return resolution_from(reply.data)
            job_id = str(reply.record("ingest").get("ingest_job_id") or "")
            if clock.now() + delay_s > deadline:
                raise IngestTimeoutError(
                    f"the hub did not have {model_ref!r} after {patience_s:g} s (its task "
                    f"{job_id!r} may still be running): try again later",
                    job_id=job_id,
                )
            if waiting is not None:
                waiting(job_id)
            clock.sleep(delay_s + clock.random() * _POLL_JITTER_S, cancel)
            delay_s = min(delay_s * _POLL_GROWTH, _POLL_MAX_S)

    def blob_url(self, digest: str) -> str:
        """Return where a blob is read with this client's token."""
        return self.connection.url(_blob_path(digest))

    def get_blob(
        self,
        digest: str,
        destination: str,
        *,
        max_bytes: int | None = None,
        cancel: CancelToken | None = None,
    ) -> int:
        """Download one blob, verified; the file appears under its name only when it is whole.

        For small files; there is no resuming.

        Returns:
            Its size in bytes.

        Raises:
            HubAuthError: The token does not allow it.
            ArtifactTransferError: It is not there, or not what its digest says.
        """
        hexdigest = parse_blake3(digest)
        temporary = f"{destination}.{secrets.token_hex(8)}.tmp"
        try:
            size = self._download(hexdigest, temporary, max_bytes, cancel)
            os.replace(temporary, destination)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)
        return size

    def chunk_hashes(self, digest: str) -> tuple[str, ...] | None:
        """Return the BLAKE3, in hex, of every 8 MiB of a blob; None where a hub does not tell."""
        path = f"/api/v1/blobs/blake3:{parse_blake3(digest)}/chunks"
        reply = self.connection.call("GET", path, phase="chunks")
        if reply.status in (404, 405, 501):
            return None
        raise_for(reply, "chunks")
        record = reply.record("chunks")
        chunks = record.get("chunks")
        if record.get("chunk_bytes") != CHUNK_BYTES or not isinstance(chunks, list):
            return None
        return tuple(parse_blake3(str(chunk)) for chunk in chunks)

    def open_revision(
        self,
        owner: str,
        repo: str,
        *,
        request_id: str = "",
        tell: Tell | None = None,
        cancel: CancelToken | None = None,
        **facts: str,
    ) -> Revision:
        """Begin a publication to a repository, which the hub makes when there is none.

        Args:
            owner: Of the repository.
            repo: Its name.
            request_id: Of the call that publishes.
            tell: Gets progress events.
            cancel: Stops uploads and waiting.
            facts: `job_id`, `kind`, `library_name`, `model_family`, `class_name`,
                `adapter_for_checkpoint_group`, `adapter_for_family`; empty ones are left out.

        Raises:
            ValidationError: The token says that it does not allow it.
        """
        from gen_worker.models.hub.revision import Revision

        if self.capability is not None:
            self.capability.check_publish(owner, repo, exists=True)
            if not self.capability.may_create(owner, repo) and not self.repo_exists(owner, repo):
                self.capability.check_publish(owner, repo, exists=False)
        return Revision.open(
            self, owner, repo, facts, request_id=request_id, tell=tell, cancel=cancel
        )

    def upload_media(
        self,
        path: str,
        ref: str,
        *,
        owner: str = "",
        content_type: str = "",
        request_id: str = "",
        job_id: str = "",
        tell: Tell | None = None,
        cancel: CancelToken | None = None,
    ) -> Uploaded:
        """Upload a file that belongs to no repository."""
        owner = owner or self.connection.owner
        collection = f"/api/v1/media/{segment(owner)}" if owner else "/api/v1/media"
        uploader = Uploader(self.connection, self.capability, tell=tell, cancel=cancel)
        extra = {"request_id": request_id, "job_id": job_id, "content_type": content_type}
        return uploader.send(collection, path, identity=("ref", ref), extra=extra)

    def repo_exists(self, owner: str, repo: str) -> bool:
        """Whether there is such a repository; one that may not be read counts as none."""
        try:
            return bool(self.metadata(owner, repo)["exists"])
        except HubAuthError as error:
            if error.status_code == 401:
                raise
            return False

    def repos(self, owner: str = "") -> list[dict[str, Any]]:
        """List repositories with their tags, flavors and sizes."""
        query = {"owner": owner} if owner else None
        reply = self.connection.ask("GET", "/api/v1/repos", phase="list", query=query)
        return _items(reply)

    def repo(self, owner: str, repo: str) -> dict[str, Any]:
        """Describe one repository: its tags, their flavors, checkpoints and sizes.

        Raises:
            RepoNotFoundError: There is none.
        """
        reply = self.connection.call("GET", _repo(owner, repo), phase="list")
        _raise_for_model(reply, f"{owner}/{repo}")
        return reply.record("list")

    def move_tag(self, owner: str, repo: str, tag: str, checkpoint_id: str) -> None:
        """Point a tag to a checkpoint.

        Raises:
            NotOnHubError: There is no such repository or checkpoint.
        """
        reply = self.connection.call(
            "PUT",
            f"{_repo(owner, repo)}/tags",
            phase="tag",
            query={"tag": tag},
            body={"checkpoint_id": checkpoint_id},
        )
        _raise_for_model(reply, f"{owner}/{repo}@{checkpoint_id}", phase="tag")

    def remove_tag(self, owner: str, repo: str, tag: str) -> None:
        """Remove a tag.

        Raises:
            NotOnHubError: There is no such repository or tag.
        """
        path = f"{_repo(owner, repo)}/tags"
        reply = self.connection.call("DELETE", path, phase="tag", query={"tag": tag})
        _raise_for_model(reply, f"{owner}/{repo}:{tag}", phase="tag")

    def tree(
        self, owner: str, repo: str, *, tag: str = LATEST, flavor: str = ""
    ) -> list[dict[str, Any]]:
        """List the files under a tag; nothing when there is no such repository or tag."""
        query = {"tag": tag} | ({"flavor": flavor} if flavor else {})
        reply = self.connection.call("GET", f"{_repo(owner, repo)}/tree", phase="tree", query=query)
        if reply.status == 404:
            return []
        raise_for(reply, "tree")
        entries = reply.record("tree").get("entries")
        return [entry for entry in entries if isinstance(entry, dict)] if entries else []

    def metadata(self, owner: str, repo: str) -> dict[str, Any]:
        """Return `{"exists": bool, "metadata": {…}}` of a repository."""
        if self.capability is not None:
            self.capability.check_read(owner, repo)
        reply = self.connection.call("GET", f"{_repo(owner, repo)}/metadata", phase="metadata")
        if reply.status == 404:
            return {"exists": False, "metadata": {}}
        raise_for(reply, "metadata")
        record = reply.record("metadata")
        known = record.get("metadata")
        return {
            "exists": record.get("exists", True) is not False,
            "metadata": known if isinstance(known, dict) else {},
        }

    def put_metadata(self, owner: str, repo: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Replace a repository's metadata, and return what the hub keeps.

        Raises:
            ValidationError: `metadata` is no object.
        """
        if not isinstance(metadata, Mapping):
            raise ValidationError(f"metadata must be an object, not {metadata!r:.120}")
        reply = self.connection.ask(
            "PUT",
            f"{_repo(owner, repo)}/metadata",
            phase="metadata",
            body={"metadata": dict(metadata)},
        )
        kept = reply.record("metadata").get("metadata")
        return kept if isinstance(kept, dict) else dict(metadata)

    def datasets(self, owner: str) -> list[dict[str, Any]]:
        """List the datasets of an owner."""
        reply = self.connection.ask(
            "GET", "/api/v1/datasets", phase="dataset", query={"owner": owner}
        )
        return _items(reply)

    def find_dataset(self, owner: str, name: str) -> dict[str, Any] | None:
        """Return the dataset of a name, upper and lower case alike."""
        folded = name.lower()
        found = (item for item in self.datasets(owner) if str(item.get("name")).lower() == folded)
        return next(found, None)

    def put_dataset(
        self,
        owner: str,
        name: str,
        schema: Mapping[str, Any],
        *,
        visibility: str = "private",
        row_artifacts: Any = None,
    ) -> dict[str, Any]:
        """Publish a revision of a dataset, which is made when there is none.

        Returns:
            `{"ok", "dataset_id", "owner", "name", "existed"}`.
        """
        known = self.find_dataset(owner, name)
        body: dict[str, Any] = {"schema": dict(schema), "visibility": visibility}
        if row_artifacts is not None:
            body["row_artifacts"] = row_artifacts
        if known is None:
            body |= {"owner": owner, "name": name}
            reply = self.connection.ask("POST", "/api/v1/datasets", phase="dataset", body=body)
            dataset_id = str(reply.record("dataset").get("id") or "")
        else:
            dataset_id = str(known.get("id") or "")
            path = f"/api/v1/datasets/{segment(dataset_id)}"
            self.connection.ask("PATCH", path, phase="dataset", body=body)
        return {
            "ok": True,
            "dataset_id": dataset_id,
            "owner": owner,
            "name": name,
            "existed": known is not None,
        }

    def file_facts(self, ref: str) -> dict[str, str] | None:
        """Return `sha256`, `size_bytes` and `mime_type` of a file; None when there is none."""
        path = f"/api/v1/file/{segment(ref)}"
        reply = self.connection.call("HEAD", path, phase="file", timeout_s=10.0)
        if reply.status == 404:
            return None
        raise_for(reply, "file")
        names = {"sha256": "SHA256", "size_bytes": "Size-Bytes", "mime_type": "Mime-Type"}
        return {name: reply.headers.get(f"X-Cozy-{header}", "") for name, header in names.items()}

    def file_url(self, ref: str) -> str:
        """Return where a file is read with this client's token."""
        return self.connection.url(f"/api/v1/file/{segment(ref)}")

    def _download(
        self, digest: str, path: str, max_bytes: int | None, cancel: CancelToken | None
    ) -> int:
        import httpx
        from blake3 import blake3

        hasher, size = blake3(), 0
        try:
            with (
                self.connection.stream(
                    "GET", _blob_path(digest), timeout_s=_BLOB_TIMEOUT_S, headers={}
                ) as response,
                open(path, "xb") as file,
            ):
                _raise_for_blob(response, digest)
                for piece in response.iter_bytes(_COPY_BYTES):
                    if cancel is not None:
                        cancel.raise_if_canceled()
                    size += len(piece)
                    if max_bytes is not None and size > max_bytes:
                        raise _bad_blob(digest, f"has more than {max_bytes} bytes")
                    hasher.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except httpx.TransportError as error:
            raise HubUnreachableError(
                f"blob {digest} broke off after {size} bytes",
                phase="blob",
                cause_type=type(error).__name__,
            ) from error
        if hasher.hexdigest() != digest:
            raise _bad_blob(digest, f"has the BLAKE3 {hasher.hexdigest()}")
        return size


def preferred_dtypes(dtypes: Sequence[str]) -> list[str]:
    """Return dtypes as the hub is asked for them: bf16 first where it or fp16 will do."""
    asked = list(dtypes) or ["bf16", "fp16"]
    first = ["bf16"] if {"bf16", "fp16"} & set(asked) else []
    return list(dict.fromkeys([*first, *asked]))


def _question(ref: TensorhubRef, attributes: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    """Return the body of a `resolve`: exactly one of its three shapes."""
    flavor = {"flavor": ref.flavor} if ref.flavor else {}
    if ref.digest:
        return {"digest": ref.digest, **flavor}
    preferred = {axis: attributes[axis][0] for axis in _AXES if attributes and attributes.get(axis)}
    if preferred:
        return {"tag": "", "attributes": preferred, **flavor}
    return {"tag": ref.tag, **flavor}


def _raise_for_model(reply: Reply, ref: str, *, phase: str = "resolve") -> None:
    data = reply.data if isinstance(reply.data, dict) else {}
    if reply.status == 404:
        available = data.get("available")
        has = [str(name) for name in available] if isinstance(available, list) else []
        hint = f": there are {', '.join(map(repr, has[:20]))}" if has else ""
        raise not_found(reply.code, f"{ref!r} is not on the hub: {reply.message}{hint}", has)
    if reply.status == 409:
        raise NoCompatibleArtifactError(
            f"{ref!r} is on the hub, but in no form that fits: {reply.message}",
            debug=data.get("debug"),
        )
    raise_for(reply, phase)


def _raise_for_public(reply: Reply, model_ref: str) -> None:
    if reply.status == 409:
        _raise_for_model(reply, model_ref)
    if not reply.is_ok:
        raise PublicModelError(
            f"the hub does not provide {model_ref!r}: {reply.message}",
            status_code=reply.status,
            code=reply.code,
        )
    if not isinstance(reply.data, dict):
        raise MalformedAnswerError("the hub's answer is no JSON object")


def _raise_for_blob(response: httpx.Response, digest: str) -> None:
    if response.status_code in (401, 403):
        raise HubAuthError(
            f"the hub refuses to hand out blob {digest}", status_code=response.status_code
        )
    if response.status_code != 200:
        raise HubRequestError(
            f"blob {digest} cannot be had",
            phase="blob",
            status_code=response.status_code,
            retryable=response.status_code >= 500,
        )


def _bad_blob(digest: str, problem: str) -> ArtifactTransferError:
    return ArtifactTransferError(
        f"blob {digest} {problem}: the hub is broken, or something between",
        provider="tensorhub",
        phase="blob",
    )


def _repo(owner: str, repo: str) -> str:
    return f"/api/v1/repos/{segment(owner)}/{segment(repo)}"


def _blob_path(digest: str) -> str:
    return f"/api/v1/blobs/blake3:{parse_blake3(digest)}/content"


def _items(reply: Reply) -> list[dict[str, Any]]:
    items = reply.record("list").get("items")
    if not isinstance(items, list):
        return []
    return msgspec.convert([item for item in items if isinstance(item, dict)], list[dict[str, Any]])
