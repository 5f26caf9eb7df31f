"""What conversions, trainings and datasets are given, and what becomes of what they produce."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from gen_worker.context import ConversionContext, DatasetContext, TrainingContext
from gen_worker.context.jobs import DatasetKind, JobKind, describe_job
from gen_worker.context.lineage import relationship_of
from gen_worker.context.local import LocalOutputs, run_blocking
from gen_worker.context.produced import label_of, produced_flavors
from gen_worker.errors import ArtifactTransferError, ModelResolutionError, ValidationError
from gen_worker.events import Emitted, Telemetry
from gen_worker.ports import Ports
from gen_worker.spec import Call, FunctionSpec, ProvidedParameter
from gen_worker.types import (
    Asset,
    DatasetRef,
    DestinationRepo,
    OutputSpec,
    ProducedFlavor,
    SourceRepo,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

CONVERSION = JobKind("conversion", ConversionContext)
DATASET = DatasetKind("dataset", DatasetContext)
DIGEST = "cd" * 32


class Hub:
    def __init__(self, *, fails: bool = False) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.fails = fails

    async def open(self, destination: str, *, request_id: str, **spec: Any) -> object:
        self.calls.append(("open", (destination, spec)))
        return destination

    async def put(self, session: object, path: str, source: Path) -> Mapping[str, Any]:
        self.calls.append(("put", path))
        return {"ref": path, "blake3": DIGEST, "size_bytes": source.stat().st_size}

    async def finalize(self, session: object, **manifest: Any) -> Mapping[str, Any]:
        self.calls.append(("finalize", manifest))
        if self.fails:
            raise ArtifactTransferError("the hub is down", phase="finalize")
        return {"ok": True, "checkpoint_ids": ["c1"]}

    async def abort(self, session: object) -> None:
        self.calls.append(("abort", session))

    def all(self, name: str) -> list[Any]:
        return [argument for call, argument in self.calls if call == name]


class Files(LocalOutputs):
    """Outputs, and directories that are inputs."""

    async def find_directory(self, ref: str, *, request_id: str, **chosen: Any) -> str | None:
        return ref if Path(ref).is_dir() else None


class Recorder:
    def __init__(self) -> None:
        self.events: list[Telemetry] = []

    def emit(self, event: Telemetry) -> None:
        self.events.append(event)


class World:
    """One job on one host."""

    def __init__(
        self,
        tmp_path: Path,
        payload: dict[str, Any],
        *,
        kind: JobKind = CONVERSION,
        hub: Hub | None = None,
        **spec: Any,
    ) -> None:
        self.outputs = tmp_path / "outputs"
        self.recorder = Recorder()
        self.kind = kind
        ports = Ports(
            files=cast("Any", Files(str(self.outputs))),
            events=self.recorder,
            models=cast("Any", None),
            publisher=hub,
            run=run_blocking,
        )
        function = FunctionSpec(
            name="f",
            registered_name="f",
            python_name="f",
            kind=kind.name,
            decorator="x",
            module="m",
            qualname="f",
            function=len,
            shape="sync",
            payload_type=None,
            **{"parameters": (), **spec},
        )
        self.call = Call(spec=function, request_id="r", raw_payload=payload)
        self.ctx = kind.context(ports, request_id="r", job_id="j")
        run_blocking(kind.before(self.call, self.ctx))

    def provide(self, name: str, annotation: Any) -> Any:
        return self.kind.provide(ProvidedParameter(name, annotation), self.ctx)

    def finish(self, result: Any) -> dict[str, Any]:
        return run_blocking(self.kind.finish(self.call, self.ctx, result))


# Reserved payload fields


def test_the_context_knows_source_and_destination(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        {"source": {"ref": "a/b"}, "destination": {"ref": "c/d", "tags": ["prod"]}, "x": 1},
    )

    assert world.ctx.source == {"ref": "a/b"}
    assert world.ctx.destination == {"ref": "c/d", "tags": ["prod"]}
    assert world.ctx.execution_hints == {"job_id": "j", "destination_repo": "c/d"}
    assert world.ctx.source_path is None


def test_a_source_that_is_a_local_directory_is_there(tmp_path: Path) -> None:
    assert World(tmp_path, {"source": {"ref": str(tmp_path)}}).ctx.source_path == str(tmp_path)
    assert World(tmp_path, {"source": str(tmp_path)}).ctx.source_path == str(tmp_path)


def test_the_older_destination_field_counts_where_the_newer_is_missing() -> None:
    older, both, none = (ConversionContext("t") for _ in range(3))
    describe_job(older, {"destination_repo": "a/b"})
    describe_job(both, {"destination_repo": "a/b", "destination": {"ref": "c/d"}})
    describe_job(none, {"destination": 3, "source": [], "destination_repo": ""})

    assert older.destination == {"ref": "a/b"}
    assert both.destination == {"ref": "c/d"}
    assert (none.destination, none.source, none.execution_hints) == ({}, {}, {})


def test_hints_of_the_host_win() -> None:
    ctx = ConversionContext("t", job_id="j", hints={"job_id": "host", "output_format": "inline"})
    describe_job(ctx, {})

    assert ctx.execution_hints == {"job_id": "host", "output_format": "inline"}


class Spec(msgspec.Struct):
    scheme: str
    bits: int = 4


class Source:
    """Made as the conversion package makes its own."""

    def __init__(self, path: str, *, attributes: dict[str, Any], ref: str) -> None:
        self.facts = (path, attributes, ref)


class Dataset:
    def __init__(self, ref: str, split: str, path: str, attributes: dict[str, Any]) -> None:
        self.facts = (ref, split, path, attributes)


@pytest.mark.parametrize(
    ("name", "annotation", "expected"),
    [
        ("source", SourceRepo, SourceRepo(ref="a/b", checkpoint_id="7")),
        ("source", dict[str, Any], {"ref": "a/b", "checkpoint_id": "7"}),
        ("destination", DestinationRepo, DestinationRepo(ref="c/d", tags=["x"])),
        ("destination", dict, {"ref": "c/d", "tags": ["x"]}),
        ("specs", list[Spec], [Spec("nf4"), Spec("fp8", 8)]),
        ("outputs", list[OutputSpec], [OutputSpec(attributes={"dtype": "bf16"})]),
        ("datasets", list[DatasetRef], []),
    ],
)
def test_reserved_parameters_arrive_typed(
    tmp_path: Path, name: str, annotation: Any, expected: Any
) -> None:
    world = World(
        tmp_path,
        {
            "source": {"ref": "a/b", "checkpoint_id": "7"},
            "destination": {"ref": "c/d", "tags": ["x"]},
            "specs": [{"scheme": "nf4"}, {"scheme": "fp8", "bits": 8}],
            "outputs": [{"attributes": {"dtype": "bf16"}}],
        },
    )

    assert world.provide(name, annotation) == expected


class Style(msgspec.Struct):
    image: Asset


def test_a_local_path_in_a_reserved_field_is_not_believed(tmp_path: Path) -> None:
    given = {"ref": "x", "local_path": "/etc/passwd", "url_max_bytes": 5}
    (style,) = World(tmp_path, {"specs": [{"image": given}]}).provide("specs", list[Style])
    assert style.image == Asset("x")


@pytest.mark.parametrize("name", ["source", "destination"])
@pytest.mark.parametrize("ref", [5, ["a/b"], {"a": "b"}])
def test_a_reference_that_is_no_text_is_the_callers_mistake(
    tmp_path: Path, name: str, ref: Any
) -> None:
    with pytest.raises(ValidationError, match=f"{name}.ref must be text") as caught:
        World(tmp_path, {name: {"ref": ref}})
    assert caught.value.path == f"$.{name}.ref"


def test_classes_of_the_conversion_package_are_made_from_directories(tmp_path: Path) -> None:
    here = str(tmp_path)
    world = World(
        tmp_path,
        {
            "source": {"ref": here, "attributes": {"dtype": "bf16"}},
            "datasets": [{"ref": here}, {"ref": here, "split": "test", "attributes": {"n": 1}}],
        },
    )

    assert world.provide("source", Source).facts == (here, {"dtype": "bf16"}, here)
    assert [dataset.facts for dataset in world.provide("datasets", list[Dataset])] == [
        (here, "train", here, {}),
        (here, "test", here, {"n": 1}),
    ]


def test_models_besides_the_source_come_from_their_fields(tmp_path: Path) -> None:
    here = str(tmp_path)
    parameters = (ProvidedParameter("teacher", Source), ProvidedParameter("judge", Source))
    payload = {"teacher": {"ref": here, "attributes": {"dtype": "bf16"}}, "judge": here}
    world = World(tmp_path, payload, parameters=parameters)

    assert world.provide("teacher", Source).facts == (here, {"dtype": "bf16"}, here)
    assert world.provide("judge", Source | None).facts == (here, {}, here)
    away = World(tmp_path, {"teacher": "a/b"}, parameters=parameters)
    with pytest.raises(ModelResolutionError, match="teacher 'a/b' is not on this machine"):
        away.provide("teacher", Source)
    with pytest.raises(ValidationError, match="lacks 'judge'"):
        away.provide("judge", Source)
    with pytest.raises(ValidationError, match=r"teacher.ref must be text"):
        World(tmp_path, {"teacher": {"ref": 3}}, parameters=parameters)


def test_a_default_stands_in_for_what_the_payload_lacks(tmp_path: Path) -> None:
    world = World(tmp_path, {})
    given = [Spec("nf4")]
    parameter = ProvidedParameter("specs", list[Spec], given)

    provided = world.kind.provide(parameter, world.ctx)

    assert provided == given
    assert provided is not given


@pytest.mark.parametrize(
    ("kind", "wanted", "made"),
    [
        (CONVERSION, None, ConversionContext),
        (CONVERSION, ConversionContext, ConversionContext),
        (CONVERSION, TrainingContext, TrainingContext),
        (CONVERSION, DatasetContext, DatasetContext),
        (JobKind("training", TrainingContext), ConversionContext, TrainingContext),
        (DatasetKind("dataset", DatasetContext), ConversionContext, DatasetContext),
    ],
)
def test_a_function_gets_the_context_it_asks_for(kind: JobKind, wanted: Any, made: type) -> None:
    ports: Any = None
    ctx = kind.context(ports, wanted=wanted, request_id="r")
    assert type(ctx) is made
    for name in ("mktemp", "open_output_writer", "read_repo_metadata", "checkpoint_dir"):
        assert callable(getattr(ctx, name))


def test_a_source_elsewhere_cannot_be_opened(tmp_path: Path) -> None:
    world = World(tmp_path, {"source": {"ref": "a/b"}})

    with pytest.raises(ModelResolutionError, match="'a/b' is not on this machine"):
        world.provide("source", Source)


def test_a_missing_reserved_field_is_the_callers_mistake(tmp_path: Path) -> None:
    world = World(tmp_path, {})

    with pytest.raises(ValidationError, match="lacks 'source'") as caught:
        world.provide("source", SourceRepo)
    assert caught.value.path == "$.source"
    assert world.provide("source", SourceRepo | None) is None


def test_a_wrong_reserved_field_is_the_callers_mistake(tmp_path: Path) -> None:
    world = World(tmp_path, {"specs": [{"scheme": 3}]})

    with pytest.raises(ValidationError, match=r"specs: Expected `str`, got `int` - at") as caught:
        world.provide("specs", list[Spec])
    assert caught.value.path == "$.specs"


@pytest.mark.parametrize(
    ("policy", "scheme", "datasets", "is_refused"),
    [
        ({"nf4": "unsupported"}, "nf4", [{"ref": "d"}], True),
        ({"*": "unsupported"}, "nf4", [{"ref": "d"}], True),
        ({"*": "unsupported", "nf4": "beneficial"}, "nf4", [{"ref": "d"}], False),
        ({"nf4": "unsupported"}, "nf4", [], False),
        ({"nf4": "unsupported"}, "fp8", [{"ref": "d"}], False),
        (None, "nf4", [{"ref": "d"}], False),
    ],
)
def test_datasets_for_a_scheme_without_calibration_are_refused(
    tmp_path: Path, policy: Any, scheme: str, datasets: Any, is_refused: bool
) -> None:
    payload = {"specs": [{"scheme": scheme}], "datasets": datasets}
    if not is_refused:
        World(tmp_path, payload, calibration=policy)
        return
    with pytest.raises(ValidationError, match="cannot be calibrated") as caught:
        World(tmp_path, payload, calibration=policy)
    assert caught.value.path == "$.datasets"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"destination": {"ref": "model"}}, "destination.ref must be 'owner/name'"),
        ({"destination": "acme/model:prod"}, "without a tag"),
        ({"destination_repo": "a/b/c"}, "destination.ref must be 'owner/name'"),
        ({"destination": {"ref": "acme/no"}}, "the token does not allow 'acme/no'"),
        ({"outputs": [{}, {"attributes": {"_size": 1}}]}, r"artifact 1 has the attributes"),
    ],
)
def test_what_cannot_be_published_is_refused_before_there_is_work_in_it(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    class Strict(Hub):
        async def check_destination(self, repo: str, *, request_id: str) -> None:
            self.calls.append(("check", repo))
            if repo == "acme/no":
                raise ValidationError("the token does not allow 'acme/no'")

    with pytest.raises(ValidationError, match=message):
        World(tmp_path, fields, hub=Strict())
    hub = Strict()
    World(tmp_path, {"destination": {"ref": " acme/yes "}}, hub=hub)
    World(tmp_path, {"destination": {"ref": "acme/rows"}}, hub=hub, kind=DATASET)
    assert hub.calls == [("check", "acme/yes")]  # rows are no model


# What is produced


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A produced directory of three files."""
    root = tmp_path / "bf16-model"
    (root / "unet").mkdir(parents=True)
    (root / "model_index.json").write_bytes(b"{}")
    (root / "unet/b.safetensors").write_bytes(b"bb")
    (root / "unet/a.safetensors").write_bytes(b"a")
    return root


