# Stitch Sweep on your machine, on CPUs. Build it in this folder, and run it in the folder of your files:
#     docker build -t stitch-sweep -f user.Dockerfile .
#     docker run --rm --shm-size=2g -v "$PWD:/work" stitch-sweep sweep config.yml
# docs/guides/installation.md explains both commands. The file Dockerfile is another image: that of the nodes
# of a Ray cluster, which ray_job.yaml uses.
FROM python:3.11-slim-bookworm
# An index with CPU builds of PyTorch saves 4 GB: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL=
# The user's number should be that of the owner of the mounted folder: --build-arg UID=$(id -u)
ARG UID=1000
RUN useradd --create-home --uid "$UID" stitcher
ENV RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY stitch_sweep /src/stitch_sweep
RUN pip install --no-cache-dir -c /src/constraints.txt /src
USER stitcher
WORKDIR /work
ENTRYPOINT ["stitch-sweep"]
CMD ["--help"]
