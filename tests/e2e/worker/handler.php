<?php
/* Session handlers that the script sets once, at boot. */
class Memory implements SessionHandlerInterface
{
    private static array $data = [];
    public function open(string $path, string $name): bool { return true; }
    public function close(): bool { return true; }
    public function read(string $id): string { return self::$data[$id] ?? ''; }
    public function write(string $id, string $data): bool { self::$data[$id] = $data; return true; }
    public function destroy(string $id): bool { unset(self::$data[$id]); return true; }
    public function gc(int $max): int { return 0; }
}
session_set_save_handler(new Memory, false);
while (sapid_handle_request(function () {
    if (($_GET['session'] ?? '1') === '1') {
        session_start();
        $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
        echo $_SESSION['n'];
    } else {
        echo 'none';
    }
}));
