@extends('layout')
@section('content')
<form method="post" action="/login">
@csrf
@foreach ($errors->all() as $error)<p class="error">{{ $error }}</p>@endforeach
<input name="email" value="{{ old('email') }}"><input type="password" name="password"><button name="in">Log in</button>
</form>
@endsection
