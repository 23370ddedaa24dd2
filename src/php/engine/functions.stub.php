<?php
/* What the engine module adds to PHP. functions.c has the argument information by hand. */

/** Sends the response to the client now; the script goes on without it. False if that was done before. */
function fastcgi_finish_request(): bool {}

/** The request's headers as the client sent them, names in the form Accept-Language. */
function apache_request_headers(): array {}

/** @alias apache_request_headers */
function getallheaders(): array {}

/** The response's headers set so far. */
function apache_response_headers(): array {}
