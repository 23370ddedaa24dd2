<?php
if (isset($_GET['set'])) {
    apcu_store('shared', $_GET['set']);
}
if (isset($_GET['inc'])) {
    apcu_inc('counter');
}
echo json_encode(['pid' => getmypid(), 'shared' => apcu_fetch('shared'), 'counter' => apcu_fetch('counter')]);
