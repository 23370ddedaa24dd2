<?php
/* A value of every source of random numbers that PHP programs use. None may ever come twice, in whatever
 * process and request: those that are short are drawn often enough to be unique by themselves. */
declare(strict_types=1);

namespace Isolation;

function random_values(): array
{
    $many = static fn (callable $draw): string => implode('.', array_map(static fn () => $draw(), range(1, 4)));
    $deck = range(0, 25);
    shuffle($deck);
    Boot::$random ??= new \PDO('sqlite::memory:');
    $twister = new \Random\Randomizer(new \Random\Engine\Mt19937());
    return [
        'random_bytes' => bin2hex(random_bytes(12)),
        'random_int' => $many(static fn () => random_int(0, PHP_INT_MAX)),
        'mt_rand' => $many('mt_rand'),
        'rand' => $many('rand'),
        'lcg_value' => PHP_VERSION_ID < 80400 ? $many('lcg_value') : $many(static fn () => (new \Random\Randomizer())->nextFloat()),
        'uniqid' => uniqid('', true),
        'openssl' => bin2hex(openssl_random_pseudo_bytes(12)),
        'openssl_iv' => bin2hex(substr(openssl_encrypt('x', 'aes-128-gcm', openssl_random_pseudo_bytes(16), 0,
            openssl_random_pseudo_bytes(12), $tag) . $tag, 0, 16)),
        'sodium' => bin2hex(substr(sodium_crypto_secretbox_keygen(), 0, 12)),
        'session' => session_create_id(),
        'array_rand' => implode('.', array_map(static fn () => array_rand(array_fill(0, 5000, 1)), range(1, 6))),
        'shuffle' => implode('.', $deck),
        'str_shuffle' => str_shuffle('abcdefghijklmnopqrstuvwxyz0123456789'),
        'randomizer' => bin2hex((new \Random\Randomizer())->getBytes(12)),
        'engine' => bin2hex($twister->getBytes(12)),
        'sqlite' => Boot::$random->query('SELECT hex(randomblob(12))')->fetchColumn(),
        'password' => substr(password_hash('x', PASSWORD_BCRYPT, ['cost' => 4]), 7, 22),
    ];
}
