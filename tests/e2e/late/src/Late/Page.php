<?php
namespace Late;

class Page implements Base
{
    public function title(): string
    {
        return 'page';
    }
}
