<?php
echo json_encode(array_intersect_key($_SERVER, array_flip(['PATH_INFO', 'SCRIPT_NAME', 'PHP_SELF', 'REQUEST_URI',
    'QUERY_STRING', 'SCRIPT_FILENAME', 'DOCUMENT_ROOT', 'PATH_TRANSLATED', 'DOCUMENT_URI'])));
