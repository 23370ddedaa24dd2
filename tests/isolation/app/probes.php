<?php
/* What a request can leave behind, and what the next one sees of it. probe() reads everything, dirty()
 * changes everything that probe() reads, putting the secret of its request wherever a text fits. */
declare(strict_types=1);

namespace Isolation;

function probe(): array
{
    $service = Boot::$service;
    return [
        // of the language
        'function static' => counter(false),
        'closure static' => (Boot::$closure)(false),
        'method static' => $service->calls(),
        'class static' => Service::$shared,
        'class count' => Service::$count,
        'property' => $service->seen,
        'dynamic object' => $service->next === null ? null : get_object_vars($service->next),
        'global' => $GLOBALS['left'] ?? null,
        'global element' => $GLOBALS['table'],
        'globals' => count($GLOBALS),
        'constant' => defined('LEFT') ? constant('LEFT') : null,
        'function' => function_exists('left_function') ? \left_function() : null,
        'class' => class_exists('LeftClass', false) ? \LeftClass::TEXT : null,
        'alias' => class_exists('LeftAlias', false),
        'generator' => Boot::$generator->key(),
        'included' => count(get_included_files()),
        'classes' => count(get_declared_classes()),
        // of the engine
        'ini' => [ini_get('precision'), ini_get('memory_limit'), ini_get('arg_separator.output'), ini_get('default_charset'), ini_get('user_agent'), ini_get('unserialize_callback_func')],
        'error reporting' => error_reporting(),
        'error handler' => get_debug_type(handler('error')),
        'exception handler' => get_debug_type(handler('exception')),
        'last error' => error_get_last()['message'] ?? null,
        'autoloaders' => count(spl_autoload_functions()),
        'gc' => gc_enabled(),
        'buffers' => ob_get_level(),
        'headers' => array_values(preg_grep('/^X-Left/', headers_list())),
        'status' => http_response_code(),
        'include path' => get_include_path(),
        'time limit' => ini_get('max_execution_time'),
        'abort' => ignore_user_abort(),
        'output variables' => ob_list_handlers(),
        // superglobals
        'post' => $_POST['left'] ?? null,
        'get' => array_keys(array_diff_key($_GET, ['kind' => 1, 'n' => 1, 'own' => 1])),
        'cookies' => [$_COOKIE['left'] ?? null, $_REQUEST['left'] ?? null],
        'session' => [session_status(), session_name(), session_id(), $_SESSION ?? null, session_module_name(), session_cache_limiter()],
        'server' => $_SERVER['LEFT'] ?? null,
        'environment' => [getenv('LEFT'), $_ENV['LEFT'] ?? null],
        // of extensions
        'timezone' => date_default_timezone_get(),
        'locale' => setlocale(LC_ALL, '0'),
        'float format' => sprintf('%.1f', 1.5),
        'mbstring' => [mb_internal_encoding(), mb_substitute_character(), mb_language(), mb_detect_order(), mb_regex_encoding()],
        'iconv' => ini_get('iconv.internal_encoding'),
        'intl' => [\Locale::getDefault(), intl_get_error_code()],
        'collator' => Boot::$collator->getStrength(),
        'bcmath' => bcscale(),
        'pcre' => preg_last_error(),
        'json' => json_last_error(),
        'libxml' => [libxml_use_internal_errors(), count(libxml_get_errors())],
        'strtok' => @strtok(' /'),
        'wrappers' => array_values(preg_grep('/left/', stream_get_wrappers())),
        'filters' => array_values(preg_grep('/left/', stream_get_filters())),
        'stream context' => stream_context_get_options(stream_context_get_default()),
        'storage' => [count(Boot::$storage), count(Boot::$weak), count(Boot::$array), count(Boot::$list), count(Boot::$heap), Boot::$fixed[0]],
        'date' => Boot::$date->format('c'),
        'document' => Boot::$document->documentElement->childNodes->length,
        'file position' => ftell(Boot::$file),
        'file text' => fread(Boot::$file, 5),
        'memory stream' => stream_get_contents(Boot::$memory),
        'openssl errors' => openssl_error_string(),
        'signal handler' => get_debug_type(pcntl_signal_get_handler(SIGUSR1)),
        'async signals' => pcntl_async_signals(),
        'posix error' => posix_get_last_error(),
        'sqlite' => Boot::$random->query("SELECT count(*) FROM sqlite_master")->fetchColumn(),
        // of the process
        'working directory' => basename(getcwd()),
        'umask' => umask(),
        'blocked signals' => pcntl_sigprocmask(SIG_UNBLOCK, [SIGURG], $blocked) ? $blocked : null,
        'libc' => [Boot::$libc->opterr, Boot::$libc->optind],
        'alarm' => pcntl_alarm(0),
    ];
}

