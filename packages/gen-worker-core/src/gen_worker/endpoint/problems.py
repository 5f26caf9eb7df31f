"""What can be wrong with a decorated function or class, each mistake under a stable code.

A decorator looks at everything before it complains: `Findings` collects the mistakes of one
definition and raises them as one `DefinitionError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.problems import Problem, ProblemsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["DEFINITION_CODES", "DefinitionError", "DefinitionTypeError", "Findings"]

DEFINITION_CODES: Mapping[str, str] = {
    # what is decorated
    "not_a_function": "A function decorator was put on something that is not a plain function.",
    "not_a_class": "A class decorator was put on something that is not a class.",
    "decorated_twice": "The function or class already carries an endpoint decorator.",
    # annotations and parameters
    "unresolved_annotation": "An annotation names something unknown when the decorator runs.",
    "context_missing": "There is no first positional parameter to receive the context.",
    "context_annotation": "The first parameter is annotated with a type no context has here.",
    "payload_missing": "No parameter is annotated with a msgspec.Struct subclass.",
    "payload_ambiguous": "More than one parameter is annotated with a msgspec.Struct subclass.",
    "unbound_parameter": "Nothing supplies this parameter: it is neither payload nor model.",
    "variadic_parameter": "A handler takes *args or **kwargs, which nothing fills.",
    "positional_only_parameter": "A parameter after the context cannot be passed by name.",
    "reserved_parameter": "A parameter has a name the SDK keeps for itself.",
    "parameter_annotation": "A reserved parameter has no annotation, or one of another type.",
    "source_missing": "A job that converts or trains takes no parameter `source`.",
    # payload fields
    "reserved_field": "The payload has a field the SDK keeps for itself.",
    "unknown_payload_field": "A cost hint names a field the payload does not have.",
    # models
    "invalid_models": "`models=` is not a mapping of parameter names to bindings.",
    "binding_mismatch": "A binding does not fit its parameter or the payload.",
    "unknown_model_parameter": "`models=` names a parameter that does not exist.",
    "bound_twice": "A parameter is bound both in `models=` and in its annotation.",
    "model_in_setup": "A model chosen per call is a parameter of `setup`, which runs once.",
    # results
    "return_type": "The return annotation is not one a function of this kind may have.",
    "return_shape": "The return annotation contradicts how the function is written.",
    "async_not_allowed": "Functions of this kind must not be async.",
    "not_a_stream": "A batched method is not an async generator.",
    # options
    "invalid_option": "A decorator option has a wrong value.",
    "invalid_name": "A name is not text, or nothing routable is left of it.",
    "duplicate_name": "Two functions, stages or rows of one class have the same routable name.",
    "invalid_resources": "`resources=` is not a Resources record.",
    "invalid_concurrency": "`concurrency=` is none of the three modes, or contradicts the types.",
    "invalid_calibration": "`calibration=` is not a map of schemes to policies.",
    "invalid_job_kind": "`kind=` of a training function is not a non-empty text.",
    # classes
    "no_functions": "The class has no method that is marked as a function.",
    "constructor_arguments": "`__init__` needs arguments; instances are made without any.",
    "invalid_hook": "`setup`, `warmup` or `shutdown` cannot be called the way it will be.",
    "invalid_batching": "The micro-batching options are incomplete or out of range.",
    "invalid_runtime": "`runtime=` is unknown, or nothing in the class is async.",
    "invalid_stage": "A stage has a wrong gpu_class, or stands in a class that has no stages.",
    "invalid_case": "A row of `parametrize=` is not usable.",
}
"""Every code a decorator reports, with its meaning in one line."""


class DefinitionError(ProblemsError):
    """A decorated function or class has mistakes; `problems` holds every one that was found."""

    def __init__(self, subject: str, problems: Iterable[Problem]) -> None:
        super().__init__(problems)
        self.args = (_report(subject, self.problems),)

    @property
    def code(self) -> str:
        """Code of the first mistake."""
        return self.problems[0].code


class DefinitionTypeError(DefinitionError, TypeError):
    """The same, where at least one mistake is a value of the wrong type."""


def _report(subject: str, problems: tuple[Problem, ...]) -> str:
    """Say all mistakes without their places: the traceback shows where the decorator stands."""
    lines = [_sentence(problem) for problem in problems]
    if len(lines) == 1:
        return lines[0]
    return "\n  - ".join([f"{subject} has {len(lines)} mistakes", *lines])


def _sentence(problem: Problem) -> str:
    text = f"{problem.message}: {problem.hint}" if problem.hint else problem.message
    return f"{text} [{problem.code}]"


class Findings:
    """Collects the mistakes of one definition."""

    def __init__(self, subject: str, *, file: str = "", line: int = 0) -> None:
        self._subject = subject
        self.file = file
        self._line = line
        self._found: list[tuple[Problem, bool, Exception | None]] = []

    def at(self, subject: str, file: str, line: int) -> Findings:
        """Return a view that reports into the same collection, for one part of the definition."""
        part = Findings(subject, file=file, line=line)
        part._found = self._found
        return part

    def add(
        self,
        code: str,
        message: str,
        hint: str = "",
        *,
        wrong_type: bool = False,
        cause: Exception | None = None,
    ) -> None:
        """Note one mistake.

        Args:
            code: A key of `DEFINITION_CODES`, or a code that a binding brought along.
            message: What is wrong; the subject is put in front of it.
            hint: What to do about it.
            wrong_type: Whether the mistake is a `TypeError`.
            cause: The exception that revealed it.
        """
        problem = Problem(
            code=code,
            message=f"{self._subject}: {message}",
            hint=hint,
            file=self.file,
            line=self._line,
        )
        self._found.append((problem, wrong_type, cause))

    def __len__(self) -> int:
        return len(self._found)

    def raise_if_any(self) -> None:
        """Raise everything found as one error.

        Raises:
            DefinitionTypeError: At least one mistake is a wrong type.
            DefinitionError: There are mistakes, all of them wrong values.
        """
        if not self._found:
            return
        problems, wrong_types, causes = zip(*self._found, strict=True)
        error = DefinitionTypeError if any(wrong_types) else DefinitionError
        cause = next((cause for cause in causes if cause is not None), None)
        raise error(self._subject, problems) from cause
