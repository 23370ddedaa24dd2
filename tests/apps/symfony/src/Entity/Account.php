<?php

namespace App\Entity;

use Doctrine\ORM\Mapping as ORM;

#[ORM\Entity]
class Account
{
    #[ORM\Id, ORM\GeneratedValue, ORM\Column]
    public ?int $id = null;

    public function __construct(
        #[ORM\Column(length: 100)] public string $name,
        #[ORM\Column(length: 100, unique: true)] public string $email,
        #[ORM\Column(length: 100)] public string $password,
    ) {
    }
}
