@extends('layout')
@section('content')
<h1>{{ $user->name }}</h1>
@foreach ($errors->all() as $error)<p class="error">{{ $error }}</p>@endforeach
@forelse ($notes as $note)<p>{{ $note }}</p>@empty<p>no notes</p>@endforelse
<form id="note" method="post" action="/notes">@csrf<input name="note" value="{{ old('note') }}"><button name="save">Save</button></form>
<form id="logout" method="post" action="/logout">@csrf<button name="out">Log out</button></form>
@endsection
