#!/bin/sh
# Builds sapid, loads an application with it and reports: `sapid perf run`. Arguments go to it.
#   tests/perf/run_benchmark.sh                        examples/hello, all load profiles
#   tests/perf/run_benchmark.sh --root ~/my-app --path /page --loads medium
set -e
here=$(dirname "$(readlink -f "$0")")/../..
"$here/run" --build >&2
case " $* " in
*" --root"* | *" --config"* | *" --url"*) exec "$here/build/sapid" perf run "$@" ;;
*) exec "$here/build/sapid" perf run --root "$here/examples/hello" "$@" ;;
esac
