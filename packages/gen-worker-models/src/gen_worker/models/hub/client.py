"""A client for every route of the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.models.hub.answers import question_of, raise_for_model, raise_for_public
from gen_worker.models.hub.blobs import BlobCalls
from gen_worker.models.hub.capability import Capability, read_capability
from gen_worker.models.hub.clock import SYSTEM_CLOCK, Clock
from gen_worker.models.hub.connection import HubConnection, segment
from gen_worker.models.hub.errors import IngestTimeoutError
from gen_worker.models.hub.repositories import RepositoryCalls
from gen_worker.models.hub.uploading import Uploader
from gen_worker.models.hub.wire import Resolution, preferred_dtypes, resolution_from

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import httpx

    from gen_worker.cancel import CancelToken
    from gen_worker.models.hub.revision import Revision
    from gen_worker.models.hub.uploading import FileFacts, Tell
    from gen_worker.models.hub.wire import Uploaded
    from gen_worker.models.refs import TensorhubRef

__all__ = ["HubClient"]

_POLL_FIRST_S = 0.5
_POLL_GROWTH = 1.5
_POLL_MAX_S = 10.0
_POLL_JITTER_S = 0.25
_INGEST_MAX_S = 15 * 60.0


class HubClient(RepositoryCalls, BlobCalls):
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
            "POST", path, phase="resolve", body=question_of(ref, attributes), cancel=cancel
        )
        raise_for_model(reply, str(ref))
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
                raise_for_public(reply, model_ref)
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

    def check_publish(self, owner: str, repo: str) -> None:
        """Refuse what the hub would refuse, as far as that is known; it is asked if need be.

        Raises:
            ValidationError: The token says that it does not allow it.
            HubAuthError: The hub does not take the token.
            ArtifactTransferError: The hub does not answer.
        """
        own = self.capability
        if own is not None:
            own.check_publish(owner, repo, exists=True)
        if (own is None or not own.may_create(owner, repo)) and not self.repo_exists(owner, repo):
            if own is not None:
                own.check_publish(owner, repo, exists=False)

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
            self.check_publish(owner, repo)
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
        facts: FileFacts | None = None,
        tell: Tell | None = None,
        cancel: CancelToken | None = None,
    ) -> Uploaded:
        """Upload a file that belongs to no repository; `facts` are those of the file, if known."""
        owner = owner or self.connection.owner
        collection = f"/api/v1/media/{segment(owner)}" if owner else "/api/v1/media"
        uploader = Uploader(self.connection, self.capability, tell=tell, cancel=cancel)
        extra = {"request_id": request_id, "job_id": job_id, "content_type": content_type}
        return uploader.send(collection, path, identity=("ref", ref), extra=extra, facts=facts)
