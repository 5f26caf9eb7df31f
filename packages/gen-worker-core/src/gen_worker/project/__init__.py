"""Read endpoint.toml: where to run an endpoint, what to import, how to build its image."""

from gen_worker.project.loader import ENDPOINT_FILE, ProjectError, load_project
from gen_worker.project.values import (
    BuildMode,
    FunctionOptions,
    HostRequirements,
    ModelEntry,
    Profile,
    Project,
    ResourceLimits,
)

__all__ = [
    "ENDPOINT_FILE",
    "BuildMode",
    "FunctionOptions",
    "HostRequirements",
    "ModelEntry",
    "Profile",
    "Project",
    "ProjectError",
    "ResourceLimits",
    "load_project",
]
