"""What endpoint.toml may say: one record per table, and the `Project` they add up to.

The records are both the check and the documentation: the published JSON Schema is made from them.
"""

# No `from __future__ import annotations`: msgspec would have to compile every annotation from text
# when the first file is read, which takes longer than everything else here.
import os
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gen_worker.names import slugify_name

__all__ = [
    "Build",
    "BuildMode",
    "EndpointFile",
    "FunctionOptions",
    "Host",
    "HostRequirements",
    "ModelEntry",
    "Profile",
    "Project",
    "ResourceLimits",
]

BuildMode = Literal["generated", "managed", "explicit", "custom"]
"""Who writes the Dockerfile, and who chooses its base image; see docs/endpoint-toml.md."""

_VERSION = r"^[0-9]{1,4}(\.[0-9]{1,4}){0,3}(\.x)?$"
PythonVersion = Annotated[
    str, Meta(pattern=_VERSION, title="a version in quotes", examples=["3.12"])
]
TorchVersion = Annotated[
    str, Meta(pattern=_VERSION, title="a version in quotes", examples=["2.12.x"])
]
CudaVersion = Annotated[str, Meta(pattern=_VERSION, title="a version in quotes", examples=["12.6"])]
Clauses = Annotated[
    str, Meta(min_length=1, title="version clauses in quotes", examples=[">=12.4,<13"])
]
Count = Annotated[int, Meta(ge=0, le=1_000_000, title="a whole number", examples=[1])]
ImageName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$",
        max_length=512,
        title="an image name",
        examples=["pytorch/pytorch:2.12.0-cuda12.6-cudnn9-runtime"],
    ),
]
Requirement = Annotated[
    str,
    Meta(
        pattern="^[A-Za-z0-9]",
        max_length=1024,
        title="a Python requirement",
        examples=["pillow>=11"],
    ),
]
SystemPackage = Annotated[
    str,
    Meta(
        pattern="^[a-z0-9][a-z0-9+.:=~-]*$",
        max_length=256,
        title="a Debian package",
        examples=["ffmpeg"],
    ),
]


