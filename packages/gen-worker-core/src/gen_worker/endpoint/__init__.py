"""Decorators: what an author writes, normalised to `gen_worker.spec` records.

Modules are imported one by one (`gen_worker` itself knows where each name is), because an endpoint
of one function needs no class machinery.
"""
