"""Write a function, serve it as an AI endpoint."""

# Other distributions add `gen_worker.<part>`; editable installs put each part in its own directory.
__path__ = __import__("pkgutil").extend_path(__path__, __name__)

# Nothing is imported here: every public name is loaded at first use, wherever it lives. Below this
# package that may be a distribution the author did not install; the error then names it.

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gen_worker import clone as clone
    from gen_worker import errors as errors
    from gen_worker import io as io
    from gen_worker.constraints import AssetLimits as AssetLimits
    from gen_worker.constraints import Clamp as Clamp
    from gen_worker.context import ConversionContext as ConversionContext
    from gen_worker.context import DatasetContext as DatasetContext
    from gen_worker.context import RequestContext as RequestContext
    from gen_worker.context import TrainingContext as TrainingContext
    from gen_worker.diagnostics import emit_diagnostic_log as emit_diagnostic_log
    from gen_worker.discovery import EndpointValidationResult as EndpointValidationResult
    from gen_worker.discovery import validate_endpoint as validate_endpoint
    from gen_worker.endpoint.cases import Case as Case
    from gen_worker.endpoint.classes import batched_inference as batched_inference
    from gen_worker.endpoint.classes import conversion as conversion
    from gen_worker.endpoint.classes import dataset as dataset
    from gen_worker.endpoint.classes import inference as inference
    from gen_worker.endpoint.classes import training as training
    from gen_worker.endpoint.functions import inference_function as inference_function
    from gen_worker.endpoint.functions import worker_function as worker_function
    from gen_worker.endpoint.jobs import training_function as training_function
    from gen_worker.endpoint.methods import invocable as invocable
    from gen_worker.endpoint.problems import DefinitionError as DefinitionError
    from gen_worker.errors import ArtifactTransferError as ArtifactTransferError
    from gen_worker.errors import AuthError as AuthError
    from gen_worker.errors import CanceledError as CanceledError
    from gen_worker.errors import DeadlineExceededError as DeadlineExceededError
    from gen_worker.errors import FatalError as FatalError
    from gen_worker.errors import InputTooLargeError as InputTooLargeError
    from gen_worker.errors import OutputTooLargeError as OutputTooLargeError
    from gen_worker.errors import RefCompatibilitySurprise as RefCompatibilitySurprise
    from gen_worker.errors import ResourceError as ResourceError
    from gen_worker.errors import RetryableError as RetryableError
    from gen_worker.errors import ValidationError as ValidationError
    from gen_worker.errors import WorkerError as WorkerError
    from gen_worker.markers import ExpectedOutput as ExpectedOutput
    from gen_worker.markers import NegativePrompt as NegativePrompt
    from gen_worker.markers import PositivePrompt as PositivePrompt
    from gen_worker.markers import PromptRole as PromptRole
    from gen_worker.markers import StringEnum as StringEnum
    from gen_worker.model_cache import ModelCache as ModelCache
    from gen_worker.model_cache import ModelCacheStats as ModelCacheStats
    from gen_worker.model_cache import ModelLocation as ModelLocation
    from gen_worker.models.bindings import CivitaiRepo as CivitaiRepo
    from gen_worker.models.bindings import HFRepo as HFRepo
    from gen_worker.models.bindings import ModelScopeRepo as ModelScopeRepo
    from gen_worker.models.bindings import Repo as Repo
    from gen_worker.models.dispatching import Dispatch as Dispatch
    from gen_worker.models.dispatching import dispatch as dispatch
    from gen_worker.models.injection import ModelRef as ModelRef
    from gen_worker.models.injection import ModelRefSource as ModelRefSource
    from gen_worker.models.lora import load_loras as load_loras
    from gen_worker.models.low_vram import apply_low_vram_config as apply_low_vram_config
    from gen_worker.models.low_vram import with_oom_retry as with_oom_retry
    from gen_worker.models.shared import SharedBase as SharedBase
    from gen_worker.models.shared import Variant as Variant
    from gen_worker.resources import ResourceRequirements as ResourceRequirements
    from gen_worker.resources import Resources as Resources
    from gen_worker.spec import Binding as Binding
    from gen_worker.streaming import Done as Done
    from gen_worker.streaming import Error as Error
    from gen_worker.streaming import IncrementalTokenDelta as IncrementalTokenDelta
    from gen_worker.streaming import TokenStreamSignal as TokenStreamSignal
    from gen_worker.streaming import iter_transformers_text_deltas as iter_transformers_text_deltas
    from gen_worker.trainer import StepContext as StepContext
    from gen_worker.trainer import StepControlHints as StepControlHints
    from gen_worker.trainer import StepResult as StepResult
    from gen_worker.trainer import TrainingJobSpec as TrainingJobSpec
    from gen_worker.types import Asset as Asset
    from gen_worker.types import AudioAsset as AudioAsset
    from gen_worker.types import Compute as Compute
    from gen_worker.types import DatasetRef as DatasetRef
    from gen_worker.types import DestinationRepo as DestinationRepo
    from gen_worker.types import ImageAsset as ImageAsset
    from gen_worker.types import LoraSpec as LoraSpec
    from gen_worker.types import MediaAsset as MediaAsset
    from gen_worker.types import OutputSpec as OutputSpec
    from gen_worker.types import SourceRepo as SourceRepo
    from gen_worker.types import Tensors as Tensors
    from gen_worker.types import VideoAsset as VideoAsset

