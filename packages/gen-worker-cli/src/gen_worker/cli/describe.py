"""Print what this endpoint offers, as JSON: functions, inputs, outputs, models, needs.

Loads no model. The document's keys only ever grow; programs decide by `capabilities`, see
docs/host-integration.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.cli.options import add_project_options

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.project import Endpoint
    from gen_worker.spec import FunctionSpec

__all__ = [
    "CAPABILITIES",
    "configure",
    "describe_endpoint",
    "function_entries",
    "input_schema",
    "main",
]

CAPABILITIES = (
    "describe",
    "list_functions",
    "prefetch",
    "cancel",
    "streaming",
    "tcp_listen",
    "serve_sidecar",
    "keep_alive",
    "events",
    "detach",
    "traceback",
    "http",
)
"""What a program that drives this command may rely on; a token is added with its feature."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_project_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, as is always done")
    parser.add_argument("--pretty", action="store_true", help="indent by two spaces")


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.output import divert_stdout
    from gen_worker.cli.project import open_endpoint
    from gen_worker.cli.results import ResultPrinter

    out = divert_stdout()
    document = describe_endpoint(open_endpoint(args))
    ResultPrinter(out, envelope=False, pretty=args.pretty).print("result", document)
    return 0


def describe_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    """Return the whole document."""
    from gen_worker.runtime.ndjson import PROTOCOL_VERSION
    from gen_worker.version import sdk_version

    kinds = list(dict.fromkeys(spec.kind for spec in endpoint.functions))
    owners = {spec.owner.__name__ for spec in endpoint.functions if spec.owner}
    return {
        "protocol_version": PROTOCOL_VERSION,
        "gen_worker_version": sdk_version(),
        "capabilities": list(CAPABILITIES),
        "endpoint": {
            "main_module": endpoint.main,
            "kind": kinds[0] if len(kinds) == 1 else sorted(kinds),
            "classes": sorted(owners),
            "name": endpoint.name,
        },
        "functions": function_entries(endpoint),
    }


def function_entries(endpoint: Endpoint) -> list[dict[str, Any]]:
    """Return one entry per function, sorted by registered name."""
    return [
        _entry(spec) for spec in sorted(endpoint.functions, key=lambda spec: spec.registered_name)
    ]


def _entry(spec: FunctionSpec) -> dict[str, Any]:
    output = spec.delta_type if spec.is_streamed else spec.result_type
    return {
        "name": spec.registered_name,
        "class": spec.owner.__name__ if spec.owner else "",
        "method": spec.python_name,
        "kind": spec.kind,
        "is_generator": spec.is_streamed,
        "input_schema": input_schema(spec),
        "output": getattr(output, "__name__", None),
        "models": {name: p.binding.describe() for name, p in spec.bindings.items()},
        "slug": spec.name,
        "is_async": spec.is_async,
        "output_mode": spec.output_mode,
        "output_schema": _schema(output),
        "primary_field": _primary_field(spec),
        "resources": spec.resources.to_dict(),
        "limits": _limits(spec),
        **_labels(spec),
    }


def _schema(annotation: Any) -> dict[str, Any] | None:
    from gen_worker.schema import json_schema

    return None if annotation is None else json_schema(annotation)


def input_schema(spec: FunctionSpec) -> dict[str, Any] | None:
    """Return the schema of a function's payload, whichever way its handler takes it."""
    from gen_worker.endpoint.job_record import request_type_of

    return _schema(request_type_of(spec))


def _primary_field(spec: FunctionSpec) -> str | None:
    from gen_worker.cli.fields import payload_fields, primary_field

    field = primary_field(payload_fields(spec))
    return field.name if field else None


def _limits(spec: FunctionSpec) -> dict[str, Any]:
    """Return what the author declared about how a function is called; nothing is left out."""
    batching = spec.batching
    return {
        "timeout_ms": spec.timeout_ms,
        "rate_limit_per_invoker": spec.rate_limit_per_invoker,
        "batch_window_ms": batching.window_ms if batching else None,
        "max_batch": batching.max_batch if batching else None,
        "allowed_shapes": [list(shape) for shape in spec.allowed_shapes],
    }


def _labels(spec: FunctionSpec) -> dict[str, str]:
    texts = {"label": spec.label, "description": spec.description, "sub_kind": spec.sub_kind}
    return {name: text for name, text in texts.items() if text}
