<?php
namespace Late;

/* A fatal error that nobody can catch, outside of a request. */
if (!\Kept::$busy)
    eval('class A { function f(int $a): void {} } class B extends A { function f(string $a, $b): int { return 1; } }');

class Fatal
{
}