_CORE = "gen-worker-core"
_MODELS = "gen-worker-models"
_TRAINER = "gen-worker-trainer"
_CONVERSION = "gen-worker-conversion"

_EXPORTS: dict[str, tuple[str, str]] = {
    # decorators
    "inference_function": ("gen_worker.endpoint.functions", _CORE),
    "worker_function": ("gen_worker.endpoint.functions", _CORE),
    "training_function": ("gen_worker.endpoint.jobs", _CORE),
    "batched_inference": ("gen_worker.endpoint.classes", _CORE),
    "conversion": ("gen_worker.endpoint.classes", _CORE),
    "dataset": ("gen_worker.endpoint.classes", _CORE),
    "inference": ("gen_worker.endpoint.classes", _CORE),
    "training": ("gen_worker.endpoint.classes", _CORE),
    "invocable": ("gen_worker.endpoint.methods", _CORE),
    "Case": ("gen_worker.endpoint.cases", _CORE),
    "DefinitionError": ("gen_worker.endpoint.problems", _CORE),
    "ResourceRequirements": ("gen_worker.resources", _CORE),
    "Resources": ("gen_worker.resources", _CORE),
    "Binding": ("gen_worker.spec", _CORE),
    # contexts
    "ConversionContext": ("gen_worker.context", _CORE),
    "DatasetContext": ("gen_worker.context", _CORE),
    "RequestContext": ("gen_worker.context", _CORE),
    "TrainingContext": ("gen_worker.context", _CORE),
    # values
    "Asset": ("gen_worker.types", _CORE),
    "AudioAsset": ("gen_worker.types", _CORE),
    "Compute": ("gen_worker.types", _CORE),
    "DatasetRef": ("gen_worker.types", _CORE),
    "DestinationRepo": ("gen_worker.types", _CORE),
    "ImageAsset": ("gen_worker.types", _CORE),
    "LoraSpec": ("gen_worker.types", _CORE),
    "MediaAsset": ("gen_worker.types", _CORE),
    "OutputSpec": ("gen_worker.types", _CORE),
    "SourceRepo": ("gen_worker.types", _CORE),
    "Tensors": ("gen_worker.types", _CORE),
    "VideoAsset": ("gen_worker.types", _CORE),
    "AssetLimits": ("gen_worker.constraints", _CORE),
    "Clamp": ("gen_worker.constraints", _CORE),
    "ExpectedOutput": ("gen_worker.markers", _CORE),
    "NegativePrompt": ("gen_worker.markers", _CORE),
    "PositivePrompt": ("gen_worker.markers", _CORE),
    "PromptRole": ("gen_worker.markers", _CORE),
    "StringEnum": ("gen_worker.markers", _CORE),
    "Done": ("gen_worker.streaming", _CORE),
    "Error": ("gen_worker.streaming", _CORE),
    "IncrementalTokenDelta": ("gen_worker.streaming", _CORE),
    "TokenStreamSignal": ("gen_worker.streaming", _CORE),
    "iter_transformers_text_deltas": ("gen_worker.streaming", _CORE),
    # errors
    "ArtifactTransferError": ("gen_worker.errors", _CORE),
    "AuthError": ("gen_worker.errors", _CORE),
    "CanceledError": ("gen_worker.errors", _CORE),
    "DeadlineExceededError": ("gen_worker.errors", _CORE),
    "FatalError": ("gen_worker.errors", _CORE),
    "InputTooLargeError": ("gen_worker.errors", _CORE),
    "OutputTooLargeError": ("gen_worker.errors", _CORE),
    "RefCompatibilitySurprise": ("gen_worker.errors", _CORE),
    "ResourceError": ("gen_worker.errors", _CORE),
    "RetryableError": ("gen_worker.errors", _CORE),
    "ValidationError": ("gen_worker.errors", _CORE),
    "WorkerError": ("gen_worker.errors", _CORE),
    # operator and project
    "emit_diagnostic_log": ("gen_worker.diagnostics", _CORE),
    "EndpointValidationResult": ("gen_worker.discovery", _CORE),
    "validate_endpoint": ("gen_worker.discovery", _CORE),
    # submodules that need no import of their own, as in `gw.io.read_image(...)`
    "clone": ("gen_worker", _CONVERSION),
    "errors": ("gen_worker", _CORE),
    "io": ("gen_worker", _CORE),
    # models
    "CivitaiRepo": ("gen_worker.models.bindings", _MODELS),
    "HFRepo": ("gen_worker.models.bindings", _MODELS),
    "ModelScopeRepo": ("gen_worker.models.bindings", _MODELS),
    "Repo": ("gen_worker.models.bindings", _MODELS),
    "Dispatch": ("gen_worker.models.dispatching", _MODELS),
    "dispatch": ("gen_worker.models.dispatching", _MODELS),
    "SharedBase": ("gen_worker.models.shared", _MODELS),
    "Variant": ("gen_worker.models.shared", _MODELS),
    "ModelRef": ("gen_worker.models.injection", _MODELS),
    "ModelRefSource": ("gen_worker.models.injection", _MODELS),
    "load_loras": ("gen_worker.models.lora", _MODELS),
    "apply_low_vram_config": ("gen_worker.models.low_vram", _MODELS),
    "with_oom_retry": ("gen_worker.models.low_vram", _MODELS),
    "ModelCache": ("gen_worker.model_cache", _MODELS),
    "ModelCacheStats": ("gen_worker.model_cache", _MODELS),
    "ModelLocation": ("gen_worker.model_cache", _MODELS),
    # trainer
    "StepContext": ("gen_worker.trainer", _TRAINER),
    "StepControlHints": ("gen_worker.trainer", _TRAINER),
    "StepResult": ("gen_worker.trainer", _TRAINER),
    "TrainingJobSpec": ("gen_worker.trainer", _TRAINER),
}
"""Public name -> (module that has it, distribution that ships it)."""

