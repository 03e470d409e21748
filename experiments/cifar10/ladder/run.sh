#!/bin/sh
# The ladder on CIFAR-10 at 16 x 16, a folder per part and size. Every folder goes on where it was interrupted, and a
# name runs one part or one size alone. From the repository's root:
#
#   sh experiments/cifar10/ladder/run.sh --set data.download=true                     all of it
#   sh experiments/cifar10/ladder/run.sh task/d1w4 task/d1w8 --set data.download=true
#
# Other arguments go to every sweep. PLAN.md has the hypotheses; what came of them: docs/results/ladder.md.
set -e
here=$(dirname "$0")
stitch_sweep=${STITCH_SWEEP:-.venv/bin/stitch-sweep}
python=${PYTHON:-.venv/bin/python}
chosen=
while [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; do
    chosen="$chosen $1"
    shift
done
for part in ${chosen:-task controls similarity no_skips images_quarter images_sixteenth}; do
    for config in "$here/$part/config.yml" "$here/$part"/*/config.yml; do
        [ -f "$config" ] || continue
        folder=$(dirname "$config")
        "$stitch_sweep" sweep "$config" --resume "$@"
        case $part in task*) "$stitch_sweep" longer "$folder" ;; esac
        "$stitch_sweep" analyze "$folder"
        "$python" "$here/collect.py" "$folder"
    done
done
"$python" "$here/results.py"
