@extends('layout')
@section('content')
<form method="post" action="/upload" enctype="multipart/form-data">
@csrf
@foreach ($errors->all() as $error)<p class="error">{{ $error }}</p>@endforeach
<input type="file" name="file"><button name="send">Send</button>
</form>
@endsection