/** The handler in force, without changing it. */
function handler(string $of): mixed
{
    $set = "set_{$of}_handler";
    $found = $set(null);
    ("restore_{$of}_handler")();
    return $found;
}

class LeftWrapper
{
    public $context;
}

class LeftFilter extends \php_user_filter
{
}

function dirty(string $secret): void
{
    dirty_language($secret);
    dirty_engine($secret);
    dirty_extensions($secret);
    chdir('/tmp');
    umask(0137);
    pcntl_sigprocmask(SIG_BLOCK, [SIGUSR2]);
    Boot::$libc->opterr = 7;
    Boot::$libc->optind += 1;
}

function dirty_language(string $secret): void
{
    counter(true);
    (Boot::$closure)(true);
    Boot::$service->remember($secret);
    Boot::$service->next = new \stdClass();
    Boot::$service->next->text = $secret;
    Service::$shared[] = $secret;
    Service::$count++;
    $GLOBALS['left'] = $secret;
    $GLOBALS['table']['one']['two'] = $secret;
    if (!defined('LEFT')) {
        define('LEFT', $secret);
        eval("class LeftClass { const TEXT = '$secret'; } function left_function() { return '$secret'; }");
        class_alias('LeftClass', 'LeftAlias');
    }
    Boot::$generator->next();
    include_once SITE . '/lazy/left.php';
    $_SERVER['LEFT'] = $_ENV['LEFT'] = $_POST['left'] = $_GET['left'] = $_COOKIE['left'] = $_REQUEST['left'] = $secret;
    putenv("LEFT=$secret");
}

function dirty_engine(string $secret): void
{
    foreach (['precision' => '9', 'arg_separator.output' => ';', 'default_charset' => 'ISO-8859-15', 'user_agent' => $secret,
        'memory_limit' => '127M', 'max_execution_time' => '77', 'unserialize_callback_func' => $secret] as $key => $value) {
        ini_set($key, $value);
    }
    error_reporting(E_ALL & ~E_DEPRECATED);
    set_error_handler(static fn () => true, E_USER_NOTICE);
    set_exception_handler(null);
    @trigger_error($secret, E_USER_WARNING);
    spl_autoload_register(static function (): void {
    });
    gc_disable();
    header("X-Left: $secret");
    header_remove('X-Left');
    set_include_path('/tmp/left');
    ignore_user_abort(true);
    // What comes after this request must not see its seed.
    mt_srand(1);
    srand(1);
}

function dirty_extensions(string $secret): void
{
    date_default_timezone_set('Asia/Tokyo');
    setlocale(LC_ALL, 'C.UTF-8');
    mb_internal_encoding('ISO-8859-1');
    mb_substitute_character(0x2a);
    mb_language('ja');
    mb_detect_order(['ASCII', 'JIS']);
    mb_regex_encoding('EUC-JP');
    ini_set('iconv.internal_encoding', 'KOI8-R');
    \Locale::setDefault('fr_FR');
    \Normalizer::normalize("\xff");
    Boot::$collator->setStrength(\Collator::PRIMARY);
    bcscale(7);
    preg_match('/(?:\D+|<\d+>)*[!?]/', str_repeat('foobar ', 40));
    json_decode("{$secret}{");
    libxml_use_internal_errors(true);
    simplexml_load_string("<$secret");
    strtok("$secret/of/a/request", '/');
    if (!in_array('left', stream_get_wrappers(), true)) {
        stream_wrapper_register('left', LeftWrapper::class);
        stream_filter_register('left', LeftFilter::class);
    }
    stream_context_set_default(['http' => ['header' => $secret]]);
    Boot::$storage[new Service()] = $secret;
    Boot::$weak[Boot::$service] = $secret;
    Boot::$array[$secret] = 1;
    Boot::$list[] = $secret;
    Boot::$heap->insert($secret, 1);
    Boot::$fixed[0] = $secret;
    Boot::$date->modify('+1 day');
    Boot::$document->documentElement->appendChild(Boot::$document->createElement('left', $secret));
    ftruncate(Boot::$memory, 0);
    rewind(Boot::$memory);
    fwrite(Boot::$memory, $secret);
    rewind(Boot::$memory);
    openssl_decrypt('AAAA', 'aes-128-cbc', 'k', 0, str_repeat('i', 16));
    @openssl_pkey_get_private('no key');
    pcntl_signal(SIGUSR1, static function (): void {
    });
    pcntl_async_signals(true);
    posix_kill(999999999, 0);
    Boot::$random->exec('CREATE TABLE IF NOT EXISTS left_' . substr($secret, -6) . '(a)');
    session_name('LEFT');
    session_cache_limiter('public');
    if (session_status() !== PHP_SESSION_ACTIVE) {
        session_id("left$secret");
    }
}
