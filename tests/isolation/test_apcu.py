"""APCu, which all workers share and no rollback touches: with four writers every increment counts and every value is whole,
also when workers are rolled back right behind a write."""
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib import account

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]
SCRIPT = r"""<?php
apcu_store('boot', str_repeat('b', 1000));
while (frankenphp_handle_request(function () {
    $key = 'value' . random_int(0, 9);
    $found = apcu_fetch($key);
    if ($found !== false && md5($found['text']) !== $found['md5']) {
        exit('torn');
    }
    $text = random_bytes(random_int(1, 30000));
    apcu_store($key, ['text' => $text, 'md5' => md5($text)]);
    apcu_entry('entry', fn () => str_repeat('e', 5000));
    apcu_delete('value' . random_int(0, 9));
    $n = apcu_inc('count');
    if ($n % 7 === 0) {
        exit("n $n");
    }
    echo "n $n";
}));
"""


def test_four_writers(launch, workdir):
    root = workdir / "site"
    root.mkdir()
    (root / "app.php").write_text(SCRIPT)
    account.give(root)
    server = launch(root, workers=1, worker={"script": str(root / "app.php"), "num": 4, "isolation": "rollback", "warmup": []},
                    ini={"apc.enabled": "1", "apc.shm_size": "8M"})

    def write(_):
        with server.connect() as c:
            return [c.request("GET", "/").text for _ in range(750)]
    with ThreadPoolExecutor(4) as threads:
        answers = [text for texts in threads.map(write, range(4)) for text in texts]
    assert sorted(int(text.removeprefix("n ")) for text in answers) == list(range(1, 3001))
