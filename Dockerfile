# Two images of one plugin:
#
#   docker build --target cpu -t foveate:cpu .     Debian and the embedded Triton 2.51, loopback only
#   docker build -t foveate .                      the Triton container: production, with or without GPU
#
# Both run as user 1000 and need no writable root: only /var/lib/foveate, /run/foveate and /tmp.
ARG DEBIAN=docker.io/library/debian:bookworm-slim
# 25.07 or newer: older ones let anybody who reaches them run code.
ARG TRITON=nvcr.io/nvidia/tritonserver:26.11-py3


FROM ${DEBIAN} AS cpu-base
# libpython: Debian's interpreter is linked statically, Triton's Python backend needs the library.
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 libpython3.11 tini \
 && rm -rf /var/lib/apt/lists/*

FROM cpu-base AS cpu-build
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
# Packages come from where pip's own configuration says. Without an index of CPU builds here, or in
# that configuration, torch comes with CUDA, which this image does not use.
ARG PIP_EXTRA_INDEX_URL
ARG PIP_CERT
ARG PIP_FIND_LINKS
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/foveate \
 && /opt/foveate/bin/pip install --no-cache-dir -c constraints.txt '.[cpu,embedded,adapter]'

FROM cpu-base AS cpu
COPY --from=cpu-build /opt/foveate /opt/foveate
COPY model_repository /models
ENV PATH=/opt/foveate/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/foveate \
    FOVEATE_STATE_DIR=/var/lib/foveate \
    FOVEATE_RUN_DIR=/run/foveate
# check_repository makes the version folders that git does not keep.
RUN install -d -m 700 -o 1000 -g 1000 /var/lib/foveate /run/foveate \
 && python -c 'import foveate.repository, pathlib; foveate.repository.check_repository(pathlib.Path("/models"))'
USER 1000:1000
VOLUME ["/var/lib/foveate", "/run/foveate"]
EXPOSE 8000 8001 8002 8080
HEALTHCHECK --interval=10s --timeout=45s --start-period=5m --retries=3 \
    CMD ["foveate", "health", "--repository=/models", "--patience=30"]
ENTRYPOINT ["tini", "--"]
CMD ["foveate", "serve", "--repository=/models"]


# hadolint ignore=DL3006
FROM ${TRITON} AS triton-base
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/*

FROM triton-base AS triton-build
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
ARG PIP_EXTRA_INDEX_URL
ARG PIP_CERT
ARG PIP_FIND_LINKS
WORKDIR /src
COPY . .
# torch must be PyPI's own build, with CUDA: name no index of CPU builds here.
RUN python3 -m venv /opt/foveate \
 && /opt/foveate/bin/pip install --no-cache-dir -c constraints-gpu.txt '.[cpu,gpu,adapter]'

FROM triton-base AS triton
COPY --from=triton-build /opt/foveate /opt/foveate
COPY model_repository /models
# The first python3 on PATH decides which packages the model processes see.
ENV PATH=/opt/foveate/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/foveate \
    FOVEATE_STATE_DIR=/var/lib/foveate \
    FOVEATE_RUN_DIR=/run/foveate
# The plugin also lies where a tritonserver started by hand looks for it.
RUN install -d -m 700 -o 1000 -g 1000 /var/lib/foveate /run/foveate \
 && install -d /opt/tritonserver/backends/foveate \
 && ln -s "$(python -c 'import foveate_cli.host.tritonserver; print(foveate_cli.host.tritonserver.PLUGIN)')" \
    /opt/tritonserver/backends/foveate/model.py \
 && python -c 'import foveate.repository, pathlib; foveate.repository.check_repository(pathlib.Path("/models"))'
USER 1000:1000
VOLUME ["/var/lib/foveate", "/run/foveate"]
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=45s --start-period=5m --retries=3 \
    CMD ["foveate", "health", "--repository=/models", "--patience=30"]
ENTRYPOINT ["tini", "--"]
# The adapter is a container of its own, beside this one: beyond loopback it wants a token.
CMD ["foveate", "serve", "--repository=/models", "--server-bin=/opt/tritonserver/bin/tritonserver", \
     "--host=0.0.0.0", "--no-adapter"]
