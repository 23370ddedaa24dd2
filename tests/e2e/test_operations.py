"""Reloads, upgrades and deaths under checked load, a few of each; tests/fault/operations runs the full count."""
import pytest

from lib import account
from lib.checkedload import PAGE, CheckedLoad
from lib.operations import back_after, inventory, reload, settled, upgrade
from lib.process import wait_until
from lib.roles import gateway, pools

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only, pytest.mark.as_root]


@pytest.fixture
def root(launch):
    folder = launch.folder / "app"
    folder.mkdir()
    (folder / "load.php").write_text(PAGE)
    account.give(folder)
    return folder


def more(load, n=50):
    before = load.count()
    wait_until(lambda: load.count() > before + n, "answers")


def test_reloads_and_upgrades_lose_nothing(launch, root):
    server = launch(root, workers=4)
    with CheckedLoad(server.address, connections=60, rate=400) as load:
        more(load)
        for i in range(8):
            if i % 4 == 3:
                old = upgrade(server)
                wait_until(lambda: not old.running(), "the old program to end")
            else:
                if i % 4 == 1:      # another gateway too
                    text = server.config_path.read_text()
                    server.config_path.write_text(text.replace("[server]", f"[server]\n# {i}\n", 1).replace(
                        "keepalive_requests", f"keepalive_requests = {1000 + i} #", 1)
                        if "keepalive_requests" in text else
                        text.replace("[server]", f"[server]\nkeepalive_requests = {1000 + i}", 1))
                reload(server)
            more(load, 30)
    assert not load.failed and not load.wrong and set(load.by_status) == {200}, (load.summary(), load.failed[:5])
    settled(server, 4)


def test_nothing_is_left_of_reloads(launch, root):
    server = launch(root, workers=2)
    reload(server)
    settled(server, 2)
    before = inventory(server)
    for _ in range(5):
        reload(server)
        settled(server, 2)
    wait_until(lambda: all(inventory(server)[k] <= before[k] for k in before if k != "shared"),
               f"no more than {before}, found {inventory(server)}")


def test_service_is_back_soon(launch, root):
    """Within a second (tests/fault/operations); here a busy machine may take its time."""
    server = launch(root, workers=2, expect_errors=True)
    with CheckedLoad(server.address, connections=20, rate=100) as load:
        more(load, 20)
        for victim in (lambda: pools(server)[0], lambda: gateway(server)):
            assert back_after(server, victim()) < 30
            more(load, 20)
    assert not load.wrong
    assert set(load.by_status) <= {200, 502}, load.summary()
    settled(server, 2)
