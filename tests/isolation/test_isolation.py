"""The isolation suite, short: see suite.py, and RESULT.md for the long runs."""
import shutil

import pytest

from lib.workdir import new_workdir, remove_workdir
from isolation.suite import OUTSIDE, Reference, Suite, all_specs, check_files, kinds, make_site, not_from_image, start

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]


@pytest.fixture(scope="module")
def application():
    """The site, and what classic mode answers to everything."""
    folder = new_workdir()
    site = make_site(folder)
    server = start(folder, site, "classic", workers=1)
    reference = Reference(server, all_specs(kinds()))
    server.stop()
    shutil.rmtree(folder / "classic")
    yield folder, site, reference
    remove_workdir(folder)


@pytest.fixture
def run(application):
    """run(mode, requests, ...) -> what Suite.run() found, files included."""
    folder, site, reference = application

    def go(mode, requests, **options):
        server = start(folder, site, mode, **options)
        try:
            suite = Suite(server, reference, kinds())
            result = suite.run(requests)
            result.growth += check_files(site) + not_from_image(server, mode, result)
        finally:
            server.stop()
            shutil.rmtree(folder / mode)
        return result
    return go


def test_classic_mode_is_its_own_oracle(run):
    result = run("classic", 1000)
    assert not result.problems(), "\n".join(result.problems())
    assert result.requests == 1000 and result.values > 10_000


def test_the_suite_sees_what_worker_mode_leaks(run):
    """Without this the zeros of the other tests would prove nothing."""
    result = run("worker", 400)
    assert len(result.leaks) >= 40 and result.strangers and result.wrong
    assert {"mt_rand", "shuffle", "str_shuffle"} <= set(result.repeats)


def nothing_is_wrong(result, requests: int) -> None:
    assert not result.problems(), "\n".join(result.problems())
    assert result.requests == requests and result.values > 10 * requests


def test_rollback_answers_as_classic_mode_does(run):
    nothing_is_wrong(run("rollback", 2000), 2000)


def test_a_frozen_script_of_classic_mode_answers_as_ever(run):
    """restore_state() and snapshot_state() in place of the loop: every byte, what destructors print at the end too."""
    nothing_is_wrong(run("seed", 1000), 1000)


def test_an_image_of_a_script_answers_as_ever(run):
    """The same in a classic pool, without configuration."""
    nothing_is_wrong(run("image", 1000), 1000)


def test_a_frozen_script_with_the_jit(run):
    nothing_is_wrong(run("seed", 400, ini={"opcache.jit_buffer_size": "32M", "opcache.jit": "tracing"}), 400)


@pytest.mark.parametrize("what", ["jit", "verify", "pagemap"])
def test_rollback_otherwise(run, what):
    """With the tracing JIT; comparing every page after every rollback; as on kernels without PAGEMAP_SCAN."""
    ini = {"opcache.jit_buffer_size": "32M", "opcache.jit": "tracing"} if what == "jit" else {}
    worker = {f"snapshot_{what}": True} if what != "jit" else {}
    nothing_is_wrong(run("rollback", 400, ini=ini, worker=worker), 400)


def test_deaths_of_all_kinds_do_no_harm(application):
    """Short; see RESULT.md for 10,000. Workers are killed in requests and in rollbacks, requests run out of memory, time
    and stack, or exit and crash in odd places: every other answer is right, also afterwards."""
    folder, site, reference = application
    server = start(folder, site, "rollback", php={"request_timeout": "5s"})
    try:
        suite = Suite(server, reference, [k for k in kinds() if k not in OUTSIDE], deaths=60, own_deaths=100)
        result = suite.run(400)
    finally:
        server.kill()
        shutil.rmtree(folder / "rollback")
    assert not result.problems(), "\n".join(result.problems())
    assert result.deaths.total() >= 140 and len(result.deaths) > 8, result.deaths
