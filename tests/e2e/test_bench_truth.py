"""bench/generator --truth, made short: its server keeps the latencies it is told, and its record and sapid bench count the same.

How near the percentiles come is measured by bench/generator on a machine that lets them (bench/generator/RESULT.md); here a
busy machine may delay both, so that only what no delay can change is asserted.
"""
import os
import sys
from pathlib import Path

import pytest

from lib.sapid import binary

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "bench/generator"))
import truth  # noqa: E402

pytestmark = pytest.mark.sapid_only
TARGET = Path(binary()).parent / "bench/generator/target"


def run(*target, rate=200, seconds=1.0, connections=60, poisson=False):
    case = truth.Case("short", list(target), rate, seconds, connections, poisson)
    return truth.run(case, TARGET, binary(), first=None)


@pytest.mark.parametrize("poisson", [False, True], ids=["constant", "poisson"])
def test_a_fixed_latency_is_kept_and_seen(poisson):
    true, said, stalls = run(20000, poisson=poisson)
    assert stalls == []
    assert true["p50"] >= 20 and said["min"] >= 20
    # An answer cannot be read before it was sent, nor be due before its request was.
    assert all(said[name] >= 0.995 * true[name] for name in ("p50", "p75", "p90", "p95"))


def test_both_modes_are_kept_and_seen():
    true, said, _ = run(20000, 60000, 30, seconds=2)
    assert said["p50"] >= 20 and true["p50"] >= 20
    assert said["p90"] >= 59.7 and true["p90"] >= 60


def test_a_stall_is_met_by_all_who_were_due_in_it():
    """Of 2 s a stall takes 400 ms; with 2 connections hardly anybody asks in it, and yet a tenth of all waited."""
    for connections in (100, 2):
        true, said, stalls = run(2000, "stall", 400, 2000, seconds=2, connections=connections)
        assert len(stalls) == 1 and abs(stalls[0][1] - stalls[0][0] - 0.4) < 1e-6
        assert said["max"] >= 380 and said["p90"] >= 150 and said["p95"] >= 250
        assert true["max"] >= 380 and true["p90"] >= 150 and true["p95"] >= 250


def test_the_record_is_read_as_it_is_written(tmp_path):
    (tmp_path / "record").write_text("2000000000 2010000000\nstall 1000000000 2000000000\n1000000000 1010000000\n")
    requests, stalls = truth.read_record(tmp_path / "record")
    assert requests == [(1.0, 1.01), (2.0, 2.01)] and stalls == [(1.0, 2.0)]
    case = truth.Case("", [], 1, 2, 1)
    assert [round(v, 6) for v in truth.true_latencies(requests, case)] == [10, 10]
    # The second came half a second late: that is the generator's fault, and was waited for.
    assert [round(v, 6) for v in truth.true_latencies([(1.0, 1.01), (2.5, 2.51)], case)] == [10, 510]


def test_wrong_use_of_the_target_is_refused():
    assert os.spawnv(os.P_WAIT, str(TARGET), ["target"]) == 2
