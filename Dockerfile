# syntax=docker/dockerfile:1
# The worker image of any endpoint project. The project's directory is the build context:
#
#   docker build -t marco-polo -f Dockerfile examples/marco-polo

ARG PYTHON_VERSION=3.12
FROM ghcr.io/astral-sh/uv:python${PYTHON_VERSION}-bookworm-slim

# Which torch is taken if the project depends on it, and for what: cpu, cu126, cu128, ...
ARG UV_TORCH_BACKEND=cu126
ARG TORCH_SPEC='~=2.11.0'

ENV PYTHONUNBUFFERED=1 \
    PYTHONPATH=/app/src:/app \
    UV_SYSTEM_PYTHON=1 \
    UV_BREAK_SYSTEM_PACKAGES=1 \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy

# No USER: only root can give away a bind mount that the engine creates for /outputs. The worker
# becomes this user before it runs a line of the project.
RUN useradd --create-home --uid 10001 worker \
    && mkdir -p /outputs /var/cache/gen-worker/inductor \
    && chown worker:worker /outputs /var/cache/gen-worker/inductor
ENV GEN_WORKER_USER=worker

WORKDIR /app

# Dependencies before sources, so that an edit of the sources installs nothing again. The project's
# lock binds their versions, except those of torch and what it brings, which the arguments choose.
COPY pyproject.toml uv.lock* ./
RUN --mount=type=cache,target=/root/.cache/uv \
    echo "torch${TORCH_SPEC}" > /tmp/torch.txt \
    && if [ -f uv.lock ]; then \
        uv export --quiet --frozen --no-dev --no-hashes --no-emit-project --no-emit-local \
            --prune torch --prune torchvision --prune torchaudio --output-file /tmp/pins.txt; \
    else \
        touch /tmp/pins.txt; \
    fi \
    && uv pip install --torch-backend "${UV_TORCH_BACKEND}" \
        --no-sources-package gen-worker --no-sources-package gen-worker-core \
        --requirement pyproject.toml --constraint /tmp/pins.txt --constraint /tmp/torch.txt \
        gen-worker

COPY . .
RUN mkdir -p /app/.tensorhub \
    && python -m gen_worker.discovery > /app/.tensorhub/endpoint.lock

ENTRYPOINT ["python", "-m", "gen_worker.entrypoint"]
