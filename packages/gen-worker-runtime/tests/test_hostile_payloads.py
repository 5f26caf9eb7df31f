"""Whatever a caller sends, a laptop's host runs the call or says what is wrong with the payload."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker import AssetLimits, Clamp, RequestContext, inference_function
from gen_worker.events import Failed, Result
from gen_worker.runtime import Engine, Invocation
from gen_worker.runtime.local import local_ports
from gen_worker.spec import specs_of
from gen_worker.types import Asset, ImageAsset, StoredFile, Tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "/etc/passwd"


class Silent:
    def emit(self, event: object) -> None: ...


class Node(msgspec.Struct):
    file: Asset | None = None
    strength: Annotated[float, Clamp(0, 1)] = 0.0
    next: Node | None = None


class In(msgspec.Struct):
    image: Annotated[ImageAsset | None, AssetLimits(max_bytes=1000, max_pixels=100)] = None
    files: list[Asset | None] = []
    named: dict[str, Node] = {}
    weights: Tensors | None = None
    steps: Annotated[int, Clamp(1, 9)] = 1
    extra: dict[str, Any] = {}
    anything: Any = None


class Out(msgspec.Struct):
    """The handler returns what it got, the way it got it."""

    payload: Any
    paths: list[str]


@inference_function
def hand_back(ctx: RequestContext, payload: In) -> Out:
    nodes = list(payload.named.values())
    for node in nodes:
        nodes += [node.next] if node.next else []
    files: list[StoredFile | None] = [payload.image, *payload.files, payload.weights]
    files += [node.file for node in nodes]
    return Out(payload.extra, [str(file.local_path) for file in files if file and file.local_path])


def engine(directory: str, *, allow_local_files: bool) -> Engine:
    ports = local_ports(
        events=Silent(),
        output_dir=directory,
        allow_local_files=allow_local_files,
        cas_dir=directory,
    )
    return Engine(specs_of(hand_back), ports)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A host whose callers may not name files of its machine."""
    made = engine(str(tmp_path_factory.mktemp("outputs")), allow_local_files=False)
    yield made
    made.close_now()


def call(host: Engine, payload: bytes) -> Result | Failed:
    return host.run(
        Invocation(function="hand-back", payload=payload, request_id="r", result_format="json")
    )


texts = st.sampled_from(["", "x.png", "/dev/zero", "../..", "file:///etc/passwd", "a\x00", SECRET])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
unnamed = st.just({"ref": "", "local_path": SECRET, "url_max_bytes": 10**9})
inline = st.just({"ref": "a.txt", "local_path": SECRET, "inline_bytes": "aGk="})
hostile = st.fixed_dictionaries(
    {"ref": texts},
    optional={
        "local_path": st.just(SECRET),
        "inline_bytes": st.sampled_from(["", "aGk=", "!", "iVBORw0KGgo="]) | scalars,
        "mime_type": st.sampled_from(["image/png", "text/plain", "image/" + "x" * 999]) | scalars,
        "blob_digest": st.sampled_from(["sha256:" + "0" * 64, "blake3:../../x"]) | scalars,
        "url_max_bytes": st.just(10**9),
        "url_max_pixels": scalars,
        "sha256": scalars,
        "format": scalars,
    },
)
files = st.one_of(unnamed, unnamed, inline, hostile)
nodes = st.recursive(
    st.fixed_dictionaries({"file": files}, optional={"strength": scalars}),
    lambda inner: st.fixed_dictionaries({"file": files, "next": inner}),
    max_leaves=4,
)
payloads = st.fixed_dictionaries(
    {},
    optional={
        "image": unnamed | hostile,
        "files": st.lists(files, max_size=3),
        "named": st.dictionaries(texts, nodes, max_size=2),
        "weights": unnamed | hostile,
        "steps": st.integers() | scalars,
        "extra": st.dictionaries(texts, files | nodes, max_size=2),
        "anything": files | scalars,
    },
)


anywhere = st.dictionaries(
    st.sampled_from(["image", "files", "named", "weights", "steps", "extra", "_models"]),
    st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner)),
)


@given(payload=payloads | payloads | anywhere | scalars)
def test_any_payload_is_run_or_refused_and_brings_no_path(closed: Engine, payload: Any) -> None:
    outcome = call(closed, json.dumps(payload).encode())
    if isinstance(outcome, Failed):
        kinds = ("validation", "artifact_transfer")  # the latter: a blob that is not here
        assert outcome.failure.error_type in kinds, outcome.failure
        assert outcome.failure.origin == "input"
        assert SECRET not in outcome.failure.message
    else:
        for path in msgspec.json.decode(outcome.value)["paths"]:
            assert "gen-worker-inputs-" in path
            assert not os.path.exists(path), "inputs are gone with their request"


def test_a_local_path_is_believed_nowhere(closed: Engine) -> None:
    given_ = {"ref": "", "local_path": SECRET}
    payload = {
        "image": given_,
        "files": [given_, None],
        "named": {"a": {"file": given_, "next": {"file": given_, "next": {"file": given_}}}},
        "weights": given_,
    }
    outcome = call(closed, json.dumps(payload).encode())
    assert isinstance(outcome, Result)
    assert msgspec.json.decode(outcome.value)["paths"] == []


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_payload_or_refused(closed: Engine, payload: bytes) -> None:
    outcome = call(closed, payload)
    assert isinstance(outcome, Result) or outcome.failure.error_type == "validation"


@pytest.mark.parametrize("depth", [90, 900, 100_000])
@pytest.mark.parametrize(
    ("opening", "innermost", "closing"),
    [
        ('{"named":{"a":', "{}", "}}"),
        ('{"anything":[', "1", "]}"),
        ('{"extra":{"a":', "1", "}}"),
    ],
)
def test_a_deep_payload_is_run_or_refused(
    closed: Engine, opening: str, innermost: str, closing: str, depth: int
) -> None:
    again, end = {"[": ("[", "]"), ":": ('{"next":', "}")}[opening[-1]]
    text = opening + again * depth + innermost + end * depth + closing
    outcome = call(closed, text.encode())
    assert isinstance(outcome, Result) or outcome.failure.error_type == "validation"


def test_where_payloads_may_name_files_a_local_path_is_still_not_believed(
    tmp_path: Any,
) -> None:
    (tmp_path / "mine.txt").write_text("x")
    given_ = {"ref": str(tmp_path / "mine.txt"), "local_path": SECRET, "url_max_bytes": 10**9}
    payload = {"files": [given_], "named": {"a": {"file": given_, "next": {"file": given_}}}}
    host = engine(str(tmp_path / "outputs"), allow_local_files=True)
    outcome = call(host, json.dumps({**payload, "extra": {"a": given_}}).encode())
    host.close_now()
    assert isinstance(outcome, Result)
    answer = msgspec.json.decode(outcome.value)
    assert answer["paths"] == [str(tmp_path / "mine.txt")] * 3
    assert answer["payload"] == {"a": given_}, "what has no type is nobody's file"
