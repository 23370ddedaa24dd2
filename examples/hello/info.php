<?php
/* Everything PHP knows about itself. That is for development only: sapid serve --dev sets SAPID_DEV. */
if (!getenv('SAPID_DEV')) {
    http_response_code(404);
    exit("Only with ./run --dev\n");
}
phpinfo();
