"""`model_index.json`, or the older `cozy.pipeline.yaml` that stands for it."""

from __future__ import annotations

import os
from typing import Any

from gen_worker.models.formats.configs import sanitize_config
from gen_worker.models.loading.errors import MissingPackageError, ModelLoadError
from gen_worker.models.loading.parts import Source, config_at

__all__ = ["index_of"]

_LOCK = "cozy.pipeline.lock.yaml"
_SPEC = "cozy.pipeline.yaml"


def index_of(source: Source) -> dict[str, Any]:
    """Return what `model_index.json` says, sanitised; empty when the model is no pipeline.

    An entry of a component is `[library, class]`, or an object with `path`, or `_cozy_ref`.

    Raises:
        ModelLoadError: A spec file breaks its rules.
        DamagedFileError: `model_index.json` cannot be read.
    """
    if not os.path.isdir(source.root):
        return {}
    index = config_at(source.root, "model_index.json")
    for name in (_LOCK, _SPEC):
        path = os.path.join(source.root, name)
        if os.path.isfile(path):
            return {**index, **_from_spec(path, name, source)}
    return index


def _from_spec(path: str, name: str, source: Source) -> dict[str, Any]:
    spec = _read_yaml(path, source.ref)
    problems = []
    if spec.get("apiVersion") != "v1" or spec.get("kind") != "DiffusersPipeline":
        problems.append("it is no `apiVersion: v1`, `kind: DiffusersPipeline`")
    pipe = spec.get("pipe")
    pipe = pipe if isinstance(pipe, dict) else {}
    index: dict[str, Any] = {}
    if isinstance(pipe.get("class"), str):
        index["_class_name"] = pipe["class"]
    components = spec.get("components")
    for key, value in (components if isinstance(components, dict) else {}).items():
        entry, problem = _component(str(key), value, may_refer=name == _LOCK)
        problems += [problem] if problem else []
        index |= {str(key): entry} if entry else {}
    if problems:
        raise ModelLoadError(
            f"{name!r} of model {source.ref!r} is refused: {'; '.join(problems)}", ref=source.ref
        )
    return index


def _component(name: str, value: Any, *, may_refer: bool) -> tuple[Any, str]:
    """Return the entry of a component, or what is wrong with it."""
    if not isinstance(value, dict):
        return None, f"component {name!r} is no table"
    place = value.get("path", name)
    if not isinstance(place, str) or os.path.basename(place) != place or place in ("", ".", ".."):
        return None, f"component {name!r} has the path {place!r}, no name at the root"
    if value.get("ref") and not may_refer:
        return None, f"component {name!r} has a ref, which only {_LOCK!r} may have"
    if value.get("ref"):
        return {"_cozy_ref": str(value["ref"])}, ""
    classes = [value.get("library"), value.get("class")]
    return {"path": place, "class": classes}, ""


def _read_yaml(path: str, ref: str) -> dict[str, Any]:
    try:
        import yaml  # type: ignore[import-untyped,unused-ignore]
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"model {ref!r} is described by {os.path.basename(path)!r}: install 'PyYAML', or "
            "publish the model with model_index.json",
            package="PyYAML",
            ref=ref,
        ) from error
    try:
        with open(path, encoding="utf-8") as file:
            spec = yaml.safe_load(file.read(1 << 20))
    except (yaml.YAMLError, ValueError) as error:
        raise ModelLoadError(
            f"{os.path.basename(path)!r} of model {ref!r} cannot be read: {error}", ref=ref
        ) from error
    return sanitize_config(spec)[0] if isinstance(spec, dict) else {}
