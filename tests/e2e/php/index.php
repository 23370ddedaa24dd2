<?php
echo 'front ', $_SERVER['REQUEST_METHOD'], ' ', $_SERVER['REQUEST_URI'], ' ', $_SERVER['SCRIPT_NAME'], ' ', ($_SERVER['PATH_INFO'] ?? '') ?: '-';
