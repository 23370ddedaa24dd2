<?php

namespace App\Controller;

use App\Entity\Product;
use App\Form\ProductType;
use Doctrine\ORM\EntityManagerInterface;
use Doctrine\ORM\Tools\Pagination\Paginator;
use Symfony\Bundle\FrameworkBundle\Controller\AbstractController;
use Symfony\Component\HttpFoundation\JsonResponse;
use Symfony\Component\HttpFoundation\Request;
use Symfony\Component\HttpFoundation\Response;
use Symfony\Component\Routing\Attribute\Route;

class ProductController extends AbstractController
{
    private const PER_PAGE = 50;

    public function __construct(private EntityManagerInterface $entities)
    {
    }

    #[Route('/', name: 'list', methods: 'GET')]
    public function list(Request $request): Response
    {
        $page = max(1, $request->query->getInt('page', 1));
        $query = $this->entities->createQuery('SELECT p, c FROM App\Entity\Product p JOIN p.category c ORDER BY p.id')
            ->setFirstResult(($page - 1) * self::PER_PAGE)->setMaxResults(self::PER_PAGE);
        $products = new Paginator($query, false);

        return $this->render('list.html.twig', ['products' => $products, 'page' => $page,
            'pages' => (int) ceil(count($products) / self::PER_PAGE)]);
    }

    #[Route('/product/new', name: 'new', methods: ['GET', 'POST'], priority: 1)]
    #[Route('/product/{id<\d+>}/edit', name: 'edit', methods: ['GET', 'POST'])]
    public function edit(Request $request, ?int $id = null): Response
    {
        $product = $id ? $this->find($id) : new Product();
        $form = $this->createForm(ProductType::class, $product)->handleRequest($request);
        if ($form->isSubmitted() && $form->isValid()) {
            $this->entities->persist($product);
            $this->entities->flush();
            $this->addFlash('notice', "Saved “{$product->name}”.");

            return $this->redirectToRoute('show', ['id' => $product->id], Response::HTTP_SEE_OTHER);
        }

        return $this->render('edit.html.twig', ['form' => $form]);
    }

    #[Route('/product/{id<\d+>}', name: 'show', methods: 'GET')]
    public function show(int $id): Response
    {
        return $this->render('show.html.twig', ['product' => $this->find($id)]);
    }

    #[Route('/product/{id<\d+>}', name: 'delete', methods: 'DELETE')]
    public function delete(int $id): Response
    {
        $this->entities->remove($this->find($id));
        $this->entities->flush();

        return new Response(status: Response::HTTP_NO_CONTENT);
    }

    #[Route('/api/products/{id<\d+>}', name: 'api', methods: 'GET')]
    public function api(int $id): JsonResponse
    {
        $product = $this->find($id);

        return $this->json(['id' => $product->id, 'name' => $product->name, 'price' => $product->price, 'category' => $product->category->name]);
    }

    private function find(int $id): Product
    {
        return $this->entities->find(Product::class, $id) ?? throw $this->createNotFoundException("No product $id.");
    }
}