def test_artifacts_are_published_as_one_revision(tmp_path: Path, weights: Path) -> None:
    hub = Hub()
    payload = {
        "source": {"ref": "a/b", "checkpoint_id": "s7"},
        "destination": {"ref": "c/d", "tags": ["prod"]},
    }
    world = World(tmp_path, payload, hub=hub, job_kind="quantization:nf4")

    summary = world.finish(
        [
            ProducedFlavor(weights, {"quant_method": "nf4", "flavor": "nf4"}),
            ProducedFlavor(weights / "model_index.json", flavor="config", flavors=["x"]),
        ]
    )

    assert hub.all("open") == [("c/d", {})]
    assert hub.all("put") == [
        "jobs/j/outputs/bf16-model/model_index.json",
        "jobs/j/outputs/bf16-model/unet/a.safetensors",
        "jobs/j/outputs/bf16-model/unet/b.safetensors",
        "jobs/j/outputs/model_index.json",
    ]
    manifest = hub.all("finalize")[0]
    assert manifest["destination_repo_tags"] == ["prod"]
    assert (manifest["source_repo"], manifest["source_version_id"]) == ("a/b", "s7")
    assert manifest["relationship_kind"] == "quantization"
    first, second = manifest["metadata"]["checkpoint_flavors"]
    assert (first["flavor"], first["flavors"]) == ("nf4", ["nf4"])
    assert first["metadata"] == {"quant_method": "nf4"}
    assert first["snapshot_manifest"][1] == {
        "path": "unet/a.safetensors",
        "digest": f"blake3:{DIGEST}",
        "size_bytes": 1,
    }
    assert second["flavors"] == ["config", "x"]
    assert summary["published"] == {"ok": True, "checkpoint_ids": ["c1"]}
    assert summary["destination"] == "c/d"
    assert [flavor["flavor"] for flavor in summary["flavors"]] == ["nf4", "config"]
    assert not world.ctx.has_open_revisions


