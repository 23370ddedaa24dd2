<?php

namespace App\Console;

use Illuminate\Foundation\Console\Kernel as Base;

class Kernel extends Base
{
}
