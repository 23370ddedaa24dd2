<?php

namespace App\Entity;

use Doctrine\ORM\Mapping as ORM;

#[ORM\Entity]
class Comment
{
    #[ORM\Id, ORM\GeneratedValue, ORM\Column]
    public ?int $id = null;

    #[ORM\ManyToOne(inversedBy: 'comments')]
    #[ORM\JoinColumn(nullable: false)]
    public Post $post;

    #[ORM\ManyToOne]
    #[ORM\JoinColumn(nullable: false)]
    public Account $author;

    #[ORM\Column(type: 'text')]
    public string $content = '';

    #[ORM\Column]
    public \DateTimeImmutable $publishedAt;
}
