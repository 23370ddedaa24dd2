"""Compares sapid with nginx + php-fpm, Apache mod_php and php-cgi; writes bench/RESULTS.md.

    /usr/bin/python3 bench/compare                       everything (about 45 minutes)
    /usr/bin/python3 bench/compare --quick               a look: one second, one round, two loads
    /usr/bin/python3 bench/compare --only hello,static --servers sapid,nginx-fpm --rounds 5
    /usr/bin/python3 bench/compare --cross-check         `sapid bench` beside wrk, h2load and hey on the same servers

The servers of a comparison run at the same time and are loaded one after the other, A B C A B C, so that
a slow spell of the machine hits all of them; a figure is the median of the rounds. The load generator is
`sapid bench`. Needs nothing but Python, a C compiler and the peers' Debian packages; --cross-check also the other generators'.
"""
import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(os.path.dirname(HERE)), "tests")]

import crosscheck   # noqa: E402
import measure      # noqa: E402
import peers        # noqa: E402
import report       # noqa: E402
import stages       # noqa: E402
import workloads    # noqa: E402

COMPARED = ["sapid", "sapid-fpm", "sapid-fpm-keepalive", "nginx-fpm", "nginx-fpm-keepalive", "apache-mod-php"]
PARTS = [w.name for w in workloads.WORKLOADS] + ["mixed", "cgi", "limit", "memory"]


def names(allowed):
    def parse(text):
        chosen = text.split(",")
        for name in chosen:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(allowed)}")
        return chosen
    return parse


def read_options():
    p = argparse.ArgumentParser(prog="bench/compare", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", type=names(PARTS), default=PARTS, metavar="PART,...",
                   help="parts to run: " + ", ".join(PARTS))
    p.add_argument("--servers", type=names(COMPARED), default=COMPARED, metavar="NAME,...",
                   help="servers to compare: " + ", ".join(COMPARED))
    p.add_argument("--rounds", type=int, help="rounds a figure is the median of (5)")
    p.add_argument("--seconds", type=int, help="length of one measurement (5)")
    p.add_argument("--connections", type=lambda t: [int(c) for c in t.split(",")],
                   help="closed-loop connections (1,64,256)")
    p.add_argument("--workers", type=int, default=2, help="PHP workers in the closed loop (2)")
    p.add_argument("--quick", action="store_true", help="1 round of 1 s at c=1,64, nothing written")
    p.add_argument("--cross-check", action="store_true", help="only: sapid bench, wrk, h2load and hey on the same servers")
    p.add_argument("--sapid", help="the program to measure (build/sapid)")
    p.add_argument("--output", help="Markdown file to write (bench/RESULTS.md; not with --quick)")
    p.add_argument("--json", help="also write every single measurement to this file")
    options = p.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 5)
    options.connections = options.connections or ([1, 64] if options.quick else [1, 64, 256])
    if not options.output and not options.quick:
        options.output = os.path.join(HERE, "CROSS-CHECK.md") if options.cross_check else \
            os.path.join(os.path.dirname(HERE), "RESULTS.md")
    return options


class Bench:
    """What the stages share: options, the working directory, settings, tools, a log of progress."""

    def __init__(self, options, work):
        self.options, self.work = options, work
        self.docroot = workloads.make_docroot(work)
        self.php = peers.PhpSettings(work, {"date.timezone": "UTC"})
        measure.EpollAnswer.program = measure.compile_tool("micro/epoll_answer.c", work)

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def server_classes(self, wanted=None):
        chosen = self.options.servers
        return [peers.ALL[n] for n in (wanted or chosen) if n in chosen or n not in COMPARED]

    @contextlib.contextmanager
    def running(self, classes, workers, connections, docroot=None, probe="/hello.php"):
        """The servers, started and ready, ended on leaving."""
        with contextlib.ExitStack() as stack:
            servers = []
            for cls in classes:
                server = cls(docroot or self.docroot, self.work, self.php, workers, connections)
                stack.callback(server.stop)
                server.start(probe)
                servers.append(server)
            yield servers


def main():
    options = read_options()
    if options.sapid:
        peers.Sapid.program = os.path.abspath(options.sapid)
    work = tempfile.mkdtemp(prefix="sapid-bench-")
    os.chmod(work, 0o755)
    try:
        bench = Bench(options, work)
        measured = ["sapid"] if options.cross_check else options.servers + ["php-cgi"]
        machine = report.describe_machine(peers.ALL[n] for n in measured)
        if options.cross_check:
            results = crosscheck.run_all(bench)
            text = crosscheck.markdown(machine, results, options)
        else:
            results = stages.run_all(bench)
            text = report.markdown(machine, results, options)
    except peers.PeerError as error:
        sys.exit(f"bench/compare: {error}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.json:
        with open(options.json, "w") as f:
            json.dump(results, f, indent=1)
    if options.output:
        with open(options.output, "w") as f:
            f.write(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
