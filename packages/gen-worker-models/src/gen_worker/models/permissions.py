"""What the caller of a function may change about a declared model, and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import OverrideError

if TYPE_CHECKING:
    from gen_worker.models.choice import ModelChoice

__all__ = ["Permissions", "is_pipeline_class_allowed", "qualified_name"]

BROAD_LOADERS = frozenset(
    {
        "DiffusionPipeline",
        "AutoPipelineForText2Image",
        "AutoPipelineForImage2Image",
        "AutoPipelineForInpainting",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoModelForSeq2SeqLM",
        "AutoModelForVision2Seq",
        "AutoModelForImageClassification",
        "AutoModelForImageTextToText",
        "AutoModelForAudioClassification",
        "AutoModelForSpeechSeq2Seq",
        "PreTrainedModel",
    }
)
"""Classes that load whatever they are given: allowing one of them allows any class."""

_LOADER_LIBRARIES = frozenset({"", "diffusers", "transformers"})


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing, until the author allows it."""

    override_classes: tuple[str, ...] = ()
    """Fully qualified names of the pipeline classes a caller's model may have."""
    allows_lora: bool = False

    @property
    def allows_override(self) -> bool:
        return bool(self.override_classes)

    def with_override(self, *classes: type | str) -> Permissions:
        """Allow models of `classes`, instead of any that were allowed before.

        Raises:
            ValueError: No class is given, or a blank name.
            TypeError: Something else than a class or its full name is given.
        """
        if not classes:
            raise ValueError(
                "allow_override() needs at least one pipeline class, such as "
                'allow_override("diffusers.StableDiffusionXLPipeline")'
            )
        names = dict.fromkeys(map(_class_name, classes))
        return msgspec.structs.replace(self, override_classes=tuple(names))

    def with_lora(self) -> Permissions:
        return msgspec.structs.replace(self, allows_lora=True)

    def check(self, parameter: str, choice: ModelChoice) -> None:
        """Refuse what the author did not allow.

        Raises:
            OverrideError: The caller chose a model, or somebody stacked LoRAs, without leave.
        """
        if choice.is_callers and not self.allows_override:
            raise _refusal(parameter, "the model", "allow_override(PipelineClass)")
        if choice.loras and not self.allows_lora:
            raise _refusal(parameter, "LoRAs", "allow_lora()")

    def to_dict(self) -> dict[str, Any]:
        return {
            "allow_override": self.allows_override,
            "allow_lora": self.allows_lora,
            "pipeline_classes": list(self.override_classes),
        }


def qualified_name(annotation: Any) -> str:
    """Return `module.qualname` of a class; empty for anything that names no class."""
    if not isinstance(annotation, type) or annotation in (object, Any):
        return ""
    return f"{annotation.__module__}.{annotation.__qualname__}"


def is_pipeline_class_allowed(candidate: str, allowed: tuple[str, ...]) -> bool:
    """Tell whether a model of class `candidate` fits the author's list.

    Args:
        candidate: Name as the model's own files give it, with or without its module; empty when
            unknown, which is not refused: loading will tell.
        allowed: Full names. The same class has several of them in one library
            (`diffusers.X`, `diffusers.pipelines.x.X`), so library and class name decide.
    """
    return not candidate or any(_is_same_class(candidate, name) for name in allowed)


def _is_same_class(candidate: str, allowed: str) -> bool:
    library, name = _library_and_name(allowed)
    if name in BROAD_LOADERS and library in _LOADER_LIBRARIES:
        return True
    other_library, other_name = _library_and_name(candidate)
    return name == other_name and (library == other_library or not library or not other_library)


def _library_and_name(full_name: str) -> tuple[str, str]:
    module, _, name = full_name.rpartition(".")
    return module.partition(".")[0], name


def _class_name(cls: type | str) -> str:
    if isinstance(cls, str):
        if not cls.strip():
            raise ValueError("allow_override() got a blank class name: write 'package.ClassName'")
        return cls.strip()
    name = qualified_name(cls)
    if not name:
        raise TypeError(f"allow_override() takes classes or their full names, not {cls!r}")
    return name


def _refusal(parameter: str, what: str, remedy: str) -> OverrideError:
    return OverrideError(
        f"_models[{parameter!r}]: callers may not choose {what} here: leave the entry out "
        f"(the author allows it with .{remedy})",
        code="model_override_not_allowed",
        param=parameter,
    )
