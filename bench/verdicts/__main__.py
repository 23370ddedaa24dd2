"""How often `sapid perf compare` is right: the same build against itself, and against one that is slower.

    /usr/bin/python3 bench/verdicts                20 and 20 comparisons (about 40 minutes), writes RESULT.md
    /usr/bin/python3 bench/verdicts --times 3      a look, written to standard output only

The slower build is sapid with an auto_prepend_file that burns CPU; how much is found by trying, until a
request costs the server 10 % more CPU, as `perf compare` itself measures it over many blocks.
"""
import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def compare(sapid, a, b, root, *args):
    command = [sapid, "perf", "compare", a, b, "--root", root, "--format", "json", "--warmup", "300ms", *args]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=900)
    if done.returncode not in (0, 3):
        sys.exit(f"bench/verdicts: {' '.join(command)} ended with status {done.returncode}")
    return json.loads(done.stdout)


def write(path, text, mode=0o644):
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)
    return path


class Slower:
    """sapid whose every request runs a loop of `turns` turns first."""

    def __init__(self, sapid, work):
        self.burn = os.path.join(work, "burn.php")
        self.set(0)
        self.program = write(os.path.join(work, "slower"),
                             f'#!/bin/sh\nexec {sapid} "$@" -d auto_prepend_file={self.burn}\n', 0o755)

    def set(self, turns):
        write(self.burn, f"<?php for ($i = 0; $i < {turns}; $i++) {{ $x = $i * 3; }}\n")


def fit(points):
    """Slope and offset of the straight line with the least squares."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return slope, mean_y - slope * mean_x


def calibrate(sapid, work, root, percent):
    """Turns that cost `percent` more CPU than the plain build, and all measurements on the way. Two rough ones say where to look;
    what counts is the line through those near the aim, three of them beside the one without a turn."""
    slower = Slower(sapid, work)
    points = []

    def measure(turns):
        slower.set(turns)
        got = compare(sapid, sapid, slower.program, root)["cpu_us_per_request"]["ratio"]
        points.append((turns, got))
        print(f"calibration: {turns} turns cost {100 * (got - 1):+.1f} %", file=sys.stderr, flush=True)

    def aim(used):
        slope, offset = fit(used)
        if slope <= 0:
            sys.exit("bench/verdicts: more turns do not cost more; is the machine too busy to measure anything?")
        return max(round((1 + percent / 100 - offset) / slope), 1)

    measure(0)
    measure(2000)
    for _ in range(3):
        near = [points[0], *points[2:]]
        measure(aim(near if len(near) > 1 else points))
    slower.set(aim([points[0], *points[2:]]))
    return slower, points


def report(options, counts, points, lines):
    """The page, after as many runs as there were."""
    done = {name: sum(of.values()) for name, of in counts.items()}
    summary = (f"Same build: noise in {counts['same']['noise']} of {done['same']}. "
               f"{options.percent:g} % slower: regress in {counts['slower']['regress']} of {done['slower']}.\n\n"
               f"Calibration: " + ", ".join(f"{turns} turns of an empty loop {100 * (ratio - 1):+.1f} %" for turns, ratio in points)
               + ".\n")
    return ("# Verdicts of `sapid perf compare`\n\nMade by `/usr/bin/python3 bench/verdicts`: hello.php, defaults (12 to 48 blocks "
            "of 10 times A B B A, 50 ms each, medium; server and generator on processors of their own) but for "
            "`--warmup 300ms`.\n\n"
            + summary + "\n" + "\n".join(lines) + "\n")


def main():
    p = argparse.ArgumentParser(prog="bench/verdicts", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--times", type=int, default=20)
    p.add_argument("--percent", type=float, default=10)
    p.add_argument("--sapid", default=os.path.join(ROOT, "build", "sapid"))
    options = p.parse_args()
    counts = {"same": collections.Counter(), "slower": collections.Counter()}
    lines = ["| run | build | verdict | CPU/request | interval | requests/s |", "|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory(prefix="sapid-verdicts-") as work:
        os.chmod(work, 0o755)
        root = os.path.join(work, "root")
        os.mkdir(root)
        write(os.path.join(root, "index.php"), "<?php echo 'hello';")
        slower, points = calibrate(options.sapid, work, root, options.percent)
        for i in range(options.times):
            for name, program in (("same", options.sapid), ("slower", slower.program)):
                got = compare(options.sapid, options.sapid, program, root)
                cpu, rps = got["cpu_us_per_request"], got["requests_per_sec"]
                counts[name][got["verdict"]] += 1
                lines.append(f"| {i + 1} | {name} | {got['verdict']} | {cpu['ratio']:.3f} | {cpu['low']:.3f} .. "
                             f"{cpu['high']:.3f} | {rps['ratio']:.3f} |")
                print(lines[-1], file=sys.stderr, flush=True)
                if options.times >= 20:     # after each: a run that is cut off leaves what it has
                    write(os.path.join(HERE, "RESULT.md"), report(options, counts, points, lines))
    print(report(options, counts, points, lines))


if __name__ == "__main__":
    main()
