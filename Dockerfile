# Maestro's image: controller, HTTP API and the init container of Jobs.
# Any Debian-like base with Python 3.11 or newer and its venv module will do.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /src
RUN python3 -m venv /opt/maestro
COPY requirements/runtime.lock requirements/runtime.lock
# Wheels only: nothing is compiled, and every file is held to its hash.
RUN /opt/maestro/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: \
        -r requirements/runtime.lock
COPY pyproject.toml README.md ./
COPY operator operator
RUN /opt/maestro/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps . \
    && /opt/maestro/bin/pip uninstall -q -y pip setuptools \
    && find /opt/maestro -depth -type d \( -name tests -o -name test \) -path '*/site-packages/*' -exec rm -rf {} + \
    && python3 -m compileall -q /opt/maestro/lib

FROM ${BASE_IMAGE}
COPY --from=build /opt/maestro /opt/maestro
ENV PATH=/opt/maestro/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /tmp
EXPOSE 8080 8081 6971
ENTRYPOINT ["/opt/maestro/bin/maestro"]
CMD ["run"]
