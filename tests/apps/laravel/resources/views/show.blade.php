@extends('layout')
@section('content')
<h1>{{ $product->name }}</h1>
<p>{{ number_format($product->price, 2) }}</p>
<p>{!! nl2br(e($product->description)) !!}</p>
@endsection
