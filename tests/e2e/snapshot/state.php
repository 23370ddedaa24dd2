<?php
// Makes one of everything in the boot, tells what a request finds of it, and leaves much behind.
class Counter
{
    public static $n = 0;
    public $m = 0;

    public function __destruct()
    {
        echo "destroyed {$this->m} ";
    }
}

function count_up()
{
    static $n = 0;
    return ++$n;
}

if (!restore_state()) {
    spl_autoload_register(function ($class) {
        eval("class $class { const LOADED = __LINE__; }");
    });
    set_error_handler(function ($no, $text) {
        $GLOBALS['errors'][] = $text;
        return true;
    });
    set_exception_handler(function ($e) {
        echo 'handled ', $e->getMessage();
    });
    define('BOOTED', 'yes');
    eval('function declared() { return "f"; } class Early {} const EARLY = 5;');
    include 'state_part.php';
    Counter::$n = 10;
    count_up();
    count_up();
    new Lazy;
    $object = new Counter;
    $object->m = 3;
    $list = [1, [2]];
    $alias = &$list[1];
    ini_set('precision', '5');
    date_default_timezone_set('Asia/Tokyo');
    putenv('SEEDED=1');
    setlocale(LC_ALL, 'C');
    mb_internal_encoding('ASCII');
    chdir('data');
    umask(027);
    mt_srand(5);
    libxml_use_internal_errors(true);
    snapshot_state();
}
$out = [
    Counter::$n++, count_up(), $object->m++, BOOTED, declared(), EARLY, class_exists('Early', false), class_exists('Lazy', false),
    PART, part(), array_map('basename', get_included_files()), $list, count(spl_autoload_functions()), 1 / 3,
    date_default_timezone_get(), getenv('SEEDED'), basename(getcwd()), umask(), libxml_use_internal_errors(),
    mb_internal_encoding(), $_GET, $_COOKIE, $_POST, $_SERVER['QUERY_STRING'], isset($GLOBALS['errors']), defined('LATE'),
    class_exists('Late', false), function_exists('late'), error_get_last(),
];
$alias[] = 9;
$list[] = 8;
$unknown = $nothing;
new Later;
putenv('SEEDED=2');
chdir('/');
umask(0);
ini_set('precision', '9');
set_error_handler(null);
date_default_timezone_set('UTC');
eval('function late() {} class Late {} const LATE = 1;');
include 'state_late.php';
$out[] = $errors;
$out[] = class_exists('Later', false);
echo json_encode($out), ' ';
if (isset($_GET['throw'])) {
    throw new Exception('thrown');
}