def test_the_summary_is_plain_json(tmp_path: Path, weights: Path) -> None:
    summary = World(tmp_path, {}).finish([ProducedFlavor(weights, {"path": weights, "n": {1: 2}})])

    assert msgspec.json.decode(msgspec.json.encode(summary)) == summary
    assert summary["flavors"][0]["attributes"]["path"] == str(weights)


def test_without_a_hub_the_files_are_kept_as_outputs(tmp_path: Path, weights: Path) -> None:
    world = World(tmp_path, {"destination": {"ref": "c/d"}})

    summary = world.finish([ProducedFlavor(weights)])

    files = summary["flavors"][0]["files"]
    assert [file["path"] for file in files] == [
        "model_index.json",
        "unet/a.safetensors",
        "unet/b.safetensors",
    ]
    assert Path(files[1]["local_path"]).read_bytes() == b"a"
    assert Path(files[1]["local_path"]).is_relative_to(world.outputs)
    assert summary["published"]["reason"] == "missing_worker_capability_channel"


def test_without_a_destination_nothing_is_published(tmp_path: Path, weights: Path) -> None:
    hub = Hub()

    summary = World(tmp_path, {}, hub=hub).finish([ProducedFlavor(weights)])

    assert summary["published"]["reason"] == "no_destination"
    assert hub.calls == []