class ResourceLimits(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a call may use of a machine."""

    accelerator: Literal["cuda", "none", ""] | None = None
    """Whether calls need a GPU."""
    min_compute_capability: Annotated[str, Meta(title="a version", examples=["8.0"])] | None = None
    """Lowest CUDA compute capability of the GPU."""
    cuda_compute_min: Annotated[str, Meta(title="a version", examples=["8.0"])] | None = None
    """Older name of `min_compute_capability`, which takes its place."""
    gpu_tier: str | None = None
    """Class of GPU, in the platform's words."""
    vram_gb: Count | None = None
    """GiB of VRAM."""
    gpu_count: Count | None = None
    """Number of GPUs."""
    memory_gb: Count | None = None
    """GiB of main memory."""
    ram_gb: Count | None = None
    """Older name of `memory_gb`, which takes its place and wins."""
    cpu_cores: Count | None = None
    """Number of CPU cores."""
    disk_gb: Count | None = None
    """GiB of disk."""
    invoker_compute_override: Literal["", "allowed", "size-only", "none"] | None = None
    """What training invokers may change through the payload key `compute`; empty = sizes only."""
    max_inflight_requests: (
        Annotated[int, Meta(ge=1, le=1_000_000, title="a whole number above 0", examples=[1])]
        | None
    ) = None
    """Calls one worker runs at once."""


class Profile(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One image of the endpoint and the hosts it fits."""

    name: Annotated[str, Meta(min_length=1, max_length=128, title="a name", examples=["gpu"])]
    """What the image and this profile are called."""
    accelerator: Literal["cuda", "none"]
    """Whether the host must have a GPU."""
    cuda_min: CudaVersion | None = None
    """Lowest CUDA level of the host's driver."""
    compute_capabilities: tuple[Clauses, ...] = ()
    """CUDA compute capabilities the image works on, such as `[">=8.0"]`."""
    cpu_arch: Literal["x86", "amd64", "arm64"] = "x86"
    """Processor of the host; `amd64` is read as `x86`."""
    os: Literal["linux", "windows", "macos"] = "linux"
    """Operating system of the host."""
    python: PythonVersion | None = None
    """Python version of the image."""
    torch: TorchVersion | None = None
    """torch version of the image; `2.12.x` is the latest 2.12."""
    cuda: CudaVersion | None = None
    """CUDA version inside the image; may differ from `cuda_min`."""
    image_kind: Literal["runtime", "devel"] | None = None
    """`devel` brings compilers."""
    base_image: ImageName | None = None
    """Explicit base image, used instead of one derived from the versions."""
    dependencies: tuple[Requirement, ...] = ()
    """Added to the project's own, in a generated Dockerfile only."""
    system_dependencies: tuple[SystemPackage, ...] = ()
    """Debian packages, in a generated Dockerfile only."""
    resources: ResourceLimits | None = None
    """Replaces single keys of the root's `[resources]` for this profile."""

    @property
    def has_version_hints(self) -> bool:
        return any((self.python, self.torch, self.cuda))


class Build(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    profiles: tuple[Profile, ...] = ()
    """One image each."""


class HostRequirements(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What the host must offer; `cuda` or `compute_capabilities` signal a GPU."""

    cuda: Clauses | None = None
    """CUDA level of the host's driver, such as `">=12.4"`."""
    compute_capabilities: tuple[Clauses, ...] = ()
    """CUDA compute capabilities, such as `["8.0", "9.x"]`."""

    @property
    def needs_gpu(self) -> bool:
        return self.cuda is not None or bool(self.compute_capabilities)


class Host(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    requirements: HostRequirements = HostRequirements()


class FunctionOptions(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Settings of one function that older endpoints keep in the file."""

    batch_dimension: (
        Annotated[str, Meta(min_length=1, title="a payload path", examples=["clips"])] | None
    ) = None
    """Path of the payload field whose length is the batch size."""


class EndpointFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """endpoint.toml as written."""

    schema_version: Literal[1]
    """Always 1."""
    main: Annotated[str, Meta(min_length=1, title="a dotted import path", examples=["painter.app"])]
    """The module that is imported; all submodules of its top-level package are too."""
    name: Annotated[str, Meta(title="a name", examples=["painter"])] | None = None
    """Name of the endpoint; without it pyproject.toml's `[project].name` is proposed."""
    build: Build = Build()
    resources: ResourceLimits = ResourceLimits()
    host: Host = Host()
    models: dict[str, Any] = {}
    """Older endpoints: refs by key, and per function under `[models.<function>]`."""
    functions: dict[str, FunctionOptions] = {}
    """Older endpoints: settings by function."""


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a `[models]` keyspace."""

    ref: str
    attributes: dict[str, tuple[str, ...]] = {}
    """Acceptable values per attribute, best first."""


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint project: a directory with a valid endpoint.toml."""

    root: str
    """Absolute directory of the project."""
    file: str
    """The endpoint.toml it was read from."""
    main: str
    name: str | None = None
    """Slug of the file's `name`; `endpoint_name` always has one."""
    profiles: tuple[Profile, ...] = ()
    resources: ResourceLimits = ResourceLimits()
    host: HostRequirements = HostRequirements()
    models: dict[str, ModelEntry] = {}
    """Refs any function may use by key."""
    models_by_function: dict[str, dict[str, ModelEntry]] = {}
    """Refs a payload may choose from, by function slug."""
    functions: dict[str, FunctionOptions] = {}
    """By function slug."""
    has_dockerfile: bool = False

    @property
    def endpoint_name(self) -> str:
        """Slug of the endpoint: the file's `name`, else pyproject.toml's, else that of `main`."""
        if self.name:
            return self.name
        return slugify_name(_distribution_name(self.root)) or slugify_name(self.main.split(".")[0])

    def build_mode(self, profile: Profile) -> BuildMode:
        """Say who writes the profile's Dockerfile and who chooses its base image."""
        if not self.has_dockerfile:
            return "generated"
        if profile.base_image:
            return "explicit"
        return "managed" if profile.has_version_hints else "custom"

    def resources_of(self, profile: Profile) -> ResourceLimits:
        """Return `[resources]` with the profile's own keys in place of the root's."""
        if profile.resources is None:
            return self.resources
        own = msgspec.structs.asdict(profile.resources)
        changes = {key: value for key, value in own.items() if value is not None}
        return msgspec.structs.replace(self.resources, **changes)


def _distribution_name(root: str) -> str:
    import tomllib

    try:
        with open(os.path.join(root, "pyproject.toml"), "rb") as file:
            name = tomllib.load(file).get("project", {}).get("name", "")
    except (OSError, ValueError, RecursionError, AttributeError):
        return ""  # the project is judged by its endpoint.toml; validate_endpoint judges this file
    return name if isinstance(name, str) else ""