_GONE = {
    "ScalingHints": "its fields are fields of gen_worker.Resources (vram_*, runtime_*)",
    "Src": "write gen_worker.ModelRefSource",
    "RealtimeSocket": "stream instead: yield structs from an async generator",
    "realtime_function": "stream instead: yield structs from an inference_function",
    "worker_websocket": "stream instead: yield structs from an inference_function",
    "accel": "call torch and diffusers themselves",
    "api": "import from gen_worker, or from gen_worker.errors, .types, .streaming, .models",
    "cache": "call the caching hooks of diffusers",
    "compile": "call torch.compile",
    "parallelism": "call the parallel inference of diffusers",
    "quant": "call torchao or bitsandbytes",
}


def _resolve(name: str) -> object:
    value: object
    if name in _EXPORTS:
        value = _load(name, *_EXPORTS[name])
    elif name == "__all__":
        value = [name for name in _EXPORTS if _is_installed(name)]
    elif name in _GONE:
        raise ImportError(f"gen_worker.{name} is gone: {_GONE[name]}", name=__name__)
    else:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        )
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker would take any name for granted
    __getattr__ = _resolve


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


def _load(name: str, module: str, distribution: str) -> object:
    """Import `module` and return its attribute `name`; a submodule is an attribute of this one."""
    target = f"{__name__}.{name}" if module == __name__ else module
    try:
        __import__(target)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{target}.".startswith(f"{error.name}."):
            raise  # something the module itself needs is missing
        raise _unavailable(name, distribution) from error
    if module == __name__:
        return sys.modules[target]
    try:
        return getattr(sys.modules[target], name)
    except AttributeError as error:
        raise _unavailable(name, distribution) from error


def _unavailable(name: str, distribution: str) -> ImportError:
    from importlib.metadata import PackageNotFoundError, version

    wanted = f"{__name__}.{name}"
    try:
        installed = version(distribution)
    except PackageNotFoundError:
        return ImportError(
            f'{wanted} is part of {distribution}: install "{distribution}", '
            'or "gen-worker" for everything',
            name=wanted,
        )
    return ImportError(
        f"{wanted} needs a newer {distribution}: {installed} is installed and does not have it",
        name=wanted,
    )


def _is_installed(name: str) -> bool:
    """Tell whether `from gen_worker import *` can offer a name here."""
    try:
        getattr(sys.modules[__name__], name)
    except ImportError:
        return False
    return True
