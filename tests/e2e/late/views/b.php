<?php

/* b.html */
class View_b
{
    public static function render(): string
    {
        return 'b';
    }
}
