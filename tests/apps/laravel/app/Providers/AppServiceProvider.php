<?php

namespace App\Providers;

use Illuminate\Support\Facades\Gate;
use Illuminate\Support\Facades\View;
use Illuminate\Support\ServiceProvider;

class AppServiceProvider extends ServiceProvider
{
    public function register(): void
    {
        $this->app->singleton('basket', fn () => new \ArrayObject());
        $this->app->scoped('visit', fn () => new \ArrayObject());
    }

    public function boot(): void
    {
        View::share('shop', 'The Shop');
        Gate::define('edit', fn ($user) => $user->email === 'anna@example.org');
    }
}
