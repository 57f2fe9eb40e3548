# The image that forecasts: the base, what requirements-serve.txt pins, raincast and one model. No compiler, no training.
# `make image` builds it reproducibly; a plain `docker build .` of a checkout with model/ gives the same content.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim

FROM ${BASE_IMAGE} AS wheels
COPY requirements-serve.txt ci/slim.py /build/
# Bytecode that is never compared with its source: files cannot change in an image, and starts are faster. The base
# ships its library without bytecode, and with a read-only root nobody could keep it.
RUN pip install --quiet --no-cache-dir --no-compile --disable-pip-version-check --root-user-action=ignore \
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
# No name: Kubernetes can check of a number that it is not root's.
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["python", "-m", "raincast.health"]
ENTRYPOINT ["python", "/app/prediction.py"]
