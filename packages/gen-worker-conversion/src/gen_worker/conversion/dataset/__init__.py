"""Datasets: rows in Parquet files beside a `dataset_info.json`, read and written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.conversion.dataset.reading import Dataset
    from gen_worker.conversion.dataset.schema import DatasetError
    from gen_worker.conversion.dataset.writing import DatasetWriter

__all__ = ["Dataset", "DatasetError", "DatasetWriter"]

_MODULES = {
    "reading": ("Dataset",),
    "schema": ("DatasetError",),
    "writing": ("DatasetWriter",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
