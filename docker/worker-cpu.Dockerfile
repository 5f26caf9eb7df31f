# syntax=docker/dockerfile:1
# A worker without a GPU, as small as it gets: no compiler, no git, no uv in it.
# The project's directory is the build context:
#
#   docker build -t marco-polo -f docker/worker-cpu.Dockerfile examples/marco-polo

ARG PYTHON_VERSION=3.12

# Compilers, git and uv stay in this stage.
FROM ghcr.io/astral-sh/uv:python${PYTHON_VERSION}-bookworm AS build
# Which torch is taken if the project depends on it.
ARG UV_TORCH_BACKEND=cpu
ARG TORCH_SPEC='~=2.11.0'
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app/src:/app
WORKDIR /app
RUN uv venv --python /usr/local/bin/python "$VIRTUAL_ENV"

# Dependencies before sources, so that an edit of the sources installs nothing again. The project's
# lock binds their versions, except those of torch and what it brings.
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

FROM python:${PYTHON_VERSION}-slim-bookworm

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app/src:/app \
    PYTHONUNBUFFERED=1 \
    GEN_WORKER_USER=worker

# No USER: only root can give away a bind mount that the engine creates for /outputs. The worker
# becomes this user before it runs a line of the project.
RUN useradd --create-home --uid 10001 worker \
    && mkdir -p /outputs /var/cache/gen-worker/inductor \
    && chown worker:worker /outputs /var/cache/gen-worker/inductor
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ENTRYPOINT ["python", "-m", "gen_worker.entrypoint"]
