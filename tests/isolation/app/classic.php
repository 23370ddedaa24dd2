<?php
require __DIR__ . '/../../app/boot.php';
require __DIR__ . '/../../app/handle.php';
Isolation\boot();
Isolation\handle();
