# One image for the controller and the agent; the chart says which of the two a container runs.
# Any Debian-like base with Python >= 3.11 will do: both stages use the same one.
ARG BASE=docker.io/library/python:3.13-slim-trixie

FROM ${BASE} AS dependencies
ARG UV_VERSION=0.13.9
# Package indexes and certificates of the machine that builds, where it needs its own.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG UV_DEFAULT_INDEX
ARG UV_INDEX
ARG SSL_CERT_FILE
ENV UV_PROJECT_ENVIRONMENT=/opt/ksm-operator \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}" \
    && python3 -m venv --without-pip /opt/ksm-operator
WORKDIR /src
COPY pyproject.toml uv.lock ./
RUN /opt/build/bin/uv sync --locked --no-dev --extra agent --extra controller \
        --no-install-project --compile-bytecode \
    && python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > /opt/build/requirements.txt \
    && /opt/build/bin/uv pip install --python /opt/build/bin/python3 -r /opt/build/requirements.txt

# A code change builds from here, offline, and gives a layer of its own.
FROM dependencies AS package
COPY README.md LICENSE ./
COPY operator operator
RUN /opt/build/bin/python3 -m hatchling build -t wheel -d /opt/wheel \
    && /opt/build/bin/uv pip install --python /opt/ksm-operator/bin/python3 --prefix /opt/package \
        --offline --no-deps --compile-bytecode /opt/wheel/*.whl

FROM ${BASE}
# The root file system is read-only in the cluster: what is not compiled now is at every start.
RUN python3 -m compileall -q -x '/(test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3)/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=dependencies /opt/ksm-operator /opt/ksm-operator
COPY --from=package /opt/package /opt/ksm-operator
ENV PATH=/opt/ksm-operator/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="ksm-operator" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
