<?php

namespace App\Controller;

use Symfony\Bundle\FrameworkBundle\Controller\AbstractController;
use Symfony\Component\Form\Extension\Core\Type\FileType;
use Symfony\Component\Form\Extension\Core\Type\SubmitType;
use Symfony\Component\HttpFoundation\BinaryFileResponse;
use Symfony\Component\HttpFoundation\Request;
use Symfony\Component\HttpFoundation\Response;
use Symfony\Component\HttpFoundation\ResponseHeaderBag;
use Symfony\Component\Routing\Attribute\Route;
use Symfony\Component\Validator\Constraints\File;

class FileController extends AbstractController
{
    public function __construct(private string $folder)
    {
    }

    #[Route('/upload', name: 'upload', methods: ['GET', 'POST'])]
    public function upload(Request $request): Response
    {
        $form = $this->createFormBuilder()
            ->add('file', FileType::class, ['constraints' => new File(maxSize: '4M', mimeTypes: ['image/png', 'text/plain'],
                mimeTypesMessage: 'Only pictures and text.')])
            ->add('send', SubmitType::class)->getForm()->handleRequest($request);
        if ($form->isSubmitted() && $form->isValid()) {
            $file = $form->get('file')->getData();
            $name = sha1($file->getContent()) . '.' . $file->guessExtension();
            $file->move($this->folder, $name);

            return $this->redirectToRoute('download', ['name' => $name], Response::HTTP_SEE_OTHER);
        }

        return $this->render('upload.html.twig', ['form' => $form]);
    }

    #[Route('/download/{name<[0-9a-f]{40}\.\w+>}', name: 'download', methods: 'GET')]
    public function download(Request $request, string $name): Response
    {
        if (!is_file("$this->folder/$name")) {
            throw $this->createNotFoundException('No such file.');
        }

        $response = (new BinaryFileResponse("$this->folder/$name", autoEtag: true))
            ->setContentDisposition(ResponseHeaderBag::DISPOSITION_ATTACHMENT, "löad-$name", $name);
        $response->isNotModified($request);

        return $response;
    }
}
