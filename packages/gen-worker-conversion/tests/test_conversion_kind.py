"""Jobs written with `training_function`, run through the kinds this package publishes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.context import ConversionContext, DatasetContext, TrainingContext
from gen_worker.conversion import DestinationRepo, ProducedFlavor, training_function
from gen_worker.errors import RetryableError
from gen_worker.events import Failed
from gen_worker.kinds import kind_named
from gen_worker.runtime import Engine, Invocation
from gen_worker.runtime.local import JsonLineEvents, local_ports
from gen_worker.spec import specs_of

if TYPE_CHECKING:
    from collections.abc import Callable


class Source:
    """As the conversion package is going to build it: from a directory of weights."""

    def __init__(self, path: str, *, attributes: dict[str, Any], ref: str) -> None:
        self.path = Path(path)
        self.attributes = attributes
        self.ref = ref


class Spec(msgspec.Struct):
    scheme: str


@training_function(kind="quantization")
def quantize(
    ctx: ConversionContext,
    source: Source,
    specs: list[Spec],
    destination: DestinationRepo,
    suffix: str = "",
) -> list[ProducedFlavor]:
    produced = []
    for spec in specs:
        path = ctx.mktemp() / f"{spec.scheme}{suffix}.safetensors"
        path.write_bytes((source.path / "model.safetensors").read_bytes()[: len(spec.scheme)])
        produced.append(ProducedFlavor(path, {"quant_method": spec.scheme}, flavor=spec.scheme))
    ctx.log(f"for {destination.ref}")
    return produced


@training_function(kind="dataset-generation")
def prompts(ctx: DatasetContext, count: int = 2) -> list[ProducedFlavor]:
    root = ctx.mktemp() / "prompts"
    root.mkdir()
    (root / "dataset_info.json").write_text('{"features": {"prompt": "string"}}')
    (root / "prompts.jsonl").write_text('{"prompt": "cat"}\n' * count)
    return [ProducedFlavor(root)]


class Job:
    """One job, run as `gen-worker run` does."""

    def __init__(
        self,
        function: Callable[..., Any],
        payload: dict[str, Any],
        output_dir: Path,
        **differs: Any,
    ) -> None:
        stderr = io.StringIO()
        ports = local_ports(events=JsonLineEvents(stderr), output_dir=str(output_dir))
        ports = msgspec.structs.replace(ports, **differs)
        engine = Engine(specs_of(function), ports)
        outcome = engine.run(
            Invocation(
                function=function.__name__,
                payload=msgspec.json.encode(payload),
                request_id="r",
                job_id="j",
            )
        )
        engine.close_now()
        self.failure = outcome.failure if isinstance(outcome, Failed) else None
        self.summary: dict[str, Any] = {} if isinstance(outcome, Failed) else outcome.value
        self.lines = [json.loads(line) for line in stderr.getvalue().splitlines()]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    (root / "model.safetensors").write_bytes(b"0123456789")
    return root


def test_a_conversion_runs_on_a_laptop(tmp_path: Path, weights: Path) -> None:
    job = Job(
        quantize,
        {
            "source": {"ref": str(weights)},
            "destination": {"ref": "acme/flux", "tags": ["prod"]},
            "specs": [{"scheme": "nf4"}, {"scheme": "int8"}],
            "suffix": "-q",
        },
        tmp_path / "out",
    )

    flavors = job.summary["flavors"]
    assert [flavor["flavor"] for flavor in flavors] == ["nf4", "int8"]
    stored = [Path(flavor["files"][0]["local_path"]) for flavor in flavors]
    assert [path.name for path in stored] == ["nf4-q.safetensors", "int8-q.safetensors"]
    assert [path.read_bytes() for path in stored] == [b"012", b"0123"]
    assert job.summary["published"]["stubbed"]
    log, stub = job.lines
    assert log["payload"]["message"] == "for acme/flux"
    plan = stub["would_publish"]
    assert plan["relationship_kind"] == "quantization"
    assert plan["source_repo"] == str(weights)
    assert plan["destination_repo_tags"] == ["prod"]
    assert len(plan["metadata"]["checkpoint_flavors"]) == 2


def test_a_source_that_is_not_here_is_named(tmp_path: Path) -> None:
    payload = {
        "source": {"ref": "acme/flux"},
        "destination": {"ref": "a/b"},
        "specs": [{"scheme": "nf4"}],
    }

    failure = Job(quantize, payload, tmp_path).failure

    assert failure is not None
    assert "source 'acme/flux' is not on this machine" in failure.message
    assert failure.exit_code == 3


@pytest.mark.parametrize("missing", ["source", "destination"])
def test_a_job_without_its_reserved_fields_is_refused(
    tmp_path: Path, weights: Path, missing: str
) -> None:
    payload: dict[str, Any] = {
        "source": {"ref": str(weights)},
        "destination": {"ref": "a/b"},
        "specs": [],
    }
    del payload[missing]

    failure = Job(quantize, payload, tmp_path).failure

    assert failure is not None
    assert failure.message == f"the payload lacks '{missing}'"
    assert (failure.error_type, failure.path) == ("validation", f"$.{missing}")


def test_a_dataset_is_made_on_a_laptop(tmp_path: Path) -> None:
    job = Job(prompts, {"destination": {"ref": "acme/prompts"}, "count": 3}, tmp_path)

    assert job.summary["published"]["name"] == "prompts"
    (stub,) = job.lines
    assert stub["kind"] == "publish_dataset_revision.stubbed"
    assert stub["would_publish"]["features_json"] == {"prompt": "string"}
    assert job.summary["flavors"][0]["files"][1]["size_bytes"] == 3 * 18


class Options(msgspec.Struct, forbid_unknown_fields=True):
    rank: int
    note: str = ""


SEEN: list[Any] = []


@training_function
def tune(
    ctx: TrainingContext,
    source: Source,
    payload: Options,
    teacher: Source | None = None,
    bits: int = 4,
) -> list[ProducedFlavor]:
    SEEN[:] = [type(ctx), payload, teacher and teacher.path, bits]
    return []


def test_a_job_gets_its_context_other_models_and_the_whole_payload(
    tmp_path: Path, weights: Path
) -> None:
    source, here = {"ref": str(weights)}, {"destination": {"ref": "a/b"}}
    given = {"source": source, **here, "rank": 8, "teacher": str(weights), "bits": 2}
    assert Job(tune, given, tmp_path).failure is None
    assert [TrainingContext, Options(8), weights, 2] == SEEN

    own = {"source": source, **here, "payload": {"rank": 9, "note": "own"}}
    assert Job(tune, own, tmp_path).failure is None
    assert [TrainingContext, Options(9, "own"), None, 4] == SEEN


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({}, "$"),
        ({"rank": "x"}, "$.rank"),
        ({"rank": 1, "rnak": 2}, "$"),
        ({"payload": {"rank": "x"}}, "$.payload.rank"),
    ],
)
def test_mistakes_of_a_whole_payload_are_named_where_they_are(
    tmp_path: Path, weights: Path, given: dict[str, Any], path: str
) -> None:
    failure = Job(tune, {"source": {"ref": str(weights)}, **given}, tmp_path).failure
    assert failure is not None
    assert (failure.error_type, failure.path) == ("validation", path), failure.message


@training_function(kind="pruning")
def fail(ctx: ConversionContext, source: Source) -> list[ProducedFlavor]:
    raise LookupError(str(ctx.mktemp()))


def test_a_failed_job_leaves_no_scratch_space(tmp_path: Path, weights: Path) -> None:
    failure = Job(fail, {"source": {"ref": str(weights)}}, tmp_path).failure

    assert failure is not None
    scratch = failure.detail.rpartition("LookupError: ")[2].strip()
    assert Path(scratch).is_absolute()
    assert not Path(scratch).parent.exists()


@training_function(kind="pruning")
def restartable(ctx: ConversionContext, source: Source, end: str) -> list[ProducedFlavor]:
    (ctx.checkpoint_dir(key="k") / "state").write_text("x")
    if end == "busy":
        raise RetryableError("later")
    if end == "shutdown":
        ctx.cancel_token.cancel("shutdown")
    if end == "caller":
        ctx.cancel()
    ctx.raise_if_canceled()
    if end == "wrong":
        raise ValueError("never")
    return []


@pytest.mark.parametrize(
    ("end", "is_kept"),
    [("done", False), ("wrong", False), ("caller", False), ("busy", True), ("shutdown", True)],
)
def test_a_jobs_directory_stays_only_while_another_attempt_may_come(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, end: str, is_kept: bool
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    payload = {"source": {"ref": str(weights)}, "destination": {"ref": "a/b"}, "end": end}
    state = tmp_path / "txform-persistent" / "j" / "k" / "state"
    job = Job(restartable, payload, tmp_path / "out", repeats_within_s=0.0)
    assert (job.failure is None) == (end == "done")
    assert state.exists() == is_kept
    Job(restartable, payload, tmp_path / "out")  # a laptop makes no further attempt
    assert not state.exists()


def test_the_kinds_are_published_as_entry_points() -> None:
    conversion, dataset = kind_named("conversion"), kind_named("dataset")

    assert (conversion.name, dataset.name) == ("conversion", "dataset")
    ports = local_ports(events=JsonLineEvents(io.StringIO()))
    assert type(conversion.context(ports, request_id="r")) is ConversionContext
    assert type(dataset.context(ports, request_id="r")) is DatasetContext
