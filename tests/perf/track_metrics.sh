#!/bin/sh
# Builds sapid, measures it, compares with the last run and the baseline, keeps the figures in perf/history:
# `sapid perf track`. Arguments go to it. Exit status 3: it regressed.
#   tests/perf/track_metrics.sh                        examples/hello, against the baseline (the first run makes it)
#   tests/perf/track_metrics.sh --root ~/my-app --baseline v1.0
set -e
here=$(dirname "$(readlink -f "$0")")/../..
"$here/run" --build >&2
case " $* " in
*" --root"* | *" --config"*) exec "$here/build/sapid" perf track "$@" ;;
*) exec "$here/build/sapid" perf track --root "$here/examples/hello" "$@" ;;
esac
