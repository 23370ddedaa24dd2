/* The php room, with a real libphp: requests through the channel, see driver.h. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "driver.h"
#include "php/php.h"

static struct driver d;
static struct answer a;

/* The worker that just answered is healthy: it answers again. */
static void expect_same_worker_healthy(void)
{
    uint32_t pid = d.pids[0];

    driver_script(&d, "health.php", "<?php echo 'ok ', getmypid();");
    answer_free(&a);
    driver_get(&d, "health.php", "", &a);
    char *want = mem_printf("ok %u", pid);
    EXPECT_BODY(&a, want);
    EXPECT_INT(d.deaths, 0);
    mem_free(want);
}

static void run_script(const char *code)
{
    driver_script(&d, "script.php", code);
    driver_get(&d, "script.php", "", &a);
}

static void start_with_script(const char *toml, const char *code)
{
    driver_start(&d, toml, 1);
    run_script(code);
}

/* --- requests and responses ------------------------------------------------------------------- */

TEST(hello)
{
    driver_start(&d, "", 1);
    driver_script(&d, "hello.php",
                  "<?php header('X-Test: 1'); echo 'Hello ', $_GET['name'] ?? '?';");
    driver_get(&d, "hello.php", "name=you", &a);
    EXPECT_INT(a.status, 200);
    EXPECT_BODY(&a, "Hello you");
    EXPECT(answer_has_header(&a, "X-Test: 1"));
    EXPECT(answer_has_header(&a, "Content-type: text/html; charset=UTF-8"));
    driver_stop(&d);
}

TEST(server_variables_are_those_of_nginx_and_fpm)
{
    static const struct channel_pair headers[] = {
        { STR("Accept-Language"), STR("de") },  { STR("X-Twice"), STR("1") },
        { STR("X-Twice"), STR("2") },           { STR("Cookie"), STR("a=1") },
        { STR("Cookie"), STR("b=2") },          { STR("Authorization"), STR("Basic dXNlcjpwYXNz") },
        { STR("Content-Type"), STR("text/x") }, { STR("Proxy"), STR("evil") },
    };
    struct channel_request r;

    driver_start(&d, "", 1);
    driver_script(
        &d, "v.php",
        "<?php foreach (explode(' ', 'SCRIPT_NAME PHP_SELF PATH_INFO REQUEST_URI DOCUMENT_URI "
        "QUERY_STRING REQUEST_METHOD CONTENT_TYPE CONTENT_LENGTH SERVER_PROTOCOL "
        "REQUEST_SCHEME HTTPS GATEWAY_INTERFACE REMOTE_ADDR REMOTE_PORT SERVER_ADDR "
        "SERVER_PORT SERVER_NAME REDIRECT_STATUS HTTP_HOST HTTP_ACCEPT_LANGUAGE HTTP_X_TWICE "
        "HTTP_COOKIE HTTP_PROXY PHP_AUTH_USER PHP_AUTH_PW') as $k) "
        "echo $k, '=', $_SERVER[$k] ?? 'NONE', \"\\n\"; echo $_COOKIE['a'], $_COOKIE['b'], ' ', "
        "getenv('REQUEST_METHOD'), ' ', getenv()['SERVER_NAME'], ' ', "
        "filter_input(INPUT_SERVER, 'SERVER_PORT'), ' ', is_float($_SERVER['REQUEST_TIME_FLOAT'])"
        ", ' ', getallheaders()['Accept-Language'], ' ', PHP_SAPI, isset($_SERVER['USER']);");
    driver_request(&d, &r, "v.php", "q=1");
    r.path_info = STR("/more/path");
    r.target = STR("/v.php/more/path?q=1");
    r.flags = CHANNEL_HTTPS;
    r.n_headers = ARRAY_LENGTH(headers);
    driver_run(&d, &r, headers, &a);
    EXPECT_BODY(&a, "SCRIPT_NAME=/v.php\nPHP_SELF=/v.php/more/path\nPATH_INFO=/more/path\n"
                    "REQUEST_URI=/v.php/more/path?q=1\nDOCUMENT_URI=/v.php\n"
                    "QUERY_STRING=q=1\nREQUEST_METHOD=GET\nCONTENT_TYPE=text/x\nCONTENT_LENGTH=\n"
                    "SERVER_PROTOCOL=HTTP/1.1\nREQUEST_SCHEME=https\nHTTPS=on\n"
                    "GATEWAY_INTERFACE=CGI/1.1\nREMOTE_ADDR=192.0.2.7\nREMOTE_PORT=4711\n"
                    "SERVER_ADDR=127.0.0.1\nSERVER_PORT=8080\nSERVER_NAME=example.org\n"
                    "REDIRECT_STATUS=200\nHTTP_HOST=example.org:8080\nHTTP_ACCEPT_LANGUAGE=de\n"
                    "HTTP_X_TWICE=1, 2\nHTTP_COOKIE=a=1; b=2\nHTTP_PROXY=NONE\nPHP_AUTH_USER=user\n"
                    "PHP_AUTH_PW=pass\n12 GET example.org 8080 1 de fpm-fcgi1");
    driver_stop(&d);
}

