"""Where `ModelCache` is imported from."""

from gen_worker.models.residency.cache import ModelCache, ModelCacheStats, ModelLocation

__all__ = ["ModelCache", "ModelCacheStats", "ModelLocation"]
