<?php

/* a.html */
class View_a
{
    public static function render(): string
    {
        return 'a';
    }
}
