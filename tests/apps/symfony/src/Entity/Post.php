<?php

namespace App\Entity;

use Doctrine\Common\Collections\ArrayCollection;
use Doctrine\Common\Collections\Collection;
use Doctrine\ORM\Mapping as ORM;

#[ORM\Entity]
class Post
{
    #[ORM\Id, ORM\GeneratedValue, ORM\Column]
    public ?int $id = null;

    #[ORM\Column(length: 100)]
    public string $title = '';

    #[ORM\Column(length: 100, unique: true)]
    public string $slug = '';

    #[ORM\Column(length: 255)]
    public string $summary = '';

    #[ORM\Column(type: 'text')]
    public string $content = '';

    #[ORM\Column]
    public \DateTimeImmutable $publishedAt;

    #[ORM\ManyToOne]
    #[ORM\JoinColumn(nullable: false)]
    public Account $author;

    /** @var Collection<int, Comment> */
    #[ORM\OneToMany(targetEntity: Comment::class, mappedBy: 'post')]
    #[ORM\OrderBy(['publishedAt' => 'DESC'])]
    public Collection $comments;

    /** @var Collection<int, Tag> */
    #[ORM\ManyToMany(targetEntity: Tag::class)]
    #[ORM\OrderBy(['name' => 'ASC'])]
    public Collection $tags;

    public function __construct()
    {
        $this->comments = new ArrayCollection();
        $this->tags = new ArrayCollection();
    }
}
