{{ $shop }}
