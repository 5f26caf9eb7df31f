"""The older place of `gen_worker.model_cache`, for endpoints that import it from here."""

from gen_worker.model_cache import ModelCache, ModelCacheStats, ModelLocation

__all__ = ["ModelCache", "ModelCacheStats", "ModelLocation"]
