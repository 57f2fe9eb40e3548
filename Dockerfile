# The serving image: the base, the packages of requirements-serve.txt, raincast without its training rooms (.dockerignore
# leaves them out), and one model. `make image` builds it reproducibly; `docker build .` in a checkout with model/ gives
# the same content.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim

FROM ${BASE_IMAGE} AS wheels
COPY requirements-serve.txt ci/slim.py /build/
# Compiles bytecode that Python never compares with its source: files in an image do not change, and it starts faster. The
# base ships its library without bytecode, and a read-only root file system could not keep any. `make image` mounts the
# settings of the package index (ci/package_index.py).
RUN if [ -e /run/package-index/settings ]; then . /run/package-index/settings; fi; \
    pip install --quiet --no-cache-dir --no-compile --disable-pip-version-check --root-user-action=ignore \
      --require-hashes --only-binary=:all: --prefix=/installed -r /build/requirements-serve.txt \
    && python /build/slim.py /installed

FROM ${BASE_IMAGE} AS dependencies
COPY --from=wheels /installed /usr/local

FROM ${BASE_IMAGE} AS application
WORKDIR /app
COPY prediction.py ./
COPY raincast raincast/
COPY data/sample.csv data/stations.csv data/
COPY model/model.json model/model.onnx model/model-row.onnx model/
RUN python -m compileall -q --invalidation-mode unchecked-hash raincast && chmod -R a+rX .

FROM dependencies
ARG SOURCE="" REVISION="" VERSION="" BASE_NAME="" BASE_DIGEST="" MODEL_VERSION="" MODEL_SHA256="" DATA_SHA256=""
LABEL org.opencontainers.image.title="raincast" \
      org.opencontainers.image.description="Does it rain tomorrow at an Australian weather station?" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.base.name="${BASE_NAME}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}" \
      raincast.model.version="${MODEL_VERSION}" \
      raincast.model.sha256="${MODEL_SHA256}" \
      raincast.data.sha256="${DATA_SHA256}"
ENV PYTHONDONTWRITEBYTECODE=1 RAINCAST_HOST=0.0.0.0 RAINCAST_PORT=8080
WORKDIR /app
COPY --from=application /app ./
# A number, because Kubernetes cannot tell from a name that a user is not root.
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["python", "-m", "raincast.serving.healthcheck"]
ENTRYPOINT ["python", "/app/prediction.py"]