@pytest.mark.parametrize("result", [None, [], iter(())])
def test_producing_nothing_is_allowed(tmp_path: Path, result: Any) -> None:
    summary = World(tmp_path, {"destination": {"ref": "c/d"}}, hub=Hub()).finish(result)

    assert summary["flavors"] == []
    assert summary["published"]["reason"] == "nothing_produced"


def test_a_failed_publish_fails_the_job(tmp_path: Path, weights: Path) -> None:
    hub = Hub(fails=True)
    world = World(tmp_path, {"destination": {"ref": "c/d"}}, hub=hub)

    with pytest.raises(ArtifactTransferError, match="the hub is down"):
        world.finish([ProducedFlavor(weights)])
    assert hub.all("abort") == ["c/d"]
    event = world.recorder.events[-1]
    assert isinstance(event, Emitted)
    assert event.type == "transform.publish_failed"
    assert event.payload == {"ref": "c/d", "error": "ArtifactTransferError"}


def test_a_bad_tag_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="latest"):
        World(tmp_path, {"destination": {"ref": "c/d", "tags": ["latest"]}}, hub=Hub())


@pytest.mark.parametrize(
    ("policy", "spec", "is_refused"),
    [
        ("required", {"scheme": "awq"}, True),
        ("required", {"scheme": "awq", "allow_dummy": True}, False),
        ("beneficial", {"scheme": "awq"}, False),
    ],
)
def test_a_scheme_that_must_be_calibrated_needs_a_dataset(
    tmp_path: Path, policy: str, spec: dict[str, Any], is_refused: bool
) -> None:
    if not is_refused:
        World(tmp_path, {"specs": [spec]}, calibration={"awq": policy})
        return
    with pytest.raises(ValidationError, match=r"\['awq'\] must be calibrated") as caught:
        World(tmp_path, {"specs": [spec]}, calibration={"awq": policy})
    assert caught.value.path == "$.datasets"


