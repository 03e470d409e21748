# The image of ray_job.yaml: Ray's own, with this folder's code and what it needs.
FROM rayproject/ray:2.60.0-py311
ENV RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
COPY --chown=ray:users pyproject.toml constraints.txt README.md LICENSE /home/ray/stitch-sweep/
COPY --chown=ray:users stitch_sweep /home/ray/stitch-sweep/stitch_sweep
COPY --chown=ray:users search_spaces /home/ray/stitch-sweep/search_spaces
WORKDIR /home/ray/stitch-sweep
RUN pip install --no-cache-dir -c constraints.txt '.[cluster]'
WORKDIR /home/ray
