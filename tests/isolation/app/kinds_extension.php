<?php
/* Kinds of request about extensions. */
declare(strict_types=1);

namespace Isolation;

const XML = '<shop><item price="3">tea</item><item price="5">Kaffee &amp; Milch</item></shop>';

/** A stream that counts its reads. */
class CountStream
{
    public $context;
    private int $at = 0;
    private string $path = '';
    public function stream_open(string $path, string $mode, int $options, ?string &$opened): bool { $this->path = $path; return true; }
    public function stream_read(int $count): string { return substr(str_repeat(md5($this->path), 100), $this->at, $count); }
    public function stream_eof(): bool { return ($this->at += 8192) > 3200; }
    public function stream_stat(): array { return []; }
    public function stream_write(string $data): int { return strlen($data); }
    public function stream_close(): void { echo "closed {$this->path}\n"; }
}

class Rot13 extends \php_user_filter
{
    public function filter($in, $out, &$consumed, bool $closing): int
    {
        while ($bucket = stream_bucket_make_writeable($in)) {
            $bucket->data = str_rot13($bucket->data);
            $consumed += $bucket->datalen;
            stream_bucket_append($out, $bucket);
        }
        return PSFS_PASS_ON;
    }

    public function onClose(): void
    {
        echo "filter closed\n";
    }
}