def test_artifacts_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        path = tmp_path / name / "model.safetensors"
        path.parent.mkdir()
        path.write_text(name)
        paths.append(path)
    hub = Hub()
    world = World(tmp_path, {"destination": {"ref": "c/d"}}, hub=hub)

    world.finish([ProducedFlavor(path, flavor=path.parent.name) for path in paths])

    assert hub.all("put") == [
        "jobs/j/outputs/model.safetensors",
        "jobs/j/outputs/model-2.safetensors",
    ]


def test_extra_files_are_stored_beside_the_artifact(tmp_path: Path, weights: Path) -> None:
    extra = tmp_path / "report.json"
    extra.write_bytes(b"{}")
    world = World(tmp_path, {})

    files = world.finish([ProducedFlavor(weights, extra_files=[extra])])["flavors"][0]["files"]
    single = world.finish([ProducedFlavor(weights / "unet/a.safetensors", extra_files=[extra])])

    assert "report.json" in [file["path"] for file in files]
    assert [file["path"] for file in single["flavors"][0]["files"]] == [
        "a.safetensors",
        "report.json",
    ]
    with pytest.raises(ValueError, match="has the name of a file"):
        world.finish([ProducedFlavor(extra, extra_files=[extra])])
    with pytest.raises(FileNotFoundError, match="extra file"):
        world.finish([ProducedFlavor(weights, extra_files=[tmp_path / "none"])])


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="produced artifact"):
        World(tmp_path, {}).finish([ProducedFlavor(tmp_path / "none")])


@pytest.mark.parametrize("result", ["x", b"x", {"a": 1}, 3, object()])
def test_a_result_of_another_type_is_refused(result: Any) -> None:
    with pytest.raises(TypeError, match="must return a list of ProducedFlavor, not"):
        list(produced_flavors(result))


def test_an_item_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="artifact 1 must be a ProducedFlavor, not str"):
        list(produced_flavors([ProducedFlavor("x"), "x"]))


