<?php

use App\Models\Product;
use Illuminate\Support\Facades\Route;

Route::get('/products/{product}', fn (Product $product) => $product);
