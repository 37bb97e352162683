# The image of the service in two stages: `build` installs into /opt/anole, and the final stage runs it.
#
#   docker build -t anole .                             torch for CPU
#   docker build -t anole:cuda --build-arg FLAVOUR=cuda .
#   docker run --rm -v store:/data anole keys create first --client '*' --scope predict --scope adapt
#   docker run -v store:/data -p 8000:8000 anole        does not start before there is a key
#
# BASE_IMAGE   any Debian-like image whose python3 is 3.11 or newer, with its venv module
# FLAVOUR      cpu or cuda
# EXTRAS       extras of pyproject.toml, such as "shared bridge"
# CPU_INDEX    index of CPU builds of torch; empty if PIP_FIND_LINKS or PIP_INDEX_URL provides them
# PIP_*        variables of pip, for a mirror, a folder of wheels or a certificate
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG FLAVOUR=cpu
ARG EXTRAS=shared
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python3 -m venv /opt/anole

# Dependencies are installed before the code is copied, so that code changes do not rebuild this layer.
COPY pyproject.toml constraints.txt ./
RUN set -eu; \
    case "$FLAVOUR" in \
        cpu) indexes="$CPU_INDEX ${PIP_EXTRA_INDEX_URL:-}" ;; \
        cuda) indexes="${PIP_EXTRA_INDEX_URL:-}" ;; \
        *) echo "FLAVOUR=$FLAVOUR: choose cpu or cuda" >&2; exit 64 ;; \
    esac; \
    python3 -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = [line for extra in sys.argv[1].split() for line in p["optional-dependencies"][extra]]; \
print(*p["dependencies"], *extras, sep="\n")' "$EXTRAS" >requirements.txt; \
    PIP_EXTRA_INDEX_URL="$indexes" /opt/anole/bin/pip install -c constraints.txt -r requirements.txt

COPY . .
RUN PIP_CONSTRAINT=constraints.txt /opt/anole/bin/pip install --no-deps . && \
    /opt/anole/bin/pip check && \
    /opt/anole/bin/pip uninstall --yes pip

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Anole" \
      org.opencontainers.image.description="Fast-adaptation inference service" \
      org.opencontainers.image.licenses="MIT"
RUN groupadd --gid 10001 anole && \
    useradd --uid 10001 --gid anole --no-create-home --home-dir /tmp --shell /usr/sbin/nologin anole && \
    install --directory --owner=anole --group=anole --mode=0700 /data
COPY --from=build /opt/anole /opt/anole

# Only /data and /tmp are written, so the root file system can be read-only.
ENV PATH=/opt/anole/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    ANOLE_HOST=0.0.0.0 \
    ANOLE_PORT=8000 \
    ANOLE_DATA=/data \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/readyz' % os.environ['ANOLE_PORT'], timeout=4)"]
ENTRYPOINT ["anole"]
CMD ["serve"]
