"""The endpoint kind of training functions and classes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import gen_worker
from gen_worker.context import ConversionContext
from gen_worker.kinds import kind_named
from gen_worker.runtime.local import JsonLineEvents, local_ports
from gen_worker.spec import Call, FunctionSpec
from gen_worker.trainer import TrainingContext
from gen_worker.types import ProducedFlavor

if TYPE_CHECKING:
    from pathlib import Path


def test_the_kind_is_published_as_an_entry_point() -> None:
    kind = kind_named("training")
    ctx = kind.context(local_ports(events=JsonLineEvents(io.StringIO())), request_id="r")

    assert kind.name == "training"
    assert type(ctx) is TrainingContext
    assert isinstance(ctx, ConversionContext)


def test_trained_weights_are_published(tmp_path: Path) -> None:
    kind, stderr = kind_named("training"), io.StringIO()
    ports = local_ports(events=JsonLineEvents(stderr), output_dir=str(tmp_path / "out"))
    spec = FunctionSpec(
        name="train",
        registered_name="train",
        python_name="train",
        kind="training",
        decorator="@training.function",
        module="m",
        qualname="Trainer.train",
        function=len,
        shape="sync",
        parameters=(),
        payload_type=None,
        sub_kind="fine-tuning",
    )
    call = Call(spec=spec, request_id="r", raw_payload={"destination": {"ref": "a/b"}})
    ctx = kind.context(ports, request_id="r")
    ports.run(kind.before(call, ctx))
    weights = tmp_path / "lora.safetensors"
    weights.write_bytes(b"weights")

    summary = ports.run(kind.finish(call, ctx, iter([ProducedFlavor(weights)])))

    assert summary["published"]["stubbed"]
    assert '"relationship_kind":"fine-tune"' in stderr.getvalue()


def test_the_values_are_names_of_the_root() -> None:
    from gen_worker import trainer

    for name in ("StepContext", "StepControlHints", "StepResult", "TrainingJobSpec"):
        assert getattr(gen_worker, name) is getattr(trainer, name)
