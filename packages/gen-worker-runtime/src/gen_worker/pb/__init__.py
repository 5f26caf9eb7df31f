"""Generated from `proto/worker_scheduler.proto`. Only `gen_worker.runtime.wire` imports it."""
