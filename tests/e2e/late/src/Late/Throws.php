<?php
namespace Late;

if (!\Kept::$busy)
    throw new \LogicException('this file is for requests');

class Throws
{
}
