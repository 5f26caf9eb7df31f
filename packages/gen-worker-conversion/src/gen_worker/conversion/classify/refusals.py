"""Why a repository cannot be converted, told by the list of its files."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal

from gen_worker.conversion.errors import ConversionInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "REFUSALS",
    "CoreMlOnlyRefusal",
    "FlaxOnlyRefusal",
    "MissingSafetensorsRefusal",
    "NemoOnlyRefusal",
    "OnnxOnlyRefusal",
    "OpenVinoOnlyRefusal",
    "PickleOnlyRefusal",
    "RefusalKind",
    "RepoRefusal",
    "TensorRtOnlyRefusal",
    "TfKerasOnlyRefusal",
    "TfliteOnlyRefusal",
    "TooLargeRefusal",
    "UnknownShapeRefusal",
]

RefusalKind = Literal[
    "pickle_only",
    "tf_keras_only",
    "onnx_only",
    "openvino_only",
    "tflite_only",
    "tensorrt_only",
    "coreml_only",
    "flax_only",
    "nemo_only",
    "unknown_shape",
    "too_large",
    "missing_safetensors",
]


class RepoRefusal(ConversionInputError):
    """A repository is refused before any of its weights are fetched."""

    refusal_kind: ClassVar[RefusalKind] = "unknown_shape"

    def __init__(self, message: str, *, ref: str = "", files: Sequence[str] = ()) -> None:
        """Keep what is to blame.

        Args:
            message: What is wrong and what to do.
            ref: The repository.
            files: Paths in it.
        """
        super().__init__(message, file=files[0] if files else "", step="classify")
        self.ref = ref
        self.files = tuple(files)


class PickleOnlyRefusal(RepoRefusal):
    """Its weights can run code while they are read."""

    refusal_kind = "pickle_only"


class TfKerasOnlyRefusal(RepoRefusal):
    """Its weights are those of TensorFlow or Keras."""

    refusal_kind = "tf_keras_only"


class OnnxOnlyRefusal(RepoRefusal):
    """It has a graph of ONNX and no weights by themselves."""

    refusal_kind = "onnx_only"


class OpenVinoOnlyRefusal(RepoRefusal):
    """It has a graph of OpenVINO and no weights by themselves."""

    refusal_kind = "openvino_only"


class TfliteOnlyRefusal(RepoRefusal):
    """It has a graph of TensorFlow Lite and no weights by themselves."""

    refusal_kind = "tflite_only"


class TensorRtOnlyRefusal(RepoRefusal):
    """It has an engine that was built for one kind of GPU."""

    refusal_kind = "tensorrt_only"


class CoreMlOnlyRefusal(RepoRefusal):
    """It has a program of Core ML and no weights by themselves."""

    refusal_kind = "coreml_only"


class FlaxOnlyRefusal(RepoRefusal):
    """Its weights are those of Flax."""

    refusal_kind = "flax_only"


class NemoOnlyRefusal(RepoRefusal):
    """Its weights are in an archive of NeMo, which holds a pickle."""

    refusal_kind = "nemo_only"


class UnknownShapeRefusal(RepoRefusal):
    """It is no model, or several."""

    refusal_kind = "unknown_shape"


class TooLargeRefusal(RepoRefusal):
    """What would be fetched is more than is allowed."""

    refusal_kind = "too_large"


class MissingSafetensorsRefusal(RepoRefusal):
    """It lacks weights in safetensors, wholly or for one of its components."""

    refusal_kind = "missing_safetensors"


REFUSALS: Mapping[str, type[RepoRefusal]] = MappingProxyType(
    {
        cls.refusal_kind: cls
        for cls in (
            PickleOnlyRefusal,
            TfKerasOnlyRefusal,
            OnnxOnlyRefusal,
            OpenVinoOnlyRefusal,
            TfliteOnlyRefusal,
            TensorRtOnlyRefusal,
            CoreMlOnlyRefusal,
            FlaxOnlyRefusal,
            NemoOnlyRefusal,
            UnknownShapeRefusal,
            TooLargeRefusal,
            MissingSafetensorsRefusal,
        )
    }
)
"""All there are, by kind."""
