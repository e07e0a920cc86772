# syntax=docker/dockerfile:1
# Sightline's server for CPUs, with the default models inside:
#   docker build -t sightline .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/papers.index:/data/papers.index" sightline papers.index
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS build
# Linux on ARM needs a compiler: pytrec-eval-terrier has wheels for x86 only. None of this reaches the image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/sightline
ENV PATH=/opt/sightline/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt .
# PyPI's torch brings 3 GB of CUDA libraries.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu
COPY . .
ARG EXTRAS=cpu,serve,readers,qdrant,otel
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm
RUN useradd --uid 10001 --create-home sightline \
    && install --directory --owner=sightline --group=sightline /data /home/sightline/.cache
COPY --from=build /opt/sightline /opt/sightline
ENV PATH=/opt/sightline/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# Arguments are those of "sightline serve"; for other commands: docker run --entrypoint sightline ...
ENTRYPOINT ["sightline", "serve", "--host", "0.0.0.0", "--port", "8000"]
