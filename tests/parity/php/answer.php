<?php
if (isset($_GET['location']))
    header('Location: ' . $_GET['location']);
if (($_GET['code'] ?? '') !== '')
    http_response_code((int)$_GET['code']);
if (isset($_GET['cookie']))
    header('Set-Cookie: ' . $_GET['cookie']);
echo 'answer';
