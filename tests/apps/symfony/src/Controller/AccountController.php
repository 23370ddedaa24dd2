<?php

namespace App\Controller;

use App\Entity\Account;
use Doctrine\ORM\EntityManagerInterface;
use Symfony\Bundle\FrameworkBundle\Controller\AbstractController;
use Symfony\Component\HttpFoundation\Request;
use Symfony\Component\HttpFoundation\Response;
use Symfony\Component\HttpFoundation\Session\SessionInterface;
use Symfony\Component\HttpKernel\Exception\AccessDeniedHttpException;
use Symfony\Component\Routing\Attribute\Route;

/** Log-in, and notes that only their author sees, kept in the session. Forms carry a token of the session. */
class AccountController extends AbstractController
{
    public function __construct(private EntityManagerInterface $entities)
    {
    }

    #[Route('/login', name: 'login', methods: ['GET', 'POST'])]
    public function login(Request $request): Response
    {
        $session = $request->getSession();
        if ($request->isMethod('POST')) {
            $this->checkToken($request);
            $account = $this->entities->getRepository(Account::class)->findOneBy(['email' => $request->request->getString('email')]);
            if ($account && password_verify($request->request->getString('password'), $account->password)) {
                $session->migrate(true);
                $session->set('account', $account->id);
                $this->addFlash('notice', "Welcome, {$account->name}.");

                return $this->redirectToRoute('me', status: Response::HTTP_SEE_OTHER);
            }
        }

        return $this->render('login.html.twig', ['email' => $request->request->getString('email'), 'token' => $this->token($session),
            'failed' => $request->isMethod('POST')]);
    }

    #[Route('/logout', name: 'logout', methods: 'POST')]
    public function logout(Request $request): Response
    {
        $this->checkToken($request);
        $request->getSession()->invalidate();
        $this->addFlash('notice', 'Good bye.');

        return $this->redirectToRoute('login', status: Response::HTTP_SEE_OTHER);
    }

    #[Route('/me', name: 'me', methods: ['GET', 'POST'])]
    public function me(Request $request): Response
    {
        $session = $request->getSession();
        $account = $session->get('account') ? $this->entities->find(Account::class, $session->get('account')) : null;
        if (!$account) {
            return $this->redirectToRoute('login');
        }
        if ($request->isMethod('POST')) {
            $this->checkToken($request);
            $session->set('notes', \array_slice([...$session->get('notes', []), $request->request->getString('note')], -5));

            return $this->redirectToRoute('me', status: Response::HTTP_SEE_OTHER);
        }

        return $this->render('me.html.twig', ['account' => $account, 'notes' => $session->get('notes', []), 'token' => $this->token($session)]);
    }

    private function token(SessionInterface $session): string
    {
        if (!$session->has('token')) {
            $session->set('token', bin2hex(random_bytes(16)));
        }

        return $session->get('token');
    }

    private function checkToken(Request $request): void
    {
        if (!hash_equals($this->token($request->getSession()), $request->request->getString('_token'))) {
            throw new AccessDeniedHttpException('The token of the form is not that of the session.');
        }
    }
}
