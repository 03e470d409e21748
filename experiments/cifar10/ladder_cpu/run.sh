#!/bin/sh
# The ladder at a CPU size, the sanity suite on it, and its report. Goes on where an earlier run stopped; from
# the repository's root:
#
#   sh experiments/cifar10/ladder_cpu/run.sh --set data.download=true
#
# Arguments go to every sweep. What came of it: docs/results/cifar10_ladder.md.
set -e
here=$(dirname "$0")
stitch_sweep=${STITCH_SWEEP:-.venv/bin/stitch-sweep}
for part in task closed_form similarity; do
    "$stitch_sweep" sweep "$here/$part/config.yml" --resume "$@"
done
"$stitch_sweep" sanity "$here/task/config.yml" "$@"
"$stitch_sweep" analyze "$here/task" "$here/closed_form" "$here/similarity"
