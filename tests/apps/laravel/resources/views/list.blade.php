@extends('layout')
@section('content')
<h1>{{ $products->total() }} {{ __('shop.products') }}</h1>
<table>
@foreach ($products as $product)
<tr class="{{ $loop->odd ? 'odd' : 'even' }}"><td><a href="{{ route('product', $product) }}">{{ $product->name }}</a><td>{{ number_format($product->price, 2) }}
@endforeach
</table>
@if ($products->hasMorePages())<a href="{{ $products->nextPageUrl() }}">next</a>@endif
@endsection
