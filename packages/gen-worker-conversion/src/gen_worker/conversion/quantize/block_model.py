"""A model of transformers of which one block is in memory at a time, its weights from recipes.

Legend: T tokens of a window, D features of a hidden state.
"""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.hf_classes import class_of_config, libraries_view
from gen_worker.conversion.lazy.dtypes import FLOATS
from gen_worker.conversion.quantize.parts import finite_rows
from gen_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor

__all__ = ["BlockModel"]


_MISFITS = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a class ends with whose configuration or inputs it was not made for."""


class _Enough(Exception):
    """The run has reached the last block."""


class BlockModel:
    """Runs a model block by block: `begin` gives what goes into the first, `block` runs one.

    Parameters are in float32 while they are there, and on the meta device before and after.
    """

    def __init__(self, directory: str, checkpoint: Checkpoint, stack: str) -> None:
        """Make its class; no weight is read.

        Args:
            directory: With its `config.json`.
            checkpoint: Its weights.
            stack: How the names of its blocks begin, as `model.layers.`.

        Raises:
            ConversionInputError: Its class has no such blocks, or other weights in them.
            MissingPackageError: transformers is not installed.
        """
        self.directory = directory
        self.checkpoint = checkpoint
        self.stack = stack
        try:
            self.model = _hollow(directory)
        except WorkerError:
            raise
        except (*_MISFITS, OSError, ImportError) as error:
            raise self._unfit(f"its class cannot be made, {error!r:.200}") from error
        self.place = self._place()
        self.blocks = list(self.model.get_submodule(self.place))
        for index, block in enumerate(self.blocks):
            for name, _ in block.named_parameters():
                self._found(f"{stack}{index}.{name}")
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    @property
    def max_length(self) -> int:
        """What it takes at most, in tokens; 0 where it does not say."""
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 0)

    def begin(self, windows: Any) -> Generator[Any, None, None]:
        """Yield what goes into the first block, `(1, T, D)`, for each window of tokens.

        What else each block is given is kept from the first window: windows of one length without
        padding have the same positions and masks.
        """
        with self._outer_weights():
            for number, window_T in enumerate(windows):
                if number == 0:
                    yield self._recorded(window_T)
                    continue
                hidden, call = self._first(window_T)
                if not _same(call, self._calls[0]):
                    raise self._unfit("its blocks are given more than hidden states and positions")
                yield hidden

    @contextlib.contextmanager
    def block(self, index: int) -> Iterator[Callable[[Any], Any]]:
        """Give what runs a block on `(1, T, D)`, its weights in memory meanwhile."""
        module, (args, kwargs) = self.blocks[index], self._calls[index]
        with _filled(module, f"{self.stack}{index}.", self._tensor):
            yield lambda hidden: _hidden_of(module(hidden, *args, **kwargs))

    def weights_of(self, index: int) -> Mapping[str, Any]:
        """Return the modules of a block by their names in the checkpoint.

        Raises:
            ConversionInputError: Its class has no such block.
        """
        if index >= len(self.blocks):
            raise self._unfit(f"its class has {len(self.blocks)} blocks")
        found = self.blocks[index].named_modules()
        return {f"{self.stack}{index}.{name}": module for name, module in found if name}

    def _recorded(self, window_T: Any) -> Any:
        """Run one window through the first block and past all others, keeping what they get."""
        first: list[Any] = []
        self._calls = []

        def stub(index: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                self._calls.append(_taken(args, kwargs)[1])
                if index == len(self.blocks) - 1:
                    raise _Enough
                return first[1]

            return forward

        def real(*args: Any, **kwargs: Any) -> Any:
            hidden, call = _taken(args, kwargs)
            self._calls.append(call)
            forward = type(self.blocks[0]).forward
            first.extend((hidden, forward(self.blocks[0], hidden, *call[0], **call[1])))
            if len(self.blocks) == 1:
                raise _Enough
            return first[1]

        forwards = [real, *(stub(index) for index in range(1, len(self.blocks)))]
        with _filled(self.blocks[0], f"{self.stack}0.", self._tensor):
            self._run(window_T, forwards)
        return first[0]

    def _first(self, window_T: Any) -> tuple[Any, tuple[tuple[Any, ...], dict[str, Any]]]:
        seen: list[Any] = []

        def forward(*args: Any, **kwargs: Any) -> Any:
            seen.extend(_taken(args, kwargs))
            raise _Enough

        self._run(window_T, [forward])
        return seen[0], seen[1]

    def _run(self, window_T: Any, forwards: list[Callable[..., Any]]) -> None:
        for block, forward in zip(self.blocks, forwards, strict=False):
            block.forward = forward
        try:
            self.model(input_ids=window_T[None])
        except _Enough:
            return
        except WorkerError:
            raise
        except _MISFITS as error:
            raise self._unfit(f"it does not run on tokens alone, {error!r:.200}") from error
        finally:
            for block in self.blocks:
                block.__dict__.pop("forward", None)
        raise self._unfit("it does not come to its blocks")

    @contextlib.contextmanager
    def _outer_weights(self) -> Iterator[None]:
        """Load what lies before the blocks, as it is called; forget it at the end."""
        inner = {id(module) for block in self.blocks for module in block.modules()}
        with contextlib.ExitStack() as stack:
            loaded: set[int] = set()

            def load(name: str, module: Any) -> None:
                if id(module) not in loaded:
                    loaded.add(id(module))
                    prefix = f"{name}." if name else ""
                    stack.enter_context(_filled(module, prefix, self._tensor, recurse=False))

            for name, module in self.model.named_modules():
                if id(module) not in inner:
                    handle = module.register_forward_pre_hook(
                        lambda module, _, name=name: load(name, module)
                    )
                    stack.callback(handle.remove)
            yield

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """Return the names that a parameter goes by: tied ones have several."""
        by_parameter: dict[int, list[str]] = {}
        for name, one in self.model.named_parameters(remove_duplicate=False):
            by_parameter.setdefault(id(one), []).append(name)
        return {name: names for names in by_parameter.values() for name in names}

    def _tensor(self, name: str) -> Any:
        """Read a tensor by the name that the model has for it; floats in float32."""
        found = self._found(name)
        if found.dtype not in FLOATS:
            return found.tensor()
        return finite_rows(found, 0, found.row_count)[0]

    def _found(self, name: str) -> LazyTensor:
        prefix = self.stack.removesuffix(f"{self.place}.")
        outer = f"{self.model.base_model_prefix or '?'}."
        for one in (name, *self._names.get(name, ())):
            for tried in (one, f"{prefix}{one}", f"{outer}{one}", one.removeprefix(outer)):
                if tried in self.checkpoint:
                    return self.checkpoint[tried]
        raise self._unfit(f"it has no tensor {name!r}")

    def _place(self) -> str:
        """Return the path of the module that holds the blocks."""
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        for name, module in self.model.named_modules():
            is_list = isinstance(module, torch.nn.ModuleList) and name
            if is_list and f".{self.stack}".endswith(f".{name}."):
                return str(name)
            if is_list and f".{name}.".endswith(f".{self.stack}"):
                return str(name)
        raise self._unfit(f"its class has no blocks {self.stack!r}")

    def _unfit(self, why: str) -> ConversionInputError:
        return ConversionInputError(
            f"{self.directory!r} cannot be calibrated: {why}; choose a method without calibration",
            file=self.directory,
            step="calibrate",
        )


def _hollow(directory: str) -> Any:
    """Return a model whose large parameters take no memory; what it computes itself is there."""
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from torch.overrides import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        TorchFunctionMode,
    )

    from gen_worker.models.formats.configs import read_config
    from gen_worker.models.loading.libraries import library

    class Hollow(TorchFunctionMode):  # type: ignore[misc,unused-ignore]
        def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = dict(kwargs or {})
            if func is torch.empty:  # layers make their weights so, and buffers otherwise
                given["device"] = "meta"
            return func(*args, **given)

    with libraries_view(directory) as place:
        config = library("transformers").AutoConfig.from_pretrained(place, local_files_only=True)
    told = read_config(f"{directory}/config.json")
    cls = class_of_config(told if isinstance(told, dict) else {}, directory)
    config.use_cache = False
    with Hollow():
        model = cls.from_config(config) if hasattr(cls, "_model_mapping") else cls(config)
    return model.eval()


@contextlib.contextmanager
def _filled(
    module: Any, prefix: str, tensor: Callable[[str], Any], *, recurse: bool = True
) -> Iterator[None]:
    """Give a module its parameters, and take them away again."""
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    there: list[tuple[dict[str, Any], str, Any]] = []
    inside = module.named_modules(prefix=prefix.removesuffix(".")) if recurse else ()
    for path, part in inside or ((prefix.removesuffix("."), module),):
        for name, parameter in part._parameters.items():
            if parameter is not None:
                there.append((part._parameters, name, parameter))
                made = tensor(f"{path}.{name}" if path else name)
                part._parameters[name] = torch.nn.Parameter(made, requires_grad=False)
    try:
        yield
    finally:
        for parameters, name, parameter in there:
            parameters[name] = parameter


def _taken(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return the hidden states of a call, and the rest of it."""
    if args:
        return args[0], (args[1:], dict(kwargs))
    rest = dict(kwargs)
    return rest.pop("hidden_states"), ((), rest)


def _hidden_of(returned: Any) -> Any:
    return returned[0] if isinstance(returned, tuple) else returned


def _same(one: Any, other: Any) -> bool:
    """Tell whether two calls are given the same."""
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return bool(torch.equal(one, other))
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one is other or type(one) is type(other)
