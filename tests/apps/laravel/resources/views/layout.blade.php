<!doctype html>
<html lang="{{ app()->getLocale() }}"><meta charset="utf-8"><title>{{ $shop }}</title>
@if (session('saved'))<p class="flash">Saved “{{ session('saved') }}”.</p>@endif
@yield('content')
</html>
