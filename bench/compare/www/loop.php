<?php
// hello.php for worker mode.
while (frankenphp_handle_request(static function (): void {
    echo "Hello, world!\n";
}));
