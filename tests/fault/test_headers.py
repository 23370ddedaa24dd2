"""Some seconds of tests/fault/headers: random abuse of heads, settings and upload forms, with the program as it is."""
import pytest

from lib import attack

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]


@pytest.mark.parametrize("mode", ["classic", "rollback"])
def test_abuse_costs_nobody_anything(launch, mode):
    root = attack.make_root(launch.folder)
    options = attack.settings(root)
    prefixes = ("/eval.php/", "/eval.php/stream/")
    if mode == "rollback":
        options["worker"] = {"script": str(root / "loop.php"), "num": 2, "isolation": "rollback"}
        prefixes = ("/any/",)
    server = launch(root, workers=2, expect_errors=True, **options)
    one = attack.Attack(server, "test", prefixes)
    one.run(2, requests=300)
    assert not one.finish() and one.answers > 500
