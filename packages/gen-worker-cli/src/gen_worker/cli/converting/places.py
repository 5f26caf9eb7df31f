"""Where a model comes from and where outputs go: folders, or refs."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.cli.failures import UsageError
from gen_worker.errors import ValidationError
from gen_worker.models.choice import ModelChoice
from gen_worker.models.refs import TensorhubRef, parse_prefixed_ref

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.cancel import CancelToken
    from gen_worker.cli.hub_progress import TransferBar

__all__ = ["HeldSource", "destination_of", "held_source"]

_FILES = (".safetensors", ".gguf", ".ckpt", ".bin", ".pt", ".pth", ".sft", ".json")


class HeldSource(NamedTuple):
    """A model that is here, and what it is called elsewhere."""

    path: str
    ref: str = ""
    """Empty for a folder or file of somebody's own."""
    revision: str = ""
    """What exactly the ref means: a checkpoint, a commit or a version."""
    repo: str = ""
    """`owner/repo` where it is of the hub."""


@contextmanager
def held_source(
    text: str, *, is_offline: bool, bar: TransferBar, token: CancelToken
) -> Iterator[HeldSource]:
    """Yield a model; one that is named by a ref is fetched, and stays meanwhile.

    Raises:
        UsageError: It is neither something that is here nor a ref.
        ModelResolutionError: It cannot be had.
    """
    path = os.path.expanduser(text)
    is_file = ":" not in text and text.lower().endswith(_FILES)  # and not a repository called so
    if os.path.exists(path) or text.startswith((".", "/", "~")) or is_file:
        yield HeldSource(os.path.abspath(path))
        return
    try:
        ref = parse_prefixed_ref(text)
        choice = ModelChoice.of(ref)
    except ValidationError as error:
        raise UsageError(
            f"{text!r} is not here, and it is no ref: give a path that exists, or a ref such as "
            "'hf:owner/repo' or 'owner/repo:tag'"
        ) from error
    from gen_worker.models.assembly import open_store
    from gen_worker.models.settings import load_model_settings
    from gen_worker.models.sources import open_sources

    settings = load_model_settings()
    store = open_store(settings=settings)
    with open_sources(store, settings, may_resolve=True, is_offline=is_offline) as sources:
        with bar.showing(), sources.hold(choice, token=token, watch=bar.fetched) as model:
            repo = f"{ref.owner}/{ref.repo}" if isinstance(ref, TensorhubRef) else ""
            yield HeldSource(model.path, model.ref, model.digest, repo)


def destination_of(text: str) -> TensorhubRef | None:
    """Return the ref that outputs are published to; None for a folder.

    A ref has a tag, or begins with `hub:`; everything else is a folder.
    """
    if text.startswith((".", "/", "~")) or ":" not in text:
        return None
    try:
        ref = parse_prefixed_ref(text)
    except ValidationError as error:
        raise UsageError(f"--out {text!r} is no ref: {error}") from error
    if not isinstance(ref, TensorhubRef) or ref.digest or ref.flavor:
        raise UsageError(f"--out {text!r}: outputs are published to owner/repo:tag of the hub")
    return ref
