"""State, such as an optimizer's, as named tensors and a JSON skeleton; and back, bit for bit.

    {"state": {0: {"m": m, "v": v}}, "betas": (0.9, 0.999)}

is the tensors `optimizer.0` and `optimizer.1`, and the skeleton

    ["dict", [["state", ["dict", [[0, ["dict", [["m", ["tensor", "optimizer.0"]], ...

Keys keep their types, tuples stay tuples, numbers are exact; what appears twice is kept once.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from gen_worker.trainer.errors import CheckpointError

__all__ = ["flatten", "unflatten"]

_EXACT = 2**53
"""Readers of JSON may take greater numbers for floats."""


def flatten(value: Any, name: str) -> tuple[dict[str, Any], Any]:
    """Take a value apart.

    Args:
        value: Of dicts, lists, tuples, tensors, numbers, text, bytes and None.
        name: Begins the names of its tensors.

    Returns:
        Tensors by name, not copied; and what JSON can hold of the rest.

    Raises:
        CheckpointError: Something in it is of another type; the message says where.
    """
    parts = _Parts(name)
    return parts.tensors, parts.node(value, name)


class _Parts:
    def __init__(self, name: str) -> None:
        self.tensors: dict[str, Any] = {}
        self._name = name
        self._names: dict[int, str] = {}
        """By the id of a tensor, which `tensors` keeps alive."""

    def node(self, value: Any, path: str) -> Any:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            return value if abs(value) < _EXACT else ["int", str(value)]
        if isinstance(value, float):
            return value if math.isfinite(value) else ["float", repr(value)]
        if isinstance(value, (bytes, bytearray)):
            return ["bytes", bytes(value).hex()]
        if isinstance(value, Mapping):
            return ["dict", [self._item(key, one, path) for key, one in value.items()]]
        if isinstance(value, (list, tuple)):
            nodes = [self.node(one, f"{path}[{index}]") for index, one in enumerate(value)]
            return ["tuple" if isinstance(value, tuple) else "list", nodes]
        if _is_tensor(value):
            return ["tensor", self._tensor(value)]
        number = getattr(value, "item", None)
        if callable(number) and getattr(value, "shape", None) == ():  # of NumPy
            return self.node(number(), path)
        raise CheckpointError(
            f"{path} is a {type(value).__name__}, which a checkpoint cannot keep: make it of "
            "numbers, text, tensors, lists and dicts",
            path=path,
        )

    def _item(self, key: Any, value: Any, path: str) -> list[Any]:
        return [self.node(key, f"{path}, a key"), self.node(value, f"{path}[{key!r}]")]

    def _tensor(self, tensor: Any) -> str:
        name = self._names.get(id(tensor))
        if name is None:
            name = self._names[id(tensor)] = f"{self._name}.{len(self.tensors)}"
            self.tensors[name] = tensor
        return name


def unflatten(skeleton: Any, tensors: Mapping[str, Any]) -> Any:
    """Put a value together again.

    Args:
        skeleton: From `flatten`.
        tensors: By the names in it.

    Raises:
        CheckpointError: It is no skeleton, or a tensor is missing.
    """
    if not isinstance(skeleton, list):
        return skeleton
    kind: Any
    body: Any
    kind, body = skeleton if len(skeleton) == 2 else ("", None)
    if kind == "tensor":
        if body not in tensors:
            raise CheckpointError(f"the tensor {body!r} is missing", path=str(body))
        return tensors[body]
    if kind == "dict":
        return {unflatten(key, tensors): unflatten(item, tensors) for key, item in body}
    if kind in ("list", "tuple"):
        parts = [unflatten(item, tensors) for item in body]
        return tuple(parts) if kind == "tuple" else parts
    if kind in _WORDS:
        return _WORDS[kind](body)
    raise CheckpointError(f"a checkpoint holds {kind!r}, which is not known here", path=str(kind))


_WORDS: Mapping[str, Any] = {"int": int, "float": float, "bytes": bytes.fromhex}


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
