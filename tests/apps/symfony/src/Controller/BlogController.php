<?php

namespace App\Controller;

use App\Entity\Post;
use App\Entity\Tag;
use Doctrine\ORM\EntityManagerInterface;
use Doctrine\ORM\Tools\Pagination\Paginator;
use Symfony\Bundle\FrameworkBundle\Controller\AbstractController;
use Symfony\Component\HttpFoundation\Request;
use Symfony\Component\HttpFoundation\Response;
use Symfony\Component\Routing\Attribute\Route;

/** A blog of the kind of symfony/demo: the same entities and queries, pages that are translated; /list needs no database. */
#[Route('/{_locale<en|de>}/blog')]
class BlogController extends AbstractController
{
    private const PER_PAGE = 10;

    public function __construct(private EntityManagerInterface $entities)
    {
    }

    #[Route('/', name: 'blog', methods: 'GET', defaults: ['page' => 1])]
    #[Route('/page/{page<[1-9]\d{0,8}>}', name: 'blog_page', methods: 'GET')]
    public function index(Request $request, int $page): Response
    {
        $tag = $request->query->has('tag')
            ? $this->entities->getRepository(Tag::class)->findOneBy(['name' => $request->query->getString('tag')]) : null;
        $builder = $this->entities->createQueryBuilder()->select('p', 'a', 't')->from(Post::class, 'p')
            ->innerJoin('p.author', 'a')->leftJoin('p.tags', 't')
            ->where('p.publishedAt <= :now')->orderBy('p.publishedAt', 'DESC')->setParameter('now', new \DateTimeImmutable('2027-01-01'));
        if ($tag) {
            $builder->andWhere(':tag MEMBER OF p.tags')->setParameter('tag', $tag);
        }
        $query = $builder->setFirstResult(($page - 1) * self::PER_PAGE)->setMaxResults(self::PER_PAGE)->getQuery();
        $posts = new Paginator($query, true);

        return $this->render('blog/index.html.twig', ['posts' => $posts, 'page' => $page, 'tag' => $tag?->name,
            'pages' => max(1, (int) ceil(\count($posts) / self::PER_PAGE))]);
    }

    #[Route('/posts/{slug<[a-z0-9-]+>}', name: 'blog_post', methods: 'GET')]
    public function post(string $slug): Response
    {
        $post = $this->entities->getRepository(Post::class)->findOneBy(['slug' => $slug]) ?? throw $this->createNotFoundException();

        return $this->render('blog/post.html.twig', ['post' => $post]);
    }

    #[Route('/list', name: 'blog_list', methods: 'GET', priority: 1)]
    public function list(Request $request): Response
    {
        $rows = [];
        foreach (range(1, min(28, max(1, $request->query->getInt('rows', 10)))) as $i) {
            $rows[] = ['title' => "Post number $i", 'slug' => "post-$i", 'author' => 'Author ' . $i % 4, 'tags' => ['php', 'twig', "tag-$i"],
                'publishedAt' => new \DateTimeImmutable("2026-03-$i 10:00"), 'summary' => str_repeat("Summary of post $i. ", 3)];
        }

        return $this->render('blog/list.html.twig', ['posts' => $rows]);
    }
}
