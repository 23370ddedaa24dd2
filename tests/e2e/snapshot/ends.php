<?php
// The rest of a request: ends as ?how= says.
switch ($_GET['how'] ?? '') {
    case 'exit':
        exit;
    case 'status':
        exit(3);
    case 'die':
        die('dead');
    case 'throw':
        throw new DomainException('x');
    case 'fatal':
        trigger_error('mine', E_USER_ERROR);
    case 'undefined':
        nothing();
    case 'memory':
        $a = str_repeat('x', 200 << 20);
    case 'parse':
        eval('?!');
    case 'deep exit':
        array_map(fn ($x) => exit('deep'), [1]);
    case 'shutdown exit':
        register_shutdown_function(fn () => exit('last'));
        exit('first');
    case 'fiber':
        (new Fiber(function () {
            echo 'in';
            exit('side');
        }))->start();
    case 'forever':
        set_time_limit(1);
        for (;;);
    case 'finish':
        fastcgi_finish_request();
        echo 'unheard';
        exit;
}
echo 'end';
