<?php

namespace App\Http\Controllers;

use Illuminate\Http\Request;
use Illuminate\Routing\Controller;
use Illuminate\Support\Facades\Auth;

/** Notes that only their author sees, kept in the session, and the way out. */
class NotesController extends Controller
{
    public function show(Request $request)
    {
        return view('notes', ['user' => Auth::user(), 'notes' => $request->session()->get('notes', [])]);
    }

    public function add(Request $request)
    {
        $fields = $request->validate(['note' => 'required|max:200']);
        $request->session()->put('notes', array_slice([...$request->session()->get('notes', []), $fields['note']], -5));

        return redirect('/notes')->with('saved', $fields['note']);
    }

    public function logout(Request $request)
    {
        Auth::logout();
        $request->session()->invalidate();
        $request->session()->regenerateToken();

        return redirect('/login');
    }

    /** What an application that is fit for one request at a time may do: under worker mode everybody's, else one's own. */
    public function careless(Request $request)
    {
        static $visitors = [];
        $visitors[] = $request->header('X-Person');

        return response()->json($visitors);
    }
}