return [
    'dom' => function (int $n): void {
        $d = new \DOMDocument();
        $d->loadXML(XML);
        $x = new \DOMXPath($d);
        $x->registerNamespace('php', 'http://php.net/xpath');
        $x->registerPhpFunctions('strtoupper');
        $d->documentElement->appendChild($d->createElement('added', "n$n"));
        Boot::$document->documentElement->setAttribute('n', (string) $n);
        show([$x->evaluate('sum(//item/@price)'), $x->evaluate('php:functionString("strtoupper", //item[1])'), $d->saveXML(), Boot::$document->documentElement->getAttribute('n')]);
    },
    'html' => function (int $n): void {
        libxml_use_internal_errors(true);
        libxml_clear_errors();
        $d = new \DOMDocument();
        $d->loadHTML('<p>one<p>two<nope>' . str_repeat('<b>', $n));
        show([count(libxml_get_errors()), $d->getElementsByTagName('p')->length]);
    },
    'simplexml' => function (int $n): void {
        $x = simplexml_load_string(XML);
        $x->item[0]['price'] = (string) $n;
        show([(string) $x->item[1], $x->asXML()]);
    },
    'xsl' => function (int $n): void {
        $p = new \XSLTProcessor();
        $sheet = new \DOMDocument();
        $sheet->loadXML('<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"><xsl:param name="n"/>'
            . '<xsl:template match="/"><out n="{$n}"><xsl:for-each select="//item"><i><xsl:value-of select="."/></i></xsl:for-each></out></xsl:template></xsl:stylesheet>');
        $p->importStylesheet($sheet);
        $p->setParameter('', 'n', (string) $n);
        $d = new \DOMDocument();
        $d->loadXML(XML);
        show($p->transformToXml($d));
    },
    'xml_streams' => function (int $n): void {
        $w = new \XMLWriter();
        $w->openMemory();
        $w->startElement('left-open');
        $w->text(str_repeat('t', $n));
        $r = \XMLReader::XML(XML);
        while ($r->read() && $r->name !== 'item') {
        }
        $parser = xml_parser_create();
        xml_set_element_handler($parser, static fn ($p, $name) => show($name), static fn () => null);
        xml_parse($parser, XML);
        show([$r->readString(), strlen($w->outputMemory(false))]);
    },
    'pdo_memory' => function (int $n): void {
        $db = new \PDO('sqlite::memory:');
        $db->sqliteCreateFunction('twice', static fn ($x) => 2 * $x);
        $db->exec('CREATE TABLE t(a)');
        $s = $db->prepare('INSERT INTO t VALUES (?)');
        foreach (range(1, 100 * $n) as $i) {
            $s->execute([$i]);
        }
        show($db->query('SELECT sum(twice(a)), count(*) FROM t')->fetch(\PDO::FETCH_NUM));
    },
    'pdo_file' => function (int $n): void {
        $file = SITE . '/data/' . $_GET['own'] . '.sqlite';
        $db = new \PDO("sqlite:$file");
        $db->exec('CREATE TABLE IF NOT EXISTS t(a)');
        $before = $db->query('SELECT count(*) FROM t')->fetchColumn();
        $db->beginTransaction();
        $db->exec('INSERT INTO t VALUES (1)');
        $during = $db->query('SELECT count(*) FROM t')->fetchColumn();
        show([$before, $during]);
        $GLOBALS['held'] = $db;   // the transaction is left open: it must be rolled back
    },
    'sqlite3' => function (int $n): void {
        $db = new \SQLite3(':memory:');
        $db->createAggregate('joined', static fn ($c, $row, $v) => $c . $v, static fn ($c) => $c);
        $db->exec('CREATE TABLE t(a); INSERT INTO t VALUES (1), (2), (3)');
        $GLOBALS['statement'] = $statement = $db->prepare('SELECT joined(a) FROM t WHERE a <= :n');
        $statement->bindValue(':n', $n);
        show($statement->execute()->fetchArray(SQLITE3_NUM));
    },
    'intl' => function (int $n): void {
        \Locale::setDefault('de_DE');
        $money = new \NumberFormatter('de_DE', \NumberFormatter::CURRENCY);
        $date = new \IntlDateFormatter('fr_FR', \IntlDateFormatter::LONG, \IntlDateFormatter::NONE, 'UTC');
        $c = new \Collator('sv_SE');
        $words = ['ö', 'z', 'a'];
        $c->sort($words);
        $breaks = \IntlBreakIterator::createWordInstance('en');
        $breaks->setText('one two three');
        show([$money->formatCurrency(1234.5 * $n, 'EUR'), $date->format(86400 * 365 * $n), $words, count(iterator_to_array($breaks)),
            \Transliterator::create('Any-Latin; Latin-ASCII')->transliterate('Київ'), (new \MessageFormatter('en', '{0,plural,=1{one}other{# many}}'))->format([$n])]);
    },
    'intl_lazy' => function (int $n): void {
        $locale = [1 => 'ja_JP', 2 => 'ar_EG', 3 => 'hi_IN'][$n];
        show([\Locale::getDisplayLanguage($locale, 'en'), (new \NumberFormatter($locale, \NumberFormatter::SPELLOUT))->format(21),
            \IntlTimeZone::createTimeZone('Asia/Tokyo')->getDisplayName(false, \IntlTimeZone::DISPLAY_LONG, $locale)]);
    },
    'pcre' => function (int $n): void {
        $sum = 0;
        for ($i = 1; $i < 60 * $n; $i++) {
            $sum += preg_match("/^(?<w>[a-z]{1,$i}?)(\\d+){$i}?x*/u", "abc123$i", $m) + count($m);
        }
        show([$sum, preg_replace_callback('/\d/', static fn ($m) => (string) (2 * (int) $m[0]), "1a2b$n"), preg_split('/[\s,]+/', "a, b  c,$n")]);
    },
    'openssl' => function (int $n): void {
        $key = openssl_pkey_new(['private_key_type' => OPENSSL_KEYTYPE_EC, 'curve_name' => 'prime256v1']);
        openssl_sign("text $n", $signature, $key, OPENSSL_ALGO_SHA256);
        openssl_pkey_export($key, $pem);
        show([openssl_verify("text $n", $signature, openssl_pkey_get_details($key)['key'], OPENSSL_ALGO_SHA256), strlen($pem) > 100,
            openssl_encrypt("t$n", 'aes-256-cbc', 'key', 0, '1234567890123456'), openssl_digest("d$n", 'sha512')]);
    },
    'sodium' => function (int $n): void {
        $pair = sodium_crypto_box_keypair();
        $sealed = sodium_crypto_box_seal("secret $n", sodium_crypto_box_publickey($pair));
        show([sodium_crypto_box_seal_open($sealed, $pair), bin2hex(sodium_crypto_generichash("h$n")), bin2hex(sodium_crypto_shorthash("s$n", str_repeat('k', 16)))]);
    },
    'bcrypt' => function (int $n): void {
        $hash = password_hash("p$n", PASSWORD_BCRYPT, ['cost' => 4]);
        show([password_verify("p$n", $hash), password_verify('other', $hash), crypt('x', '$6$rounds=1000$salt' . $n . '$')]);
    },
    'argon' => function (int $n): void {
        show(password_verify("p$n", password_hash("p$n", PASSWORD_ARGON2ID, ['memory_cost' => 1024, 'time_cost' => 1, 'threads' => 1])));
    },
    'finfo' => function (int $n): void {
        $f = new \finfo(FILEINFO_MIME);
        show([$f->buffer("\x89PNG\r\n\x1a\n"), $f->file(__FILE__), mime_content_type('/etc/passwd')]);
    },
    'ffi' => function (int $n): void {
        $c = \FFI::cdef('int abs(int); double pow(double, double); struct p { int a; char t[16]; };', 'libm.so.6');
        $p = $c->new('struct p');
        $p->a = -$n;
        \FFI::memcpy($p->t, 'hello', 5);
        show([$c->abs($p->a), $c->pow(2.0, (float) $n), \FFI::string($p->t, 5)]);
    },
    'ffi_callback' => function (int $n): void {
        $c = \FFI::cdef('void qsort(int *, size_t, size_t, int (*)(int *, int *));', 'libc.so.6');
        $a = $c->new('int[5]');
        foreach ([5, 3, 9, 1, $n] as $i => $v) {
            $a[$i] = $v;
        }
        $c->qsort($a, 5, 4, static fn ($x, $y) => $x[0] <=> $y[0]);
        show([$a[0], $a[4]]);
    },
    'iconv' => function (int $n): void {
        $to = [1 => 'KOI8-R', 2 => 'SHIFT_JIS', 3 => 'UTF-16LE'][$n];
        show([bin2hex(iconv('UTF-8', $to, 'Привет')), iconv_strlen('日本', 'UTF-8')]);
    },
    'mbstring' => function (int $n): void {
        mb_internal_encoding('UTF-8');
        show([mb_strtoupper('straße'), mb_convert_encoding("\xe4", 'UTF-8', 'ISO-8859-1'), mb_substr('日本語テキスト', $n), mb_ereg_replace('[0-9]+', '#', "a$n b22")]);
    },
    'gd' => function (int $n): void {
        $image = imagecreatetruecolor(20 * $n, 20);
        imagefilledellipse($image, 10, 10, 12, 12, imagecolorallocate($image, 255, 0, 0));
        imagestring($image, 2, 0, 0, "n$n", 0xffffff);
        ob_start();
        imagepng($image);
        show(md5(ob_get_clean()));
    },
    'bcmath' => function (int $n): void {
        show([bcpow('2', (string) (100 * $n)), bcdiv('10', '3', 20), bcsqrt('2')]);
    },
    'zip' => function (int $n): void {
        $file = tempnam('/tmp', 'iso');
        $zip = new \ZipArchive();
        $zip->open($file, \ZipArchive::OVERWRITE);
        $zip->addFromString('a.txt', str_repeat('a', 1000 * $n));
        $zip->close();
        $GLOBALS['zip'] = new \ZipArchive();
        $GLOBALS['zip']->open($file);   // left open
        show($GLOBALS['zip']->statIndex(0)['size']);
        unlink($file);
    },
    'compression' => function (int $n): void {
        $text = str_repeat("compress me $n ", 500);
        $deflate = deflate_init(ZLIB_ENCODING_GZIP);
        $packed = deflate_add($deflate, $text, ZLIB_FINISH);
        show([gzdecode($packed) === $text, md5(gzcompress($text)), strlen(gzinflate(gzdeflate($text)))]);
    },
    'gz_left_open' => function (int $n): void {
        // Flushed and closed at the end of the request; the client reads it when all is over.
        $GLOBALS['gz'] = gzopen(SITE . "/data/{$_GET['own']}-$n.gz", 'w');
        show(gzwrite($GLOBALS['gz'], "written by $n"));
    },
    'json' => function (int $n): void {
        $deep = [];
        for ($i = 0; $i < 200 * $n; $i++) {
            $deep = ['d' => $deep, 'i' => $i];
        }
        $text = json_encode($deep, 0, 100000);
        show([strlen($text), json_decode($text, true, 5) === null, json_last_error_msg()]);
    },
    'hash' => function (int $n): void {
        $h = hash_init('sha256', HASH_HMAC, 'key');
        hash_update($h, "part $n");
        $copy = hash_copy($h);
        hash_update($copy, ' more');
        show([hash_final($h), hash_final($copy), crc32("c$n"), hash('xxh3', "x$n")]);
    },
    'stream_wrapper' => function (int $n): void {
        stream_wrapper_register('count', CountStream::class);
        show(md5(file_get_contents("count://file/$n")));
        $GLOBALS['stream'] = fopen("count://left-open/$n", 'r');
        if ($n === 2) {
            stream_wrapper_unregister('file');
            show(@file_get_contents('/etc/passwd') === false);
        }
    },
    'stream_filter' => function (int $n): void {
        stream_filter_register('rot13.mine', Rot13::class);
        $f = fopen('php://temp', 'w+');
        stream_filter_append($f, 'rot13.mine', STREAM_FILTER_WRITE);
        fwrite($f, "Hello $n");
        rewind($f);
        show(stream_get_contents($f));
    },
    'memory_stream' => function (int $n): void {
        rewind(Boot::$memory);
        fwrite(Boot::$memory, str_repeat("m$n", 3000));
        rewind(Boot::$memory);
        $temp = fopen('php://temp/maxmemory:1000', 'w+');
        fwrite($temp, str_repeat('t', 5000));
        show([strlen(stream_get_contents(Boot::$memory)), ftell($temp)]);
    },
    'phar' => function (int $n): void {
        $file = SITE . '/data/' . $_GET['own'] . '.tar';
        @unlink($file);
        $p = new \PharData($file);
        $p['a.txt'] = "in the archive $n";
        show(file_get_contents("phar://$file/a.txt"));
        unset($p);
        \PharData::unlinkArchive($file);
    },
    'apcu' => function (int $n): void {
        $key = 'own' . $_GET['own'];
        apcu_store($key, ['n' => $n, 'text' => str_repeat('a', 100 * $n)]);
        show([apcu_fetch($key), apcu_entry("e$key", static fn () => 'made')]);
        apcu_delete([$key, "e$key"]);
    },
    'igbinary' => function (int $n): void {
        $o = new \ArrayObject(['n' => $n, 'list' => range(1, 20)]);
        show(igbinary_unserialize(igbinary_serialize($o)) == $o);
    },
    'curl' => function (int $n): void {
        $c = curl_init("http://127.0.0.1:1/closed/$n");
        curl_setopt_array($c, [CURLOPT_RETURNTRANSFER => true, CURLOPT_TIMEOUT => 2]);
        show([curl_exec($c), curl_errno($c)]);
        $GLOBALS['curl'] = $c;
        $file = curl_init('file:///etc/hostname');
        curl_setopt($file, CURLOPT_WRITEFUNCTION, static fn ($h, string $d): int => strlen($d));
        show([curl_exec($file), curl_multi_init() instanceof \CurlMultiHandle]);
    },
    'tokenizer' => function (int $n): void {
        show([count(token_get_all('<?php ' . str_repeat('echo $a + 1;', $n))), ctype_alpha("abc$n"), highlight_string('<?php echo 1;', true)]);
    },
    'calendar' => function (int $n): void {
        show([jdtogregorian(2460000 + $n), easter_days(2020 + $n), gettext("hello $n")]);
    },
];
