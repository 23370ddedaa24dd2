"""Compares sapid with nginx + php-fpm, Apache mod_php and php-cgi; writes bench/RESULTS.md.

    /usr/bin/python3 bench/compare --short               what RESULTS.md is made of (at most 12 minutes on a quiet machine)
    /usr/bin/python3 bench/compare                       everything (more than an hour)
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
import signal
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(os.path.dirname(HERE)), "tests")]

import crosscheck   # noqa: E402
import measure      # noqa: E402
import peers        # noqa: E402
import report       # noqa: E402
import stages       # noqa: E402
import workloads    # noqa: E402

COMPARED = ["sapid", "sapid-worker", "sapid-rollback", "sapid-image", "sapid-fpm", "sapid-fpm-keepalive", "nginx-fpm", "nginx-fpm-keepalive", "apache-mod-php"]
# The servers and parts that a run of a coffee break has room for.
SHORT = ["sapid", "sapid-worker", "sapid-rollback", "sapid-image", "nginx-fpm", "apache-mod-php"]
SHORT_PARTS = ["hello", "1m", "static", "wordpress", "mixed", "cgi", "limit", "memory", "symfony"]
PARTS = [w.name for w in workloads.WORKLOADS] + ["mixed", "cgi", "limit", "memory", "symfony"]


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
    p.add_argument("--only", type=names(PARTS), metavar="PART,...",
                   help="parts to run: " + ", ".join(PARTS))
    p.add_argument("--servers", type=names(COMPARED), metavar="NAME,...",
                   help="servers to compare: " + ", ".join(COMPARED))
    p.add_argument("--rounds", type=int, help="rounds a figure is the median of (5)")
    p.add_argument("--seconds", type=int, help="length of one measurement (5)")
    p.add_argument("--connections", type=lambda t: [int(c) for c in t.split(",")],
                   help="closed-loop connections (1,64,256)")
    p.add_argument("--workers", type=int, default=2, help="PHP workers in the closed loop (2)")
    p.add_argument("--short", action="store_true", help="the run that RESULTS.md is made of: at most 12 minutes on a quiet machine; "
                   "64 connections, 5 rounds of 2 s, without what is nobody's default")
    p.add_argument("--quick", action="store_true", help="1 round of 1 s at c=1,64, nothing written")
    p.add_argument("--cross-check", action="store_true", help="only: sapid bench, wrk, h2load and hey on the same servers")
    p.add_argument("--sapid", help="the program to measure (build/sapid)")
    p.add_argument("--output", help="Markdown file to write (bench/RESULTS.md; not with --quick)")
    p.add_argument("--json", help="also write every single measurement to this file")
    options = p.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 2 if options.short else 5)
    options.connections = options.connections or ([64] if options.short else [1, 64] if options.quick else [1, 64, 256])
    options.only = options.only or (SHORT_PARTS if options.short else PARTS)
    options.servers = options.servers or (SHORT if options.short else COMPARED)
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
        # What the worker scripts of hello.php are; it has no image.
        loop = f'[worker]\nscript = "{self.docroot}/loop.php"\nnum = {options.workers}\n'
        self.plain = peers.Site(self.docroot, modes={"worker": loop, "rollback": loop + 'isolation = "rollback"\n'})
        self.results = {"loads": {}, "failed": {}}
        measure.EpollAnswer.program = measure.compile_tool("micro/epoll_answer.c", work)

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def server_classes(self, wanted=None):
        chosen = self.options.servers
        return [peers.ALL[n] for n in (wanted or chosen) if n in chosen or n not in COMPARED]

    @contextlib.contextmanager
    def running(self, classes, workers, connections, site=None):
        """The servers that can serve it, started and ready, ended on leaving."""
        site = site or self.plain
        with contextlib.ExitStack() as stack:
            servers = []
            for cls in classes:
                if cls.mode and cls.mode not in site.modes:
                    continue
                server = site.start(cls, self.work, self.php, workers, connections)
                stack.callback(server.stop)
                servers.append(server)
            yield servers


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


def main():
    options = read_options()
    if options.sapid:
        peers.Sapid.program = os.path.abspath(options.sapid)
    work = tempfile.mkdtemp(prefix="sapid-bench-")
    os.chmod(work, 0o755)
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        bench = Bench(options, work)
        measured = ["sapid"] if options.cross_check else options.servers + ["php-cgi"]
        machine = report.describe_machine(peers.ALL[n] for n in measured)
        if options.cross_check:
            results = crosscheck.run_all(bench)
            text = crosscheck.markdown(machine, results, options)
        else:
            stages.run_all(bench)
            results = bench.results
            text = report.markdown(machine, results, options, time.monotonic() - began)
    except peers.PeerError as error:
        sys.exit(f"bench/compare: {error}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.json:
        write(options.json, json.dumps(results, indent=1))
    if options.output:
        write(options.output, text)
    else:
        print(text)
    if results.get("failed"):
        sys.exit(f"bench/compare: no figures for {', '.join(results['failed'])}; see above")


if __name__ == "__main__":
    main()
