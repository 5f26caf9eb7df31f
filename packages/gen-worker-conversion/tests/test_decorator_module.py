"""`gen_worker.conversion` is a package and the decorator of the same name, whichever came first."""

import subprocess
import sys

import pytest

import gen_worker.conversion as package

IMPORTS = {
    "decorator first": "from gen_worker import conversion; import gen_worker.conversion",
    "package first": "import gen_worker.conversion; from gen_worker import conversion",
    "package only": "from gen_worker import conversion; conversion = __import__("
    "'gen_worker.conversion', fromlist=['x'])",
    "from the package first": "from gen_worker.conversion import ProducedFlavor;"
    "from gen_worker import conversion",
    "decorator only": "from gen_worker import conversion",
    "attribute": "import gen_worker; conversion = gen_worker.conversion",
    "star import after the package": "import gen_worker.conversion; from gen_worker import *;"
    "import gen_worker; gen_worker.conversion.ProducedFlavor",
    "attribute of the package": "import gen_worker.conversion; conversion = gen_worker.conversion",
}

ENDPOINT = """
import msgspec

class In(msgspec.Struct):
    bits: int = 4

@conversion(sub_kind="cast")
class Cast:
    @conversion.function(name="to-bits")
    def cast(self, ctx, payload: In) -> None: ...

    @conversion.stage(gpu_class="small")
    def read(self): ...

@conversion
class Bare:
    @conversion.function
    def run(self, ctx, payload: In) -> None: ...

from gen_worker.spec import class_spec_of
from gen_worker import ConversionContext
from gen_worker.conversion import ProducedFlavor, training_function
for cls in (Cast, Bare):
    spec = class_spec_of(cls)
    (function,) = spec.functions
    print(spec.kind, function.name, function.decorator, len(spec.stages), spec.file, spec.line)
"""


@pytest.mark.parametrize("imports", IMPORTS.values(), ids=IMPORTS)
def test_every_order_of_imports_decorates(imports: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{imports}\n{ENDPOINT}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "conversion to-bits @conversion.function 1 <string> 8",
        "conversion run @conversion.function 0 <string> 16",
    ]


def test_every_name_loads() -> None:
    assert all(hasattr(package, name) for name in package.__all__)
    assert set(package.__all__) <= set(dir(package))


EXPORTS = """
Component ConversionContext Dataset FileLayout ProducedFlavor Source StreamingWriter
CalibrationAction CalibrationPolicy resolve_calibration_action training_function
TrainingFunctionSpec DEFAULT_KIND RECOMMENDED_KINDS ValidationReport ValidationViolation
format_report validate_transform_module ConversionArtifact ConversionOutput IngestResult
tensors_with materialize_safetensors_input persist_safetensors_output
""".split()
"""What authors import from the package, by its specification."""
LIBRARIES = ("torch", "numpy", "safetensors", "gguf", "pyarrow", "transformers", "diffusers")


def test_authors_names_load_without_any_library_of_weights() -> None:
    text = (
        "import sys, importlib.abc\n"
        f"libraries = {LIBRARIES!r}\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.partition('.')[0] in libraries: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import gen_worker.conversion as package\n"
        f"for name in {[*EXPORTS, *package.__all__]!r}: print(name, type(getattr(package, name)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(EXPORTS) <= set(package.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Novelty'"):
        _ = package.Novelty  # type: ignore[attr-defined]
