<?php
/* Everything PHP knows about itself: for development only. `sapid serve --dev` shows errors in the browser. */
if (!ini_get('display_errors')) {
    http_response_code(404);
    exit("Only with ./run --dev\n");
}
phpinfo();
