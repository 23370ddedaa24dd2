<?php

namespace App\Controller;

use App\Kernel;
use Symfony\Bundle\FrameworkBundle\Controller\AbstractController;
use Symfony\Component\HttpFoundation\Cookie;
use Symfony\Component\HttpFoundation\JsonResponse;
use Symfony\Component\HttpFoundation\Request;
use Symfony\Component\HttpFoundation\Response;
use Symfony\Component\HttpFoundation\StreamedResponse;
use Symfony\Component\HttpKernel\Exception\HttpException;
use Symfony\Component\Routing\Attribute\Route;

class WebController extends AbstractController
{
    #[Route('/counter', methods: 'GET')]
    public function counter(Request $request): Response
    {
        $session = $request->getSession();
        $session->set('n', $session->get('n', 0) + 1);

        return new Response((string) $session->get('n'), headers: ['Content-Type' => 'text/plain']);
    }

    /** Which run of the kernel this is, and how many requests it has seen: 1 in classic mode. */
    #[Route('/life', methods: 'GET')]
    public function life(): Response
    {
        static $kernel;
        $kernel ??= bin2hex(random_bytes(4));

        return new JsonResponse(['pid' => getmypid(), 'kernel' => $kernel, 'requests' => Kernel::$requests, 'mode' => $_SERVER['APP_RUNTIME_MODE'] ?? '',
            'memory' => memory_get_usage()]);
    }

    /** What an application that is fit for one request at a time may do: under worker mode everybody's, else one's own. */
    #[Route('/careless', methods: 'GET')]
    public function careless(Request $request): Response
    {
        static $visitors = [];
        $visitors[] = $request->headers->get('X-Person');

        return new JsonResponse($visitors);
    }

    #[Route('/boom', methods: 'GET')]
    public function boom(): Response
    {
        throw new \LogicException('the boom of the test');
    }

    #[Route('/teapot', methods: 'GET')]
    public function teapot(): Response
    {
        throw new HttpException(418, 'short and stout');
    }

    #[Route('/stream', methods: 'GET')]
    public function rows(): Response
    {
        return new StreamedResponse(function () {
            foreach (range(1, 1000) as $i) {
                echo "row $i,", str_repeat('x', 100), "\n";
                if ($i % 100 === 0) {
                    flush();
                }
            }
        }, headers: ['Content-Type' => 'text/csv']);
    }

    #[Route('/cookie', methods: 'GET')]
    public function cookie(Request $request): Response
    {
        $response = new Response($request->cookies->get('taste', 'none'));
        $response->headers->setCookie(Cookie::create('taste', 'sweet & sour', strtotime('+1 hour'))->withSameSite('strict'));

        return $response;
    }

    #[Route('/cached', methods: 'GET')]
    public function cached(Request $request): Response
    {
        $response = (new Response())->setEtag('v1')->setLastModified(new \DateTime('2026-01-01'))->setPublic()->setMaxAge(60);
        if (!$response->isNotModified($request)) {
            $response->setContent('the content');
        }

        return $response;
    }

    #[Route('/echo/{rest<.*>}', methods: ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'])]
    public function mirror(Request $request, string $rest): JsonResponse
    {
        return new JsonResponse(['method' => $request->getMethod(), 'path' => $request->getPathInfo(), 'base' => $request->getBaseUrl(),
            'rest' => $rest, 'uri' => $request->getUri(), 'host' => $request->getHost(), 'port' => (int) $request->getPort(), 'secure' => $request->isSecure(),
            'client' => $request->getClientIp(), 'query' => $request->query->all(), 'form' => $request->request->all(),
            'content' => $request->getContent(), 'user' => $request->getUser(), 'type' => $request->headers->get('Content-Type')]);
    }
}
