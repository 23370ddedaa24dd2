<?php
namespace Late;

if (!\Kept::$busy)
    exit('this file is for requests');

class Exits
{
}
