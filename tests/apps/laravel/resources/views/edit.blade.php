@extends('layout')
@section('content')
<form method="post" action="/product/new">
@csrf
@foreach ($errors->all() as $error)<p class="error">{{ $error }}</p>@endforeach
<input name="name" value="{{ old('name') }}"><input name="price" value="{{ old('price') }}"><textarea name="description">{{ old('description') }}</textarea>
<button name="save">Save</button>
</form>
@endsection
