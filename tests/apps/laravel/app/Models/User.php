<?php

namespace App\Models;

use Illuminate\Foundation\Auth\User as Base;

class User extends Base
{
    public $timestamps = false;
    protected $fillable = ['name', 'email', 'password'];
    protected $rememberTokenName = '';
}