TEST(status_lines_and_headers)
{
    start_with_script(
        "", "<?php header('HTTP/1.1 404 Gone fishing'); header('A: 1'); header('A: 2', false);");
    EXPECT_INT(a.status, 404);
    EXPECT(answer_has_header(&a, ":reason: Gone fishing"));
    EXPECT(answer_has_header(&a, "A: 1"));
    EXPECT(answer_has_header(&a, "A: 2"));
    run_script("<?php http_response_code(204);");
    EXPECT_INT(a.status, 204);
    run_script("<?php header('Status: 418 Teapot');");
    EXPECT_INT(a.status, 418);
    EXPECT(!answer_has_header(&a, "Status: 418 Teapot"));
    run_script("<?php header('Location: /x'); echo 'moved';");
    EXPECT_INT(a.status, 302);
    EXPECT(answer_has_header(&a, "Location: /x"));
    run_script(
        "<?php @header(\"X: a\\r\\nY: b\"); @header(\"Z: \\0\"); header('no colon'); echo 'x';");
    EXPECT(!answer_has_header(&a, "Y: b"));
    EXPECT(memmem(a.head.base, buf_length(&a.head), "no colon", 8) == NULL);
    run_script("<?php http_response_code(304);");
    EXPECT_INT(a.status, 304);
    size_t n = buf_length(&a.head);
    EXPECT(n == 0 || memmem(a.head.base, n, "ontent-type", 11) == NULL);
    expect_same_worker_healthy();
    driver_stop(&d);
}

TEST(missing_and_unreadable_scripts)
{
    driver_start(&d, "", 1);
    driver_get(&d, "nothing.php", "", &a);
    EXPECT_INT(a.status, 404);
    EXPECT_BODY(&a, "File not found.\n");
    expect_same_worker_healthy();
    /* A script that a warm opcache knows, deleted. */
    run_script("<?php echo 'here';");
    EXPECT_BODY(&a, "here");
    driver_stop(&d);
}

TEST(flush_and_finish_request)
{
    start_with_script("ini = { output_buffering = \"0\" }",
                      "<?php echo 'a'; flush(); echo 'b'; flush();");
    EXPECT_INT(a.flushes, 2);
    EXPECT_BODY(&a, "ab");
    run_script(
        "<?php register_shutdown_function(fn() => file_put_contents(__DIR__.'/after', 'ran'));"
        "header('X-A: 1'); echo 'sent'; var_dump(fastcgi_finish_request()); echo 'dropped';");
    EXPECT_BODY(&a, "sent");
    EXPECT(answer_has_header(&a, "X-A: 1"));
    run_script("<?php echo file_get_contents(__DIR__.'/after');");
    EXPECT_BODY(&a, "ran");
    expect_same_worker_healthy();
    driver_stop(&d);
}

TEST(early_hints)
{
    start_with_script("", "<?php header('Link: </a.css>; rel=preload'); echo headers_send(103); "
                          "header('X-Final: 1'); http_response_code(201); echo 'b';");
    EXPECT_INT(a.informs, 1);
    EXPECT_INT(a.status, 201);
    EXPECT(answer_has_header(&a, "X-Final: 1"));
    EXPECT_BODY(&a, "1b");
    run_script("<?php echo headers_send(202); echo var_export(headers_sent(), true);");
    EXPECT_INT(a.status, 202);
    EXPECT_BODY(&a, "0true");
    driver_stop(&d);
}

TEST(large_output_wraps_the_ring)
{
    start_with_script(
        "", "<?php for ($i = 0; $i < 40; $i++) echo str_repeat(chr(65 + $i % 26), 50001);");
    EXPECT_INT(buf_length(&a.body), 40 * 50001);
    for (size_t i = 0; i < 40; i++)
        EXPECT_INT(buf_view(&a.body).p[i * 50001 + 50000], 'A' + (int)(i % 26));
    driver_stop(&d);
}

TEST(head_request_has_no_body)
{
    struct channel_request r;

    driver_start(&d, "", 1);
    driver_script(&d, "h.php", "<?php header('X-Ran: 1'); echo 'body';");
    driver_request(&d, &r, "h.php", "");
    r.method = STR("HEAD");
    driver_run(&d, &r, NULL, &a);
    EXPECT_INT(a.status, 200);
    EXPECT(answer_has_header(&a, "X-Ran: 1"));
    EXPECT_BODY(&a, "");
    expect_same_worker_healthy();
    driver_stop(&d);
}

/* --- bodies ----------------------------------------------------------------------------------- */

static void post(const char *type, struct str body, enum channel_body kind, int64_t length)
{
    struct channel_pair header = { STR("Content-Type"), str_from(type) };
    struct channel_request r;

    driver_request(&d, &r, "post.php", "");
    r.method = STR("POST");
    r.body_kind = kind;
    r.body = kind == CHANNEL_BODY_INLINE ? body : STR_NONE;
    r.content_length = length;
    r.n_headers = 1;
    driver_run(&d, &r, &header, &a);
}

