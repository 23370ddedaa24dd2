<?php
if (!restore_state()) { require __DIR__ . '/../../app/boot.php'; require __DIR__ . '/../../app/handle.php';
    Isolation\boot();
    snapshot_state(); }
Isolation\handle();
