"""Can the figures of `sapid bench` be trusted, and what does it cost to make them?

    /usr/bin/python3 bench/generator             both parts, five minutes, writes RESULT.md
    /usr/bin/python3 bench/generator --truth     percentiles against a server of known latencies (truth.py)
    /usr/bin/python3 bench/generator --rate      requests per second and CPU per request beside wrk (rate.py)
"""
import argparse
import os
import platform
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import rate  # noqa: E402
import truth  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", action="store_true")
    parser.add_argument("--rate", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--build", default=str(ROOT / "build"))
    o = parser.parse_args()
    both = o.truth == o.rate
    text = ["# sapid bench against the truth, and beside wrk", "",
            f"Made by `/usr/bin/python3 bench/generator`: Linux {platform.release()}, {os.cpu_count()} processors, "
            f"load average {os.getloadavg()[0]:.0f}. Root runs server and generator", "before all else the machine does "
            "(SCHED_FIFO), so that what is compared is the generator.", ""]
    well = True
    if o.truth or both:
        lines, held = truth.table(Path(o.build) / "bench/generator/target", Path(o.build) / "sapid")
        text += ["## Percentiles in the open loop", ""] + lines + [""]
        well &= held
        print("\n".join(lines[-1:]))
    if o.rate or both:
        lines, held = rate.table(os.path.join(o.build, "sapid"), o.rounds)
        text += ["## The closed loop on one processor", "", "Against a constant answer (micro/epoll_answer); "
                 f"{rate.CONNECTIONS} connections, one second a round, "
                 f"{o.rounds} rounds in turns; medians (lowest to highest).", ""] + lines + [""]
        well &= held
        print("\n".join(lines[-1:]))
    if both:
        (HERE / "RESULT.md").write_text("\n".join(text))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
