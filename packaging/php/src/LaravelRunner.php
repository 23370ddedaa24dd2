<?php

namespace Sapid\Runtime;

use Illuminate\Container\Container;
use Illuminate\Contracts\Foundation\Application;
use Illuminate\Contracts\Http\Kernel;
use Illuminate\Foundation\Application as Base;
use Illuminate\Foundation\Bootstrap\RegisterProviders;
use Illuminate\Foundation\Bootstrap\SetRequestForConsole;
use Illuminate\Http\Request;
use Illuminate\Routing\Route;
use Illuminate\Routing\UrlGenerator;
use Illuminate\Support\Facades\Facade;
use Illuminate\Support\Str;

/**
 * Serves a Laravel application without Octane, in worker mode and outside of it.
 *
 * The application is made and booted once. What a request puts into its container goes when the request ends: services
 * that were made after the boot are made anew, those of the boot (configuration, session, authentication, ...) are put
 * back to what they were. Static properties of the application's own classes stay, as under Octane.
 */
final class LaravelRunner
{
    /** Made at the boot, where the application has them, so that requests share them. */
    private const WARM = ['auth', 'blade.compiler', 'cache', 'cache.store', 'config', 'cookie', 'db', 'db.factory', 'encrypter', 'files',
                          'hash', 'log', 'router', 'routes', 'session', 'translator', 'url', 'validator', 'view'];

    private ?Application $app = null;
    private ?Kernel $kernel = null;
    private ?Request $request = null;
    private mixed $response = null;
    /** What the objects below keep in arrays, as it was after the boot: class, object, name => array. */
    private array $state = [];
    private string $locale = '';

    /** @param int $max requests after which the script ends and starts afresh, 0: none */
    public function __construct(private string $basePath, private int $max = 1000)
    {
    }

    public function run(): int
    {
        if (Worker::isAvailable()) {
            $this->boot();
        }

        return Worker::run($this->handle(...), $this->reset(...), $this->max);
    }

    private function make(): Application
    {
        return require $this->basePath . '/bootstrap/app.php';
    }

    private function boot(): void
    {
        $app = $this->make();
        // Providers may ask for the request; as in the console, there is one for them.
        $app->beforeBootstrapping(RegisterProviders::class, static fn () => (new SetRequestForConsole)->bootstrap($app));
        $app->make(Kernel::class)->bootstrap();
        $app->loadDeferredProviders();
        foreach (self::WARM as $name) {
            if ($app->bound($name)) {
                $app->make($name);
            }
        }
        $this->locale = $app->getLocale();
        $this->remember($app, Container::class);
        $this->remember($app, Base::class);
        foreach (['config', 'url', 'view'] as $name) {
            if ($app->bound($name)) {
                $this->remember($app->make($name), $app->make($name)::class);
            }
        }
        Facade::clearResolvedInstances();
        $this->app = $app;
    }

    /** The properties that are arrays, seen from inside of the class. */
    private function remember(object $object, string $class): void
    {
        $read = fn (): array => array_filter(get_object_vars($this), 'is_array');
        $this->state[] = [$class, $object, \Closure::bind($read, $object, $class)()];
    }

    private function recall(): void
    {
        foreach ($this->state as [$class, $object, $properties]) {
            $write = function () use ($properties): void {
                foreach ($properties as $name => $value) {
                    $this->$name = $value;
                }
            };
            \Closure::bind($write, $object, $class)();
        }
    }

    private function handle(): void
    {
        $app = $this->app ?? $this->make();
        $this->kernel = $app->make(Kernel::class);
        $this->request = Request::capture();
        $this->response = $this->kernel->handle($this->request);
        $this->response->send();
    }

    /** After the client has its answer. */
    private function reset(): void
    {
        if ($this->response) {
            $this->kernel->terminate($this->request, $this->response);
        }
        $route = $this->request?->route();
        $this->request = $this->response = null;
        if (!$this->app) {
            return;
        }
        if ($route instanceof Route) {
            $route->flushController();
        }
        $this->resetServices($this->app);
        $this->recall();
        Container::setInstance($this->app);
        Facade::clearResolvedInstances();
        Str::flushCache();
    }

    private function resetServices(Application $app): void
    {
        $app->setLocale($this->locale);
        $this->resetUrls($app->make('url'));
        $do = [
            'auth' => static fn ($auth) => $auth->forgetGuards(),
            'cookie' => static fn ($cookie) => $cookie->flushQueuedCookies(),
            'session' => static fn ($session) => $session->forgetDrivers(),
            'log' => static fn ($log) => $log->flushSharedContext(),
            'view' => static fn ($view) => $view->flushState(),
            'db' => $this->resetConnections(...),
        ];
        foreach ($do as $name => $reset) {
            if ($app->bound($name)) {
                $reset($app->make($name));
            }
        }
        foreach ($app->make('config')->get('cache.stores', []) as $name => $store) {
            if (($store['driver'] ?? '') === 'array') {
                $app->make('cache')->store($name)->flush();
            }
        }
    }

    private function resetUrls(UrlGenerator $url): void
    {
        $url->forceRootUrl(null);
        $url->forceScheme(null);
        $forget = function (): void {
            $this->routeGenerator = null;   // with the default parameters of this request
        };
        \Closure::bind($forget, $url, UrlGenerator::class)();
    }

    /** Connections stay open; a transaction that a request left open is rolled back. */
    private function resetConnections(object $db): void
    {
        foreach ($db->getConnections() as $connection) {
            if ($connection->transactionLevel() > 0) {
                $connection->rollBack(0);
            }
            $connection->flushQueryLog();
            $connection->forgetRecordModificationState();
        }
    }
}
