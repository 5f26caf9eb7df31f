"""Reading of a repository on Hugging Face what its classification depends on; no weights."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.cancel import CancelToken
from gen_worker.conversion.classify import ClassificationInputs, classify
from gen_worker.conversion.classify.refusals import TooLargeRefusal
from gen_worker.conversion.classify.rules import DEFAULT_PREFERENCE, strategy_of
from gen_worker.conversion.classify.selecting import folders_of
from gen_worker.conversion.classify.values import SafetensorsFacts, safetensors_facts
from gen_worker.errors import ArtifactTransferError, ValidationError
from gen_worker.models.sources.huggingface.remote import refusal_of
from gen_worker.models.sources.huggingface.weights import is_index, weight_sets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.conversion.classify import Classification
    from gen_worker.models.sources.huggingface.remote import Remote

__all__ = ["Inspected", "inspect_repository", "preference_for", "split_repo"]

_REPO = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?::([^\s:]+))?")
_DOCUMENTS = ("model_index.json", "config.json", "adapter_config.json", "modules.json")
_CARD = "README.md"
_FRONT = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t\r]*$", re.DOTALL | re.MULTILINE)
_HALVES = ("bf16", "fp16")
_MAX_JSON_BYTES = 16 << 20


class Inspected(NamedTuple):
    """One commit of a repository."""

    repo_id: str
    commit: str
    inputs: ClassificationInputs
    classification: Classification
    digests: Mapping[str, str] = {}
    """Of the files as the site lists them: `sha256:` or `git-sha1:` and hex digits, by path."""


def split_repo(text: str, revision: str | None = None) -> tuple[str, str]:
    """Return the repository and its revision, empty for the main branch.

    Args:
        text: `owner/repo` or `owner/repo:revision`.
        revision: Counts more than the one in `text`.

    Raises:
        ValidationError: It is neither; URLs are no source.
    """
    match = _REPO.fullmatch(text.strip())
    if match is None:
        raise ValidationError(
            f"{text!r:.200} is no repository of Hugging Face: write 'owner/repo' or "
            "'owner/repo:revision'; URLs are not taken"
        )
    return match[1], (revision or match[2] or "").strip()


def preference_for(outputs: Sequence[str]) -> tuple[str, ...]:
    """Return which precisions of a source serve outputs best, the best first.

    What is asked for needs no cast, and casts start from the most bits.
    """
    asked = {{"f32": "fp32", "f16": "fp16"}.get(one, one) for one in outputs}
    if len(asked) == 1 and asked <= set(_HALVES):
        first = asked.pop()
        return first, "fp32", *(one for one in _HALVES if one != first)
    if "fp32" in asked or asked >= set(_HALVES):
        return "fp32", *_HALVES
    return DEFAULT_PREFERENCE


def inspect_repository(
    remote: Remote,
    repo: str,
    *,
    revision: str | None = None,
    preference: Sequence[str] = DEFAULT_PREFERENCE,
    gguf_quant: str = "",
    allow_large: bool = False,
    token: CancelToken | None = None,
) -> Inspected:
    """Find out what a repository is at one commit; blocks.

    Raises:
        RepoRefusal: It is not converted.
        ModelResolutionError: It cannot be asked for, or is not there.
    """
    repo_id, wanted = split_repo(repo, revision)
    token = token or CancelToken()
    commit = remote.commit_of(repo_id, wanted, token)
    listed = remote.files_of(repo_id, commit, token)
    reader = _Reader(remote, repo_id, commit, token)
    with_documents = reader.documents({file.path: file.size_bytes for file in listed})
    inputs = reader.headers(with_documents)
    found = classify(inputs, preference=preference, gguf_quant=gguf_quant, allow_large=allow_large)
    return Inspected(repo_id, commit, inputs, found, {file.path: file.digest for file in listed})


class _Reader(NamedTuple):
    """Reads small parts of the files of one commit."""

    remote: Remote
    repo_id: str
    commit: str
    token: CancelToken

    def documents(self, sizes: Mapping[str, int]) -> ClassificationInputs:
        wanted = [path for path in sizes if path in _DOCUMENTS or is_index(path)]
        large = next((path for path in wanted if sizes[path] > _MAX_JSON_BYTES), None)
        if large is not None:
            raise TooLargeRefusal(
                f"file {large!r} of model {self.repo_id!r} has {sizes[large]} bytes, at most "
                f"{_MAX_JSON_BYTES} of JSON are read: choose another repository",
                ref=self.repo_id,
                files=[large],
            )
        documents = {path: self._asked(self.remote.document, path) for path in wanted}
        has_card = 0 < sizes.get(_CARD, 0) <= _MAX_JSON_BYTES
        card = front_matter(self._asked(self.remote.content, _CARD)) if has_card else {}
        return ClassificationInputs(
            sizes=sizes, ref=self.repo_id, documents=documents, card=card, headers={}
        )

    def headers(self, inputs: ClassificationInputs) -> ClassificationInputs:
        """Read the headers that decide: of a lone file's tensors, and between precisions."""
        known = inputs
        largest = inputs.largest_root
        if largest:
            known = self._with_headers(known, [largest])
        strategy = strategy_of(known)
        probes: list[str] = []
        for folder in folders_of(known, strategy):
            here = [path for path in known.sizes if path.rpartition("/")[0] == folder]
            try:
                sets = weight_sets(here, known.documents, known.ref)
            except ArtifactTransferError:  # classification says what is missing
                continue
            probes += [one.probe for one in sets] if len(sets) > 1 else []
        return self._with_headers(known, probes)

    def _with_headers(
        self, inputs: ClassificationInputs, paths: Sequence[str]
    ) -> ClassificationInputs:
        import msgspec

        found: dict[str, SafetensorsFacts] = dict(inputs.headers)
        for path in paths:
            if path not in found:
                found[path] = safetensors_facts(self._asked(self.remote.header, path))
        return msgspec.structs.replace(inputs, headers=found)

    def _asked(self, read: Callable[..., Any], path: str) -> Any:
        try:
            return read(self.repo_id, self.commit, path, self.token)
        except ArtifactTransferError as error:
            status = error.status_code or 0
            if status in (401, 403, 404):
                is_gated = b"gated" in getattr(error, "body", b"").lower()
                raise refusal_of(
                    self.repo_id, status, self.remote.has_token, is_gated=is_gated
                ) from error
            raise


def front_matter(text: bytes) -> dict[str, Any]:
    """Return what a model card begins with; empty when it is nothing that can be read."""
    found = _FRONT.match(text.decode("utf-8", "replace"))
    if found is None:
        return {}
    try:
        import yaml  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:  # it comes with the library that lists repositories
        return {}
    try:
        value = yaml.safe_load(found[1])
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