static int spooled(struct str body)
{
    int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    EXPECT(fd >= 0);
    EXPECT_INT(write(fd, body.p, body.n), (ssize_t)body.n);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

TEST(form_and_raw_bodies)
{
    static const char form[] = "application/x-www-form-urlencoded";

    driver_start(&d, "", 1);
    driver_script(&d, "post.php",
                  "<?php echo json_encode($_POST), strlen(file_get_contents('php://input'));");
    post(form, STR("a=1&b[]=2"), CHANNEL_BODY_INLINE, 9);
    EXPECT_BODY(&a, "{\"a\":\"1\",\"b\":[\"2\"]}9");
    post("text/plain", STR("raw bytes"), CHANNEL_BODY_INLINE, 9);
    EXPECT_BODY(&a, "[]9");
    post(form, STR("c=chunked"), CHANNEL_BODY_INLINE, -1);
    EXPECT_BODY(&a, "{\"c\":\"chunked\"}9");
    char *big = mem_alloc(300002);
    memset(big, 'x', 300002);
    memcpy(big, "v=", 2);
    d.body_fd = spooled((struct str){ big, 300002 });
    driver_script(&d, "post.php",
                  "<?php echo strlen($_POST['v']), ' ', $_SERVER['CONTENT_LENGTH'];");
    post(form, STR_NONE, CHANNEL_BODY_FILE, 300002);
    EXPECT_BODY(&a, "300000 300002");
    close(d.body_fd);
    /* A pipe that ends early: the client has gone in the middle of its body. */
    int ends[2];
    EXPECT_INT(pipe2(ends, O_CLOEXEC), 0);
    EXPECT_INT(write(ends[1], "v=12345", 7), 7);
    close(ends[1]);
    d.body_fd = ends[0];
    post(form, STR_NONE, CHANNEL_BODY_STREAM, 100);
    EXPECT_BODY(&a, "5 100");
    /* A script that does not want its body does not ask for it. */
    d.body_fd = -1;
    driver_script(&d, "post.php", "<?php echo 'no thanks';");
    struct channel_request r; /* PUT: of a POST, PHP itself reads everything before the script */
    driver_request(&d, &r, "post.php", "");
    r.method = STR("PUT");
    r.body_kind = CHANNEL_BODY_FILE;
    r.content_length = 100;
    driver_run(&d, &r, NULL, &a);
    EXPECT_BODY(&a, "no thanks");
    driver_stop(&d);
}

TEST(upload)
{
    static const char text[] =
        "--B\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nT\r\n"
        "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n"
        "Content-Type: text/plain\r\n\r\nfile content\r\n--B--\r\n";

    driver_start(&d, "", 1);
    driver_script(&d, "post.php",
                  "<?php echo $_POST['title'], $_FILES['f']['name'], $_FILES['f']['size'], "
                  "file_get_contents($_FILES['f']['tmp_name']), "
                  "var_export(move_uploaded_file($_FILES['f']['tmp_name'], __DIR__.'/up'), true);");
    d.body_fd = spooled(str_from(text));
    post("multipart/form-data; boundary=B", STR_NONE, CHANNEL_BODY_FILE, (int64_t)strlen(text));
    EXPECT_BODY(&a, "Ta.txt12file contenttrue");
    driver_stop(&d);
}

/* --- the end of scripts ----------------------------------------------------------------------- */

TEST(exit_fatal_exception_memory)
{
    start_with_script("ini = { display_errors = \"0\" }", "<?php echo 'before'; exit('bye');");
    EXPECT_BODY(&a, "beforebye");
    run_script("<?php undefined_function();");
    EXPECT_INT(a.status, 500);
    EXPECT_BODY(&a, "");
    run_script("<?php throw new Exception('x');");
    EXPECT_INT(a.status, 500);
    run_script("<?php this is no php");
    EXPECT_INT(a.status, 500);
    run_script("<?php ini_set('memory_limit', '8M'); $x = str_repeat('x', 64 << 20);");
    EXPECT_INT(a.status, 500);
    run_script("<?php register_shutdown_function(function () { echo 'S'; undefined_function(); });"
               "echo 'M';");
    EXPECT_BODY(&a, "MS");
    run_script("<?php class D { function __destruct() { exit('D'); } } $d = new D; echo 'x';");
    EXPECT_BODY(&a, "xD");
    run_script("<?php ob_start(fn($s) => strtoupper($s)); echo 'shout'; exit;");
    EXPECT_BODY(&a, "SHOUT");
    run_script("<?php function f() { f(); } ini_set('memory_limit', '4M'); f();");
    EXPECT_INT(a.status, 500);
    expect_same_worker_healthy();
    driver_stop(&d);
}

/* Reading the form runs out of memory before any script: 500, and a fresh worker, since nobody
 * knows what the engine got half done. */
TEST(failed_request_startup_replaces_the_worker)
{
    enum { BYTES = 6 << 20 };
    char *big = mem_alloc(BYTES);

    for (size_t i = 0; i < BYTES; i++)
        big[i] = i == 1 ? '=' : 'a';
    driver_start(&d, "ini = { memory_limit = \"2M\", post_max_size = \"20M\" }", 1);
    driver_script(&d, "post.php", "<?php echo 'never';");
    d.body_fd = spooled((struct str){ big, BYTES });
    post("application/x-www-form-urlencoded", STR_NONE, CHANNEL_BODY_FILE, BYTES);
    EXPECT_INT(a.status, 500);
    EXPECT(!answer_has(&a, "never"));
    driver_wait_deaths(&d, 1);
    EXPECT(WIFEXITED(d.last_status));
    run_script("<?php echo 'fresh';");
    EXPECT_BODY(&a, "fresh");
    driver_stop(&d);
    mem_free(big);
}

TEST_WITHIN(execution_time_limit, 300)
{
    start_with_script("ini = { max_execution_time = \"1\", display_errors = \"0\" }",
                      "<?php register_shutdown_function(function () { echo 'shut'; }); for (;;);");
    EXPECT_INT(a.status, 500);
    EXPECT_BODY(&a, "shut");
    expect_same_worker_healthy();
    run_script("<?php echo ini_get('max_execution_time'), ' '; set_time_limit(2); "
               "echo ini_get('max_execution_time'); $t = microtime(true); "
               "while (microtime(true) - $t < 1.3); echo ' lived';");
    EXPECT_BODY(&a, "1 2 lived");
    run_script("<?php echo ini_get('max_execution_time'); set_time_limit(0); $t = microtime(true); "
               "while (microtime(true) - $t < 1.3); echo ' lived';");
    EXPECT_BODY(&a, "1 lived");
    /* Back to the limit of php.ini, and to CPU time: sleeping does not count. */
    run_script("<?php usleep(1300000); echo 'slept'; for (;;);");
    EXPECT_INT(a.status, 500);
    expect_same_worker_healthy();
    driver_stop(&d);
}

TEST(hard_timeout_ends_a_stuck_worker)
{
    start_with_script(
        "ini = { max_execution_time = \"1\", hard_timeout = \"1\" }",
        "<?php preg_match('/(a+)+b/', 'x'); ini_set('pcre.backtrack_limit', '4000000000'); "
        "ini_set('pcre.jit', '0'); $s = str_repeat('a', 60); "
        "for (;;) preg_match('/^(a+)+$/', $s . 'b');");
    EXPECT(a.died || a.status == 500);
    driver_stop(&d);
}

TEST(client_abort)
{
    struct channel_request r;
    struct channel_ticket t;

    driver_start(&d, "ini = { output_buffering = \"0\" }", 1);
    driver_script(&d, "long.php",
                  "<?php register_shutdown_function(fn() => file_put_contents(__DIR__.'/state', "
                  "connection_status() . ' ' . ($GLOBALS['done'] ?? 'stopped')));"
                  "ignore_user_abort(isset($_GET['ignore'])); echo 'x'; flush(); "
                  "for ($i = 0; $i < 200; $i++) { usleep(10000); echo 'y'; flush(); "
                  "if (connection_aborted()) { $done = 'went on'; break; } } ");
    for (int ignore = 0; ignore < 2; ignore++) {
        driver_request(&d, &r, "long.php", ignore ? "ignore" : "");
        t = driver_push(&d, &r, NULL);
        uint32_t worker;
        while (channel_ticket_state(d.ch, t, &worker) != CHANNEL_RUNNING)
            driver_poll(&d, 10);
        channel_abort(d.ch, 0, t);
        driver_collect(&d, t, &a);
        run_script("<?php echo file_get_contents(__DIR__.'/state');");
        EXPECT_BODY(&a, ignore ? "1 went on" : "1 stopped");
    }
    EXPECT_INT(d.deaths, 0);
    driver_stop(&d);
}

/* --- state between requests ------------------------------------------------------------------- */

TEST(nothing_is_left_for_the_next_request)
{
    start_with_script(
        "", "<?php ini_set('memory_limit', '64M'); define('LEFT', 1); class Left {} $x = 1; "
            "function left() {} chdir('/'); putenv('LEFT=1'); setlocale(LC_ALL, 'C.UTF-8');"
            "date_default_timezone_set('Asia/Tokyo'); umask(0); echo 'dirty';");
    EXPECT_BODY(&a, "dirty");
    run_script(
        "<?php var_dump(ini_get('memory_limit') === '64M', defined('LEFT'), class_exists('Left'), "
        "isset($x), function_exists('left'), getenv('LEFT'), date_default_timezone_get() === "
        "'Asia/Tokyo', getcwd() === __DIR__);");
    EXPECT_BODY(&a, "bool(false)\nbool(false)\nbool(false)\nbool(false)\nbool(false)\nbool(false)\n"
                    "bool(false)\nbool(true)\n");
    driver_stop(&d);
}

TEST(sessions_are_written_before_the_client_sees_the_end)
{
    char *toml;

    driver_start(&d, "", 1);
    driver_stop(&d);
    toml =
        mem_printf("ini = { \"session.save_path\" = \"/tmp\", \"session.use_cookies\" = \"0\" }");
    driver_start(&d, toml, 2);
    driver_script(&d, "s.php",
                  "<?php session_id('sapidtest'); session_start(); "
                  "$_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];");
    for (int i = 1; i <= 50; i++) {
        driver_get(&d, "s.php", "", &a);
        char want[8];
        snprintf(want, sizeof(want), "%d", i);
        EXPECT_BODY(&a, want);
    }
    unlink("/tmp/sess_sapidtest");
    driver_stop(&d);
    mem_free(toml);
}

/* The PHP that is installed, and that a page names its files by: "8.2". */
static const char *version(void)
{
    static struct php_probe p;
    static char minor[8];
    char message[1024];

    EXPECT_INT(php_probe(STR_NONE, &p, message, sizeof(message)), 0);
    struct str text = str_from(p.version);
    struct str major = str_cut(&text, '.'), second = str_cut(&text, '.');
    snprintf(minor, sizeof(minor), "%.*s.%.*s", STR_ARG(major), STR_ARG(second));
    return minor;
}

/* A text with %s for that version. */
static const char *of_version(const char *before, const char *behind)
{
    static char text[256];

    snprintf(text, sizeof(text), "%s%s%s", before, version(), behind);
    return text;
}

/* --- settings --------------------------------------------------------------------------------- */

TEST(ini_admin_ini_and_env)
{
    start_with_script(
        "ini = { memory_limit = \"77M\", \"user.odd\" = \"a;b \\\"q\\\" $x\", "
        "error_reporting = \"E_ALL & ~E_NOTICE\" }\n"
        "admin_ini = { display_errors = \"0\", post_max_size = \"3M\" }\n"
        "env = { APP_ENV = \"prod\" }",
        "<?php ini_set('memory_limit', '78M'); echo ini_get('memory_limit'), ' ', "
        "var_export(@ini_set('display_errors', '1'), true), ini_get('display_errors'), ' ', "
        "ini_get('post_max_size'), ' ', get_cfg_var('user.odd'), ' ', "
        "var_export(error_reporting() === (E_ALL & ~E_NOTICE), true), "
        "' ', getenv('APP_ENV'), $_SERVER['APP_ENV'], ' ', var_export(getenv('PATH'), true);");
    EXPECT_BODY(&a, "78M false0 3M a;b \"q\" $x true prodprod false");
    driver_stop(&d);
}

TEST(user_ini_files)
{
    driver_start(&d, "", 1);
    driver_script(&d, ".user.ini", "memory_limit=99M\nauto_prepend_file=\n");
    run_script("<?php echo ini_get('memory_limit');");
    EXPECT_BODY(&a, "99M");
    driver_stop(&d);
}

TEST(fpm_ini_files_are_the_default)
{
    start_with_script("", "<?php echo php_ini_loaded_file(), ' ', php_sapi_name();");
    EXPECT_BODY(&a, of_version("/etc/php/", "/fpm/php.ini fpm-fcgi"));
    EXPECT(strstr(d.ready, of_version("/etc/php/", "/fpm/php.ini")));
    driver_stop(&d);
}

TEST(phpinfo_names_the_server)
{
    start_with_script("", "<?php phpinfo();");
    EXPECT(answer_has(&a, "<tr><td class=\"e\">Server API </td><td class=\"v\">sapid </td></tr>"));
    driver_stop(&d);
}

/* --- opcache ---------------------------------------------------------------------------------- */

TEST(opcache_is_shared_by_the_workers)
{
    driver_start(&d, "", 2);
    driver_script(&d, "lib.php", "<?php return 1;");
    driver_script(&d, "o.php",
                  "<?php require 'lib.php'; while (isset($_GET['hold']) && "
                  "!file_exists(__DIR__ . '/go')) { clearstatcache(); usleep(1000); } "
                  "echo getmypid(), ' ', opcache_get_status()['opcache_statistics']['misses'];");
    driver_age(&d, "lib.php"); /* opcache passes files younger than 2 s by */
    driver_age(&d, "o.php");
    /* One compiles both files; then one worker is held, so that the other has to answer. */
    unsigned pid[3], misses[3];
    driver_get(&d, "o.php", "", &a);
    EXPECT_INT(sscanf(buf_view(&a.body).p, "%u %u", &pid[0], &misses[0]), 2);
    struct channel_request r;
    driver_request(&d, &r, "o.php", "hold");
    struct channel_ticket held = driver_push(&d, &r, NULL);
    uint32_t worker;
    while (channel_ticket_state(d.ch, held, &worker) != CHANNEL_RUNNING)
        driver_poll(&d, 10);
    driver_get(&d, "o.php", "", &a);
    EXPECT_INT(sscanf(buf_view(&a.body).p, "%u %u", &pid[1], &misses[1]), 2);
    driver_script(&d, "go", "");
    driver_collect(&d, held, &a);
    EXPECT_INT(sscanf(buf_view(&a.body).p, "%u %u", &pid[2], &misses[2]), 2);
    EXPECT(pid[1] != pid[2]);
    for (int i = 0; i < 3; i++)
        EXPECT_INT(misses[i], 2);
    driver_stop(&d);
}

TEST(preload_and_jit)
{
    static const char preload[] = "/tmp/sapid-test-preload.php";
    FILE *f = fopen(preload, "we");

    fputs("<?php class Preloaded { const X = 'pre'; } mt_rand();", f);
    fclose(f);
    start_with_script(
        "ini = { \"opcache.preload\" = \"/tmp/sapid-test-preload.php\", "
        "\"opcache.preload_user\" = \"nobody\", \"opcache.jit\" = \"tracing\", "
        "\"opcache.jit_buffer_size\" = \"16M\" }",
        "<?php $s = 0; for ($i = 0; $i < 100000; $i++) $s += $i; echo Preloaded::X, $s, "
        "var_export(opcache_get_status()['jit']['on'], true);");
    EXPECT_BODY(&a, "pre4999950000true");
    unlink(preload);
    driver_stop(&d);
}

TEST(apcu_is_shared_and_persistent_connections_persist)
{
    char *code;

    driver_start(&d, "", 2);
    driver_script(&d, "apc.php", "<?php usleep(1000); echo apcu_inc('n');");
    for (int i = 1; i <= 20; i++) {
        driver_get(&d, "apc.php", "", &a);
        EXPECT_INT(strtol(buf_view(&a.body).p, NULL, 10), i);
    }
    driver_stop(&d);
    code = mem_printf(
        "<?php $p = new PDO('sqlite::memory:', null, null, [PDO::ATTR_PERSISTENT => true]); "
        "$p->exec('create table if not exists t (x); insert into t values (1)'); "
        "echo $p->query('select count(*) from t')->fetchColumn();");
    start_with_script("", code);
    EXPECT_BODY(&a, "1");
    run_script(code);
    EXPECT_BODY(&a, "2");
    driver_stop(&d);
    mem_free(code);
}

TEST(random_numbers_differ_between_workers)
{
    char first[2][64];

    driver_start(&d, "", 1);
    driver_script(&d, "r.php",
                  "<?php echo mt_rand(), lcg_value(), uniqid(), random_int(0, PHP_INT_MAX);");
    driver_script(&d, "die.php", "<?php posix_kill(getmypid(), 9);");
    for (int i = 0; i < 2; i++) {
        driver_get(&d, "r.php", "", &a);
        snprintf(first[i], sizeof(first[i]), "%.*s", STR_ARG(buf_view(&a.body)));
        driver_get(&d, "die.php", "", &a);
        EXPECT(a.died);
    }
    EXPECT(strncmp(first[0], first[1], 6) != 0);
    driver_stop(&d);
}

/* --- workers' lives --------------------------------------------------------------------------- */

TEST(a_crash_costs_its_own_request)
{
    driver_start(&d, "", 2);
    driver_script(&d, "ok.php", "<?php echo 'ok';");
    driver_script(&d, "crash.php", "<?php posix_kill(getmypid(), 11);");
    driver_get(&d, "ok.php", "", &a);
    for (int i = 0; i < 3; i++) {
        driver_get(&d, "crash.php", "", &a);
        EXPECT(a.died);
        EXPECT(WIFSIGNALED(d.last_status));
        EXPECT_INT(WTERMSIG(d.last_status), SIGSEGV);
        driver_get(&d, "ok.php", "", &a);
        EXPECT_BODY(&a, "ok");
    }
    driver_stop(&d);
}

TEST(crash_loop_backs_off)
{
    driver_start(&d, "", 1);
    driver_script(&d, "crash.php", "<?php posix_kill(getmypid(), 11);");
    uint64_t begin = clock_monotonic_ns();
    for (int i = 0; i < 5; i++) {
        driver_get(&d, "crash.php", "", &a);
        EXPECT(a.died);
    }
    /* Forgiven, 100, 200, 400 ms. */
    EXPECT(clock_monotonic_ns() - begin >= 700 * NS_PER_MS);
    driver_stop(&d);
}

TEST(max_requests_drops_none)
{
    unsigned long pids = 0, last = 0;

    driver_start(&d, "worker_max_requests = 20", 2);
    driver_script(&d, "p.php", "<?php echo getmypid();");
    for (int i = 0; i < 300; i++) {
        driver_get(&d, "p.php", "", &a);
        EXPECT(!a.died);
        EXPECT_INT(a.status, 200);
        unsigned long pid = strtoul(buf_view(&a.body).p, NULL, 10);
        pids += pid != last;
        last = pid;
        answer_free(&a);
    }
    EXPECT(pids >= 12);
    EXPECT_INT(d.last_status, 0);
    EXPECT(d.last_requests >= 18 && d.last_requests <= 22);
    driver_stop(&d);
}

TEST(drain_finishes_what_runs)
{
    struct channel_request r;
    struct channel_ticket t;
    int status;

    driver_start(&d, "", 2);
    driver_script(&d, "slow.php", "<?php usleep(300000); echo 'done';");
    driver_request(&d, &r, "slow.php", "");
    t = driver_push(&d, &r, NULL);
    uint32_t worker;
    while (channel_ticket_state(d.ch, t, &worker) != CHANNEL_RUNNING)
        driver_poll(&d, 10);
    driver_send(&d, CONTROL_DRAIN);
    driver_collect(&d, t, &a);
    EXPECT_BODY(&a, "done");
    driver_wait_deaths(&d, 2);
    EXPECT_INT(waitpid(d.pool_pid, &status, 0), d.pool_pid);
    EXPECT_INT(status, 0);
}

TEST(a_new_channel_gets_fresh_workers)
{
    driver_start(&d, "", 2);
    driver_script(&d, "p.php", "<?php echo getmypid();");
    driver_get(&d, "p.php", "", &a);
    char *first = mem_strndup(buf_view(&a.body));
    driver_new_channel(&d);
    driver_get(&d, "p.php", "", &a);
    EXPECT_INT(a.status, 200);
    EXPECT(strtoul(buf_view(&a.body).p, NULL, 10) != strtoul(first, NULL, 10));
    while (kill((pid_t)strtoul(first, NULL, 10), 0) == 0)
        driver_poll(&d, 10);
    driver_stop(&d);
    mem_free(first);
}

TEST(nothing_survives_the_pool_process)
{
    driver_start(&d, "", 2);
    driver_script(&d, "p.php", "<?php echo getmypid();");
    driver_get(&d, "p.php", "", &a);
    pid_t worker = (pid_t)strtoul(buf_view(&a.body).p, NULL, 10);
    kill(d.pool_pid, SIGKILL);
    struct pollfd gone = { (int)syscall(SYS_pidfd_open, worker, 0), POLLIN, 0 };
    if (gone.fd >= 0) /* else it has ended already */
        EXPECT_INT(poll(&gone, 1, 60000), 1);
}

TEST(a_forked_script_answers_once)
{
    start_with_script(
        "ini = { output_buffering = \"0\" }",
        "<?php echo 'a'; $pid = pcntl_fork(); if ($pid == 0) { echo 'copy'; flush(); "
        "file_put_contents(__DIR__.'/copy', 'ran'); exit(5); } pcntl_waitpid($pid, $s); "
        "echo pcntl_wexitstatus($s), file_get_contents(__DIR__.'/copy');");
    EXPECT_BODY(&a, "a5ran");
    expect_same_worker_healthy();
    driver_stop(&d);
}

TEST(signals_of_a_script_end_with_it)
{
    start_with_script(
        "", "<?php pcntl_async_signals(true); pcntl_signal(SIGQUIT, function () { echo 'Q'; }); "
            "pcntl_signal(SIGALRM, function () { echo 'A'; }); posix_kill(getmypid(), SIGQUIT); "
            "posix_kill(getmypid(), SIGALRM); echo 'end';");
    EXPECT_BODY(&a, "QAend");
    run_script("<?php echo 'next';");
    EXPECT_BODY(&a, "next");
    driver_send(&d, CONTROL_DRAIN);
    driver_wait_deaths(&d, 1);
    EXPECT_INT(d.last_status, 0);
    waitpid(d.pool_pid, NULL, 0);
}

TEST(children_of_a_script_inherit_no_descriptor)
{
    start_with_script("", "<?php passthru('ls -l /proc/self/fd | grep -c socket; "
                          "ls -l /proc/self/fd | grep -c eventfd');");
    EXPECT_BODY(&a, "0\n0\n");
    driver_stop(&d);
}

/* --- libphp ----------------------------------------------------------------------------------- */

static const char *probe_message(const char *path)
{
    static char message[1024];
    struct php_probe p;

    message[0] = '\0';
    EXPECT(php_probe(str_from(path), &p, message, sizeof(message)) < 0);
    return message;
}

TEST(probe_finds_libphp)
{
    struct php_probe p;
    char message[1024] = "";

    EXPECT_INT(php_probe(STR_NONE, &p, message, sizeof(message)), 0);
    char module[64];
    EXPECT(p.api >= 20220829);
    EXPECT(strncmp(p.version, "8.", 2) == 0);
    EXPECT(!p.zts && !p.debug);
    snprintf(module, sizeof(module), "sapid-php-%u.so", p.api);
    EXPECT(strstr(p.module, module));
}

static void write_library(const char *path, const char *text, size_t n)
{
    FILE *f = fopen(path, "we");

    EXPECT(f);
    fwrite(text, 1, n, f);
    fclose(f);
}

TEST(probe_refuses_with_what_to_install)
{
    static const char path[] = "/tmp/sapid-test-libphp.so";

    EXPECT(strstr(probe_message("/nowhere/libphp.so"), "install libphp8."));
    EXPECT(strstr(probe_message("/etc/passwd"), "is not libphp"));
#define FAKE(text) write_library(path, text, sizeof(text))
    FAKE("X-Powered-By: PHP/8.2.1\0API20220829,TS");
    EXPECT(strstr(probe_message(path), "thread-safe (ZTS)"));
    FAKE("X-Powered-By: PHP/8.2.1\0API20220829,NTS,debug");
    EXPECT(strstr(probe_message(path), "debug build"));
    FAKE("X-Powered-By: PHP/9.0.0\0API20300101,NTS");
    EXPECT(strstr(probe_message(path), "8.2 to 8.5"));
    unlink(path);
}

/* Known versions for which this build has no module: at least one, as nobody has all four. */
TEST(probe_names_the_headers_that_a_module_needs)
{
    static const char path[] = "/tmp/sapid-test-libphp-known.so";
    static const struct {
        const char *text, *package;
    } known[] = {
        { "X-Powered-By: PHP/8.2.9\0API20220829,NTS", "php8.2-dev" },
        { "X-Powered-By: PHP/8.3.9\0API20230831,NTS", "php8.3-dev" },
        { "X-Powered-By: PHP/8.4.9\0API20240924,NTS", "php8.4-dev" },
        { "X-Powered-By: PHP/8.5.9\0API20250925,NTS", "php8.5-dev" },
    };
    char message[1024];
    struct php_probe p;
    int refused = 0;

    for (size_t i = 0; i < ARRAY_LENGTH(known); i++) {
        write_library(path, known[i].text,
                      strlen("X-Powered-By: PHP/8.2.9") + 1 + sizeof("API20220829,NTS"));
        if (php_probe(str_from(path), &p, message, sizeof(message)) == 0)
            continue;
        EXPECT(strstr(message, known[i].package));
        refused++;
    }
    unlink(path);
    EXPECT(refused > 0);
}

TEST(a_pool_without_libphp_says_so)
{
    driver_start(&d, "libphp_path = \"/nowhere/libphp.so\"", 1);
    EXPECT(d.failed);
    EXPECT(strstr(d.ready, "install libphp8."));
    driver_stop(&d);
}

/* --- sapid php -------------------------------------------------------------------------------- */

static char output[65536];

/* Runs the command as a child; its output and errors, then "[exit N]", in `output`. */
static void cli(const char *input, const char *const *words)
{
    char *argv[16] = { (char *)"php" };
    int argc = 1, in[2], out[2], status;
    size_t n = 0;
    ssize_t got;

    for (; words[argc - 1]; argc++)
        argv[argc] = (char *)words[argc - 1];
    EXPECT(pipe(in) == 0 && pipe(out) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(out[1], 2);
        close(in[1]);
        close(out[0]);
        exit(php_cli_main(argc, argv));
    }
    close(in[0]);
    close(out[1]);
    EXPECT_INT(write(in[1], input, strlen(input)), (ssize_t)strlen(input));
    close(in[1]);
    while ((got = read(out[0], output + n, sizeof(output) - 32 - n)) > 0)
        n += (size_t)got;
    close(out[0]);
    waitpid(pid, &status, 0);
    snprintf(output + n, 32, "[exit %d]", WEXITSTATUS(status));
}

#define CLI(input, ...) cli(input, (const char *const[]){ __VA_ARGS__, NULL })
#define EXPECT_OUTPUT(text) EXPECT_STR(str_from(output), str_from(text))

TEST(cli_runs_code_files_and_standard_input)
{
    CLI("", "-n", "-r", "echo PHP_SAPI, $argc, $argv[1]; fwrite(STDERR, 'E'); exit(7);", "--",
        "-x");
    EXPECT_OUTPUT("cli2-xE[exit 7]");
    CLI("line", "-n", "-r",
        "echo strrev(fgets(STDIN)), ini_get('max_execution_time'), ini_get('html_errors');");
    EXPECT_OUTPUT("enil00[exit 0]");
    CLI("<?php echo $argv[0], $argv[1];", "-n", "--", "arg");
    EXPECT_OUTPUT("Standard input codearg[exit 0]");
    CLI("<?php echo 'dash';", "-n", "-");
    EXPECT_OUTPUT("dash[exit 0]");
    FILE *f = fopen("/tmp/sapid-test-cli.php", "we");
    fputs("#!/usr/bin/env php\n<?php echo basename(__FILE__), json_encode($argv), PHP_OS_FAMILY; "
          "undefined();",
          f);
    fclose(f);
    CLI("", "-n", "-d", "display_errors=0", "-d", "log_errors=0", "/tmp/sapid-test-cli.php", "-a",
        "--b");
    EXPECT_OUTPUT(
        "sapid-test-cli.php[\"\\/tmp\\/sapid-test-cli.php\",\"-a\",\"--b\"]Linux[exit 255]");
    CLI("", "-n", "-l", "/tmp/sapid-test-cli.php");
    EXPECT_OUTPUT("No syntax errors detected in /tmp/sapid-test-cli.php\n[exit 0]");
    unlink("/tmp/sapid-test-cli.php");
}

TEST(cli_says_what_is_wrong)
{
    CLI("", "/nowhere.php");
    EXPECT_OUTPUT("Could not open input file: /nowhere.php\n[exit 1]");
    CLI("", "-Q");
    EXPECT(strstr(output, "unknown option -Q") && strstr(output, "[exit 1]"));
    CLI("", "-r");
    EXPECT_OUTPUT("sapid php: option -r needs a value\n[exit 1]");
}

TEST(cli_information)
{
    CLI("", "-n", "-v");
    EXPECT(strstr(output, of_version("PHP ", ".")) == output);
    CLI("", "-n", "-m");
    EXPECT(strstr(output, "[PHP Modules]\n") && strstr(output, "\nstandard\n"));
    CLI("", "-n", "-i");
    EXPECT(strstr(output, "Server API => Command Line Interface (sapid)"));
    CLI("", "--ini");
    EXPECT(strstr(output, of_version("/etc/php/", "/cli/php.ini")));
}
