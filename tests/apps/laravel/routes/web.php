<?php

use App\Http\Controllers\NotesController;
use App\Http\Controllers\ShopController;
use App\Http\Controllers\StateController;
use Illuminate\Support\Facades\Route;

Route::controller(ShopController::class)->group(function () {
    Route::get('/', 'list');
    Route::get('/product/new', 'create');
    Route::post('/product/new', 'store');
    Route::get('/product/{product}', 'show')->whereNumber('product')->name('product');
    Route::get('/upload', 'uploadForm');
    Route::post('/upload', 'upload');
    Route::get('/download/{name}', 'download');
    Route::get('/login', 'loginForm')->name('login');
    Route::post('/login', 'login');
    Route::get('/me', 'me')->middleware('auth');
});
Route::controller(NotesController::class)->group(function () {
    Route::get('/notes', 'show')->middleware('auth');
    Route::post('/notes', 'add')->middleware('auth');
    Route::post('/logout', 'logout');
    Route::get('/careless', 'careless');
});
Route::controller(StateController::class)->group(function () {
    Route::get('/counter', 'counter');
    Route::get('/change', 'change');
    Route::get('/state', 'state');
    Route::get('/echo/{rest?}', 'tell')->where('rest', '.*');
    Route::get('/boom', fn () => throw new LogicException('the boom of the test'));
    Route::get('/teapot', fn () => abort(418));
    Route::get('/transaction', 'transaction');
    Route::get('/dd', fn () => dd('dumped'));
});
