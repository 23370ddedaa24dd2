<?php

namespace App\Http\Controllers;

use App\Models\Product;
use Illuminate\Http\Request;
use Illuminate\Routing\Controller;
use Illuminate\Support\Facades\Auth;
use Illuminate\Support\Facades\Cache;
use Illuminate\Support\Facades\Cookie;
use Illuminate\Support\Facades\DB;
use Illuminate\Support\Facades\Log;
use Illuminate\Support\Facades\URL;
use Illuminate\Support\Facades\View;

/** Everything that one request could leave to the next. */
class StateController extends Controller
{
    private int $calls = 0;

    public function counter(Request $request)
    {
        $request->session()->increment('n');

        return response((string) $request->session()->get('n'))->header('Content-Type', 'text/plain');
    }

    public function change()
    {
        $this->calls++;
        config(['app.name' => 'changed', 'app.new' => 'new']);
        app()->setLocale('de');
        app()->bind('late', fn () => 'bound late');
        app()->terminating(fn () => null);
        app('basket')->append('thing');
        app('visit')->append('thing');
        View::share('shop', 'Somebody else\'s');
        URL::forceRootUrl('https://elsewhere.example');
        URL::defaults(['product' => 7]);
        Cache::put('kept', 'in memory');
        Cookie::queue('taste', 'sour');
        Log::shareContext(['who' => 'me']);
        DB::enableQueryLog();
        Auth::setUser(new \App\Models\User(['name' => 'Nobody']));

        return 'changed';
    }

    public function state(Request $request)
    {
        return response()->json([
            'calls' => ++$this->calls, 'name' => config('app.name'), 'new' => config('app.new'), 'locale' => app()->getLocale(),
            'word' => __('shop.products'), 'late' => app()->bound('late'), 'basket' => app('basket')->count(), 'visit' => app('visit')->count(),
            'shop' => view('state')->render(), 'url' => url('/x'), 'defaults' => URL::getDefaultParameters(), 'cache' => Cache::get('kept'),
            'log' => Log::sharedContext(), 'queries' => DB::getQueryLog(), 'user' => Auth::user()?->name, 'user2' => $request->user()?->name,
            'cookies' => count(Cookie::getQueuedCookies()), 'path' => request()->path(), 'route' => $request->route()->uri(),
        ]);
    }

    public function tell(Request $request, string $rest = '')
    {
        return response()->json(['path' => $request->getPathInfo(), 'rest' => $rest, 'query' => $request->query(), 'host' => $request->getHost(),
                                 'ip' => $request->ip(), 'url' => $request->fullUrl(), 'method' => $request->method()]);
    }

    public function transaction()
    {
        DB::beginTransaction();
        Product::whereKey(1)->update(['name' => 'never committed']);

        return 'left open';
    }
}
