#!/bin/sh
# The ladder on CIFAR-10 at 16 x 16: all parts, then the report. Every part goes on where it was interrupted. From
# the repository's root:
#
#   sh experiments/cifar10/ladder/run.sh --set data.download=true
#
# Arguments go to every sweep. PLAN.md has the hypotheses; what came of them: docs/results/ladder.md.
set -e
here=$(dirname "$0")
stitch_sweep=${STITCH_SWEEP:-.venv/bin/stitch-sweep}
for part in task controls similarity no_skips images_quarter images_sixteenth; do
    "$stitch_sweep" sweep "$here/$part/config.yml" --resume "$@"
done
"$stitch_sweep" longer "$here/task"
"$stitch_sweep" sanity "$here/task/config.yml" "$@"
for part in task controls similarity no_skips images_quarter images_sixteenth; do
    "$stitch_sweep" analyze "$here/$part"
done
