<?php
namespace Late;

if (!\Kept::$busy)
    $GLOBALS['open'] = stream_socket_server('tcp://127.0.0.1:0');

class Opens
{
}
