<?php
// Recursion in PHP's own C code, as asked for by ?do=, &n= deep. What it prints is short.
ini_set('memory_limit', '1G');
ini_set('html_errors', '0');
ini_set('display_errors', '1');
ini_set('unserialize_max_depth', '0');
ini_set('pcre.backtrack_limit', '100000000');
ini_set('pcre.recursion_limit', '100000000');
if (isset($_GET['no_jit'])) {
    ini_set('pcre.jit', '0');
}
$n = (int)$_GET['n'];
function nested($n) { $a = []; while ($n-- > 0) $a = [$a]; return $a; }
function chain($class, $n) { $o = null; while ($n-- > 0) { $next = new $class; $next->next = $o; $o = $next; } return $o; }
class Link { public $next; }
class Ending { public $next; function __destruct() { $this->next = null; } }
class Cloning { public $next; function __clone() { if ($this->next) $this->next = clone $this->next; } }
class Text { function __toString() { return 'x' . new Text; } }
class Getting { function __get($name) { return (new Getting)->{$name . 'x'}; } }
class Json implements JsonSerializable { function jsonSerialize(): mixed { return [new Json]; } }
class Counted implements Countable { function count(): int { return count(new Counted); } }
class Iterating implements IteratorAggregate { function getIterator(): Iterator { return yield_all(new Iterating); } }
function yield_all($x) { yield from $x; }
function called() { return array_map('called', [1]); }
function autoloaded($class) { return class_exists($class . 'x'); }
switch ($_GET['do']) {
case 'pcre repeat': var_dump(preg_match('/^(?:a|b)*$/', str_repeat('ab', $n)), preg_last_error_msg()); break;
case 'pcre lazy': var_dump(preg_match('/^(.+?)+$/s', str_repeat('a', $n) . "\0"), preg_last_error_msg()); break;
case 'pcre recursive': var_dump(preg_match('/^(\((?1)*\))$/', str_repeat('(', $n) . str_repeat(')', $n)), preg_last_error_msg()); break;
case 'pcre groups': var_dump(@preg_match('/' . str_repeat('(', $n) . str_repeat(')', $n) . '/', ''), preg_last_error_msg()); break;
case 'json_decode': var_dump(is_array(json_decode(str_repeat('[', $n) . str_repeat(']', $n), true, 1 << 30)), json_last_error_msg()); break;
case 'json_encode': var_dump(strlen(json_encode(nested($n), 0, 1 << 30)), json_last_error_msg()); break;
case 'json_encode objects': var_dump(strlen(json_encode(new Json, 0, 1 << 30))); break;
case 'unserialize': var_dump(is_array(unserialize(str_repeat('a:1:{i:0;', $n) . 'i:1;' . str_repeat('}', $n)))); break;
case 'serialize': var_dump(strlen(serialize(nested($n)))); break;
case 'var_dump': ob_start(fn($x) => '', 65536); var_dump(nested($n)); ob_end_clean(); break;
case 'var_export': ini_set('memory_limit', '64M'); var_dump(strlen(var_export(nested($n), true))); break;
case 'print_r': ini_set('memory_limit', '64M'); var_dump(strlen(print_r(nested($n), true))); break;
case 'compare': var_dump(nested($n) == nested($n)); break;
case 'count': var_dump(count(nested($n), COUNT_RECURSIVE)); break;
case 'walk': $a = nested($n); array_walk_recursive($a, fn() => 1); echo 'walked'; break;
case 'free': $a = nested($n); unset($a); echo 'freed'; break;
case 'free objects': $o = chain('Link', $n); unset($o); echo 'freed'; break;
case 'destructors': $o = chain('Ending', $n); unset($o); echo 'ended'; break;
case 'destructors at the end': $o = chain('Ending', $n); echo 'kept'; break;
case 'clone': $o = clone chain('Cloning', $n); echo 'cloned'; break;
case 'collect': $o = chain('Link', $n); $o->self = $o; unset($o); var_dump(gc_collect_cycles() > 0); break;
case '__toString': echo strlen(new Text); break;
case '__get': echo (new Getting)->x; break;
case 'countable': echo count(new Counted); break;
case 'yield from': foreach (new Iterating as $x); break;
case 'array_map': called(); break;
case 'usort': function sorted() { $a = [1, 2]; usort($a, fn() => sorted()); } sorted(); break;
case 'autoload': spl_autoload_register('autoloaded'); class_exists('x'); break;
case 'error handler': set_error_handler(fn() => trigger_error('again')); trigger_error('first'); echo 'handled'; break;
case 'output callback': ob_start(fn($t) => $t . strlen(new Text)); echo 'x'; ob_end_flush(); break;
case 'compile parentheses': var_dump(eval('return ' . str_repeat('(', $n) . '1' . str_repeat(')', $n) . ';')); break;
case 'compile not': var_dump(eval('return ' . str_repeat('!', $n) . '1;')); break;
case 'compile concat': var_dump(strlen(eval('return $n' . str_repeat('.$n', $n) . ';')) > 1); break;
case 'compile blocks': eval(str_repeat('{', $n) . str_repeat('}', $n)); echo 'compiled'; break;
case 'xml': $p = xml_parser_create(); var_dump(xml_parse($p, str_repeat('<a>', $n), true), xml_error_string(xml_get_error_code($p))); break;
case 'dom': libxml_use_internal_errors(true); $d = new DOMDocument; var_dump($d->loadXML(str_repeat('<a>', $n) . str_repeat('</a>', $n), LIBXML_PARSEHUGE)); break;
case 'include': file_put_contents(__DIR__ . '/sessions/self.php', '<?php include __FILE__;'); ini_set('memory_limit', '64M'); include __DIR__ . '/sessions/self.php'; break;
}
echo " end\n";
