"""Writes a typed module for the functions of a running host."""

from __future__ import annotations

from gen_worker.client.stubs.module import generate

__all__ = ["generate"]
