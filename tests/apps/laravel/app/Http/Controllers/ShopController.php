<?php

namespace App\Http\Controllers;

use App\Models\Product;
use Illuminate\Http\Request;
use Illuminate\Routing\Controller;
use Illuminate\Support\Facades\Auth;
use Illuminate\Support\Facades\Gate;
use Illuminate\Support\Facades\Storage;

class ShopController extends Controller
{
    public function list()
    {
        return view('list', ['products' => Product::orderBy('id')->paginate(50)]);
    }

    public function show(Product $product)
    {
        return view('show', ['product' => $product]);
    }

    public function create()
    {
        return view('edit');
    }

    public function store(Request $request)
    {
        $fields = $request->validate(['name' => 'required|max:60', 'price' => 'required|numeric|gt:0', 'description' => 'nullable']);
        $product = Product::create($fields + ['description' => '']);

        return redirect()->route('product', $product)->with('saved', $product->name);
    }

    public function uploadForm()
    {
        return view('upload');
    }

    public function upload(Request $request)
    {
        $request->validate(['file' => 'required|file|mimes:png|max:4096']);
        $file = $request->file('file');
        $name = sha1_file($file->getRealPath()) . '.png';
        $file->storeAs('uploads', $name);

        return redirect("/download/$name");
    }

    public function download(string $name)
    {
        abort_unless(Storage::exists("uploads/$name"), 404);

        return response()->download(Storage::path("uploads/$name"), 'löad.png', [], 'inline');
    }

    public function loginForm()
    {
        return view('login');
    }

    public function login(Request $request)
    {
        if (!Auth::attempt($request->only('email', 'password'))) {
            return back()->withErrors(['email' => 'Nobody of that name.'])->withInput();
        }
        $request->session()->regenerate();

        return redirect()->intended('/me');
    }

    public function me()
    {
        return Auth::user()->name . (Gate::allows('edit') ? ' may edit' : ' may not edit');
    }
}
