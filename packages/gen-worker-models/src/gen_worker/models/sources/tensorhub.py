"""Models of the hub: from a ref to a snapshot in the content store."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.errors import ArtifactTransferError, ModelResolutionError
from gen_worker.models.refs import TensorhubRef, identity
from gen_worker.models.sources.errors import OfflineMissError
from gen_worker.models.sources.facts import local_facts
from gen_worker.models.sources.last_known import tell_last_known
from gen_worker.models.sources.resolutions import Resolved
from gen_worker.models.sources.snapshots import Built, fetch_snapshot
from gen_worker.models.sources.trees import files_in, size_of
from gen_worker.models.sources.values import (
    FetchPlan,
    LocalModel,
    PlannedFile,
    key_of,
    load_path,
)
from gen_worker.models.store.errors import SnapshotNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack

    from gen_worker.models.choice import ModelChoice
    from gen_worker.models.hub.wire import Artifact
    from gen_worker.models.overrides import RepoFacts
    from gen_worker.models.snapshot import Snapshot
    from gen_worker.models.sources.hub_answers import HubAnswers
    from gen_worker.models.sources.surroundings import Surroundings
    from gen_worker.models.sources.values import Request

__all__ = ["HubModels", "Meaning"]

_log = logging.getLogger("gen_worker.models.sources")


class Meaning(NamedTuple):
    """What a ref means: a digest, and how to get it."""

    digest: str
    snapshot: Snapshot | None = None
    """None when only a copy that is here answers."""
    attributes: Mapping[str, str] = {}
    is_last_known: bool = False


class HubModels:
    """The source of refs of the hub. Thread-safe, blocking."""

    def __init__(self, around: Surroundings, answers: HubAnswers | None) -> None:
        """Bind.

        Args:
            around: What every source works with.
            answers: The hub; None when none is configured.
        """
        self._around = around
        self._answers = answers

    def find(self, choice: ModelChoice) -> LocalModel | None:
        """Return the model if it is here as far as this machine knows, without the network."""
        meaning = self._local(choice)
        path = self._around.store.snapshot(meaning.digest) if meaning else None
        return _local_model(choice, meaning, Built(path, 0, True)) if meaning and path else None

    def plan(self, request: Request) -> FetchPlan:
        """Return what would be fetched."""
        return self.plan_of(request, self._meaning(request))

    def plan_of(self, request: Request, meaning: Meaning) -> FetchPlan:
        """Return what would be fetched for a meaning that is known."""
        here = self.find(request.choice) if meaning.snapshot is None else None
        if here is not None:
            return plan_of(here)
        assert meaning.snapshot is not None, "a meaning without a snapshot is here"
        missing = {file.blake3 for file in self._around.store.missing(meaning.snapshot)}
        return FetchPlan(
            identity=identity(request.choice.target),
            provider=request.choice.provider,
            ref=str(request.choice.target),
            digest=meaning.digest,
            files=tuple(
                PlannedFile(file.path, file.size_bytes, file.blake3 not in missing)
                for file in meaning.snapshot.files
            ),
        )

    def hold(self, request: Request, stack: ExitStack) -> LocalModel:
        """Have the model here, leased until the stack is closed.

        Raises:
            ModelResolutionError: The ref means nothing, or nothing that may be had.
            ArtifactTransferError: Its files could not be fetched.
            ResourceError: There is no room.
        """
        return self.hold_as(request, self._meaning(request), stack)

    def hold_as(self, request: Request, meaning: Meaning, stack: ExitStack) -> LocalModel:
        """Have the files of a meaning that is known; see `hold`."""
        store = self._around.store
        if store.snapshot(meaning.digest) is not None:
            try:
                path = stack.enter_context(store.lease(meaning.digest))
                return self._kept(request.choice, meaning, Built(path, 0, True))
            except SnapshotNotFoundError:  # evicted this moment
                _log.debug("snapshot %s went away while it was looked up", meaning.digest)
        if meaning.snapshot is None:
            meaning = self._asked(request)
        return self._fetched(request, meaning, stack)

    def meaning_offline(self, choice: ModelChoice) -> Meaning | None:
        """Return what a ref meant, if nothing may be asked and that is here."""
        local = self._local(choice) if self._around.is_offline else None
        if local is None or self._around.store.snapshot(local.digest) is None:
            return None
        return local

    def public_meaning(self, request: Request) -> Meaning | None:
        """Return what the hub has of a public model; None when it may not be asked.

        Raises:
            ArtifactTransferError: It does not have it, or cannot be reached.
        """
        answers = self._answers
        if answers is None or not answers.rights.may_ingest or self._around.is_offline:
            return None
        found = answers.ask_public(request.choice, request.token)
        return Meaning(found.snapshot.digest, found.snapshot, _attributes(found.artifact))

    def facts(self, request: Request) -> RepoFacts | None:
        """Return what the hub knows of a ref, or this machine when the hub cannot be asked."""
        ref, answers = request.choice.target, self._answers
        if answers is not None and not self._around.is_offline and isinstance(ref, TensorhubRef):
            from gen_worker.models.hub.errors import HubUnreachableError
            from gen_worker.models.hub.lookup import repo_facts

            try:
                return repo_facts(answers.hub, ref)
            except HubUnreachableError:
                if not self._around.may_use_last_known or self.find(request.choice) is None:
                    raise
        here = self.find(request.choice)
        return None if here is None else local_facts(here)

    def _fetched(self, request: Request, meaning: Meaning, stack: ExitStack) -> LocalModel:
        snapshot, store = meaning.snapshot, self._around.store
        if snapshot is None or (self._around.is_offline and store.missing(snapshot)):
            raise offline_miss(request.choice)
        with store.reserve(snapshot, token=request.token):
            built = fetch_snapshot(
                self._around,
                request,
                snapshot,
                hub=self._answers.hub if self._answers else None,
                renew=partial(self._renewed, request, snapshot.digest),
            )
            stack.enter_context(store.lease(snapshot.digest))
        return self._kept(request.choice, meaning, built)

    def _kept(self, choice: ModelChoice, meaning: Meaning, built: Built) -> LocalModel:
        known, key = self._around.known, _key(choice)
        old = known.get(key)
        if old is not None and old.digest == meaning.digest and not meaning.attributes:
            meaning = meaning._replace(attributes=old.attributes)  # a job tells digests only
        known.put(Resolved(key=key, digest=meaning.digest, attributes=dict(meaning.attributes)))
        return _local_model(choice, meaning, built)

    # What a ref means.

    def _meaning(self, request: Request) -> Meaning:
        """Go along the chain: here by digest, described by the job, the hub, the last answer."""
        choice, resolved = request.choice, request.resolved
        local = self._local(choice)
        is_here = local is not None and self._around.store.snapshot(local.digest) is not None
        if local is not None and is_here and _pin(choice) == local.digest:
            return local
        if resolved is not None:
            return _checked(choice, Meaning(resolved.digest, resolved))
        if local is not None and is_here and (_is_pinned(choice) or self._around.is_offline):
            return local
        return self._asked(request)

    def _local(self, choice: ModelChoice) -> Meaning | None:
        """Return what this machine knows by itself."""
        known = self._around.known.get(_key(choice))
        pin = _pin(choice)
        if pin and self._around.store.snapshot(pin) is not None:
            return Meaning(pin, attributes=known.attributes if known else {})
        return Meaning(known.digest, attributes=known.attributes) if known else None

    def _asked(self, request: Request) -> Meaning:
        choice = request.choice
        if self._around.is_offline:
            raise offline_miss(choice)
        if self._answers is None:
            return self._last_known(request, _no_hub(choice))
        try:
            found = self._answers.ask(choice, request.token)
        except ArtifactTransferError as error:
            if not error.retryable:
                raise
            return self._last_known(request, error)
        attributes = _attributes(found.artifact)
        return _checked(choice, Meaning(found.snapshot.digest, found.snapshot, attributes))

    def _last_known(self, request: Request, error: ArtifactTransferError) -> Meaning:
        """Answer for a silent hub with what it said last, and say so; else fail as it did."""
        choice = request.choice
        local = self._local(choice) if self._around.may_use_last_known else None
        if local is None or self._around.store.snapshot(local.digest) is None:
            if isinstance(error, ModelResolutionError):
                raise error
            raise ModelResolutionError(
                f"model {str(choice.target)!r} is not on this machine, and the hub cannot be "
                f"asked for it ({error.args[0]}): check TENSORHUB_URL, or try again",
                provider="tensorhub",
                phase="resolve",
                retryable=True,
                status_code=error.status_code,
                cause_type=error.cause_type,
            ) from error
        tell_last_known(request, local.digest)
        return local._replace(is_last_known=True)

    def _renewed(self, request: Request, digest: str) -> Snapshot | None:
        """Ask for new URLs: who described the model first, then the hub."""
        renewed = request.renew() if request.renew is not None else None
        ref = request.choice.target
        if renewed is not None or self._answers is None or not isinstance(ref, TensorhubRef):
            return renewed
        return self._answers.again(ref, digest, request.token)


def plan_of(model: LocalModel) -> FetchPlan:
    """Return the plan of a model that is here: nothing to do."""
    return FetchPlan(
        identity=model.identity,
        provider=model.provider,
        ref=model.ref,
        digest=model.digest,
        files=tuple(PlannedFile(path, size_of(model.root, (path,)), True) for path in model.files),
    )


def offline_miss(choice: ModelChoice) -> OfflineMissError:
    ref = str(choice.target)
    return OfflineMissError(
        f"model {ref!r} is not on this machine, and nothing is fetched offline: run "
        f"`gen-worker prefetch` while there is a network",
        ref=ref,
        provider=choice.provider,
    )


def _no_hub(choice: ModelChoice) -> ModelResolutionError:
    return ModelResolutionError(
        f"model {str(choice.target)!r} is not on this machine, and no hub is configured to ask for "
        "it: set TENSORHUB_URL, or name a public model with HFRepo (`hf:owner/repo` on the command "
        "line)",
        provider="tensorhub",
        phase="resolve",
    )


def _local_model(choice: ModelChoice, meaning: Meaning, built: Built) -> LocalModel:
    files = files_in(built.path)
    return LocalModel(
        identity=identity(choice.target),
        provider=choice.provider,
        ref=str(choice.target),
        path=load_path(built.path, files, choice.subfolder),
        root=built.path,
        digest=meaning.digest,
        files=files,
        size_bytes=size_of(built.path, files),
        bytes_downloaded=built.bytes_downloaded,
        was_cached=built.was_cached,
        is_last_known=meaning.is_last_known,
        attributes=meaning.attributes,
    )


def _key(choice: ModelChoice) -> str:
    """Return the key of what the hub says; of another provider's model it is not the only word."""
    return key_of(choice) if choice.provider == "tensorhub" else f"hub {key_of(choice)}"


def _is_pinned(choice: ModelChoice) -> bool:
    ref = choice.target
    return isinstance(ref, TensorhubRef) and bool(ref.digest)


def _pin(choice: ModelChoice) -> str:
    """Return the 64 hex digits that name a snapshot; the store's digests are BLAKE3."""
    ref = choice.target
    digest = ref.digest if isinstance(ref, TensorhubRef) else ""
    return digest.removeprefix("blake3:") if digest.startswith("blake3:") else ""


def _checked(choice: ModelChoice, meaning: Meaning) -> Meaning:
    """Refuse another checkpoint than a pinned one; with a flavor the pin may name its group."""
    pin = _pin(choice)
    if pin and not choice.flavor and pin != meaning.digest:
        raise ModelResolutionError(
            f"model {str(choice.target)!r} was resolved to another checkpoint, "
            f"'blake3:{meaning.digest}': the hub or the job is wrong, pin what it says or drop the "
            "digest",
            provider="tensorhub",
            phase="resolve",
        )
    return meaning


def _attributes(artifact: Artifact) -> dict[str, str]:
    told = msgspec.structs.asdict(artifact)
    told["dtype"] = told.pop("quantization")
    return {name: value for name, value in told.items() if value}