@pytest.mark.parametrize(
    ("flavor", "label"),
    [
        (ProducedFlavor("/a/m", flavor="bf16"), "bf16"),
        (ProducedFlavor("/a/m", {"flavor": "fp8", "quant_recipe": "x"}), "fp8"),
        (ProducedFlavor("/a/m", {"quant_recipe": "torchao:int4/wo"}), "torchao-int4-wo"),
        (ProducedFlavor("/a/m/"), "m"),
        (ProducedFlavor("/a/m", flavor="FP8:e4m3"), "fp8-e4m3"),
    ],
)
def test_an_artifact_has_a_label(flavor: ProducedFlavor, label: str) -> None:
    assert label_of(flavor) == label


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([{"flavor": "bf16"}, {"flavor": "bf16"}], "two artifacts have the flavor 'bf16'"),
        ([{"flavor": "a"}, {"flavor": "b", "flavors": ["A"]}], "two artifacts have the flavor 'a'"),
        ([{"flavor": "my model"}], "'my model' cannot be named by a ref"),
        (
            [{"flavor": "w3", "attributes": {"quantization_method": "own"}}],
            "says quantization_method and no quantization_library",
        ),
        (
            [{"flavor": "w3", "attributes": {"quant_library": "own"}}],
            "says quantization_library and no quantization_method",
        ),
    ],
)
def test_what_hubs_refuse_is_refused_before_it_is_sent(
    tmp_path: Path, weights: Path, made: list[dict[str, Any]], message: str
) -> None:
    hub = Hub()
    payload = {"destination": {"ref": "c/d"}}
    world = World(tmp_path, payload, hub=hub, job_kind="quantization")
    with pytest.raises(ValidationError, match=message):
        world.finish([ProducedFlavor(weights, **one) for one in made])
    assert len(hub.all("put")) == 3 * (len(made) - 1)


def test_a_cast_beside_quantized_artifacts_is_no_quantization(
    tmp_path: Path, weights: Path
) -> None:
    hub = Hub()
    payload = {"source": {"ref": "a/b"}, "destination": {"ref": "c/d"}}
    world = World(tmp_path, payload, hub=hub, job_kind="quantization")
    world.finish([ProducedFlavor(weights, flavor="nf4"), ProducedFlavor(weights, flavor="bf16")])
    quantized, cast_ = hub.all("finalize")[0]["metadata"]["checkpoint_flavors"]
    assert quantized["lineage_metadata"]["quantization_method"] == "nf4"
    assert "relationship_kind" not in quantized
    assert cast_["relationship_kind"] == "format-conversion"
    assert quantized["replaces_latest"] is cast_["replaces_latest"] is True


@pytest.mark.parametrize(
    ("kind", "relationship"),
    [
        ("quantization:gptq-w4", "quantization"),
        ("fine-tuning", "fine-tune"),
        ("fusion", "manual-fork"),
        ("", "manual-fork"),
    ],
)
def test_an_artifact_relates_to_its_source(kind: str, relationship: str) -> None:
    assert relationship_of(kind) == relationship


# Datasets


def test_a_dataset_is_published_with_what_its_info_says(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    (rows / "data").mkdir(parents=True)
    (rows / "data/train-00000.parquet").write_bytes(b"PAR1")
    info = {"kind": "prompt_corpus", "features": {"prompt": "string"}}
    (rows / "dataset_info.json").write_bytes(msgspec.json.encode(info))
    hub = Hub()
    world = World(
        tmp_path,
        {"destination": {"ref": "c/d", "visibility": "public"}},
        kind=DATASET,
        hub=hub,
        sub_kind="anything",
    )

    world.finish([ProducedFlavor(rows)])

    assert hub.all("open") == [("c/d", {"target": "dataset"})]
    manifest = hub.all("finalize")[0]
    assert manifest["features_json"] == {"prompt": "string"}
    assert (manifest["kind"], manifest["visibility"]) == ("prompt_corpus", "public")
    assert manifest["dataset_info"] == info
    assert [entry["path"] for entry in manifest["snapshot_manifest"]] == [
        "data/train-00000.parquet",
        "dataset_info.json",
    ]


def test_a_dataset_job_makes_one_dataset(tmp_path: Path, weights: Path) -> None:
    world = World(tmp_path, {"destination": {"ref": "c/d"}}, kind=DATASET, hub=Hub())

    with pytest.raises(ValidationError, match="must produce one dataset, not 2"):
        world.finish([ProducedFlavor(weights), ProducedFlavor(weights)])
    event = world.recorder.events[-1]
    assert isinstance(event, Emitted)
    assert event.type == "dataset.publish_failed"


def test_each_kind_has_its_context(tmp_path: Path) -> None:
    training = JobKind("training", TrainingContext)

    assert isinstance(World(tmp_path, {}, kind=training).ctx, TrainingContext)
    assert isinstance(World(tmp_path, {}, kind=DATASET).ctx, DatasetContext)
