<?php
/* Kinds of request about the language: classes loaded late, Fibers, generators, cycles, closures, SPL. */
declare(strict_types=1);

namespace Isolation;

function held(string $name): \Generator
{
    try {
        yield $name;
        yield "$name again";
    } finally {
        echo "finally of $name\n";
    }
}

return [
    'autoload' => function (int $n): void {
        $class = "Lazy\\C$n";
        show([(new $class())->name(), $class::$count++]);
    },
    'autoload_many' => function (int $n): void {
        $sum = 0;
        for ($i = 50 * $n; $i < 50 * $n + 50; $i++) {
            $class = "Lazy\\C$i";
            $sum += strlen((new $class())->name()) + $class::$count++;
        }
        show($sum);
    },
    'include' => function (int $n): void {
        for ($i = $n; $i < 10 * $n; $i++) {
            show(include SITE . "/lazy/value$i.php");
        }
        show((include_once SITE . "/lazy/value$n.php") === true);
    },
    'include_new_file' => function (int $n): void {
        $file = tempnam('/tmp', 'iso');
        file_put_contents($file, "<?php return ['made' => $n, 'f' => (function () { static \$k = 5; return ++\$k; })()];");
        show(include $file);
        unlink($file);
    },
    'eval' => function (int $n): void {
        eval("namespace Evaluated; class E$n { public static \$v = []; function f() { static \$s = 0; self::\$v[] = 1; return ++\$s; } }");
        $class = "Evaluated\\E$n";
        $o = new $class();
        show([$o->f(), $o->f(), count($class::$v)]);
    },
    'fibers' => function (int $n): void {
        $left = [];
        for ($i = 0; $i < 5 * $n; $i++) {
            $f = new \Fiber(static function (int $i): int {
                try {
                    $got = \Fiber::suspend($i);
                    $got = \Fiber::suspend($got * 2);
                    return $got;
                } finally {
                    echo "fiber $i unwound\n";
                }
            });
            $sum = $f->start($i) + $f->resume($i);
            $left[] = $f;
        }
        show($sum);
        $GLOBALS['fibers'] = $left;
    },
    'fiber_finished' => function (int $n): void {
        $out = [];
        for ($i = 0; $i < 30 * $n; $i++) {
            $f = new \Fiber(static fn () => \Fiber::suspend(1) . 'x');
            $f->start();
            $f->resume("r$i");
            $out[] = $f->getReturn();
        }
        show($out);
    },
    'generators' => function (int $n): void {
        $local = held('local generator');
        show($local->current());
        $GLOBALS['generator'] = held('global generator');
        show($GLOBALS['generator']->current());
        $boot = [];
        for ($i = 0; $i < $n; $i++) {
            Boot::$generator->next();
            $boot[] = Boot::$generator->current();
        }
        show($boot);
    },
    'cycles' => function (int $n): void {
        gc_enable();
        for ($i = 0; $i < 5000 * $n; $i++) {
            $a = new \stdClass();
            $b = new \stdClass();
            $a->b = $b;
            $b->a = [$a, str_repeat('c', 50)];
        }
        unset($a, $b);
        show(gc_collect_cycles() > 0);
    },
    'gc_caches' => function (int $n): void {
        $x = range(1, 100000 * $n);
        unset($x);
        gc_mem_caches();
        Boot::$service = new Service();
        Boot::$array->exchangeArray(range(1, 1000));
        show(count(Boot::$array));
    },
    'free_boot' => function (int $n): void {
        // What the boot made is freed and its memory used again.
        Boot::$document = new \DOMDocument();
        Boot::$date = new \DateTime('@0');
        Boot::$collator = new \Collator('sv_SE');
        fclose(Boot::$memory);
        unset($GLOBALS['table']);
        $junk = array_fill(0, 3000 * $n, str_repeat('j', 40));
        show([count($junk), Boot::$collator->compare('z', 'ö')]);
    },
    'close_boot_file' => function (int $n): void {
        fclose(Boot::$file);
        $f = fopen('/etc/hostname', 'r');
        show(is_resource($f));
    },
    'closures' => function (int $n): void {
        $counter = (static function () {
            static $c = 0;
            return ++$c;
        });
        $bound = \Closure::bind(fn () => count($this->seen), Boot::$service, Service::class);
        show([$counter(), $counter(), array_map(fn ($x) => $x * $n, [1, 2, 3]), $bound() > 0, (strlen(...))('abc')]);
    },
    'enums' => function (int $n): void {
        show([Colour::from('red')->name, Colour::tryFrom('no'), Colour::cases()[1] === Colour::Favourite, unserialize(serialize(Colour::Blue)) === Colour::Blue]);
    },
    'reflection' => function (int $n): void {
        $c = new \ReflectionClass(Service::class);
        $names = array_map(static fn ($m) => $m->getName(), $c->getMethods());
        $static = $c->getStaticPropertyValue('count');
        $c->setStaticPropertyValue('count', 100 + $n);
        show([$names, $static, Service::$count]);
    },
    'serialize' => function (int $n): void {
        $o = new \ArrayObject(range(1, $n * 100));
        $back = unserialize(serialize([$o, $o, new \DateTimeImmutable('2001-01-01 UTC'), 1.5]));
        show([$back[0] === $back[1], count($back[0]), $back[2]->format('Y')]);
    },
    'weak' => function (int $n): void {
        $map = new \WeakMap();
        for ($i = 0; $i < 100 * $n; $i++) {
            $keys[] = $k = new \stdClass();
            $map[$k] = $i;
        }
        $reference = \WeakReference::create($keys[0]);
        array_splice($keys, 0, 50);
        show([count($map), $reference->get() === null]);
    },
    'spl' => function (int $n): void {
        $h = new \SplMinHeap();
        foreach (range(1, 200 * $n) as $i) {
            $h->insert(($i * 7919) % 1009);
        }
        $q = new \SplQueue();
        $q[] = $h->extract();
        $f = \SplFixedArray::fromArray(range(1, 50));
        $it = new \LimitIterator(new \InfiniteIterator(new \ArrayIterator([1, 2, 3])), 0, 10 * $n);
        show([$q->dequeue(), $f->getSize(), array_sum(iterator_to_array($it, false))]);
    },
    'strings' => function (int $n): void {
        $s = '';
        for ($i = 0; $i < 20000 * $n; $i++) {
            $s .= chr(97 + $i % 26);
        }
        show([md5($s), strtok('a b c', ' '), strtok(' '), similar_text('World', 'Word'), vsprintf('%05d %s', [$n, 'x'])]);
    },
    'hot_loop' => function (int $n): void {
        // Long enough for the tracing JIT.
        $x = 0;
        for ($i = 0; $i < 50000; $i++) {
            $x = ($x * 31 + $i * $n) & 0xffffff;
        }
        $o = new class {
            public int $sum = 0;
            public function add(int $v): void
            {
                $this->sum += $v & 255;
            }
        };
        for ($i = 0; $i < 3000; $i++) {
            $o->add($i);
        }
        show([$x, $o->sum]);
    },
    'dates' => function (int $n): void {
        date_default_timezone_set('America/New_York');
        $d = new \DateTimeImmutable('2024-03-10 01:30');
        $period = new \DatePeriod($d, new \DateInterval('PT30M'), 2 + $n);
        show(array_map(static fn ($x) => $x->format('c T'), iterator_to_array($period)));
    },
    'class_table' => function (int $n): void {
        class_alias(Service::class, "Alias\\S$n");
        show([(new ("Alias\\S$n")()) instanceof Service, interface_exists('Lazy\\None', false)]);
    },
    'ticks' => function (int $n): void {
        $ticks = 0;
        register_tick_function(static function () use (&$ticks): void {
            $ticks++;
        });
        eval('declare(ticks=1); $a = 1; $b = 2; $c = 3;');
        show($ticks > 2);
    },
];
