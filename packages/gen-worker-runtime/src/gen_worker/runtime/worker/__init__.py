"""The worker: joins a pool over gRPC, runs its jobs, and leaves without losing a result."""
