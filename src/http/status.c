/* Status codes: reason phrases (IANA registry) and what each parser error is answered with. */
#include "http/http_int.h"

const char *http_status_reason(int status)
{
    switch (status) {
    case 100: return "Continue";
    case 101: return "Switching Protocols";
    case 102: return "Processing";
    case 103: return "Early Hints";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 203: return "Non-Authoritative Information";
    case 204: return "No Content";
    case 205: return "Reset Content";
    case 206: return "Partial Content";
    case 207: return "Multi-Status";
    case 208: return "Already Reported";
    case 226: return "IM Used";
    case 300: return "Multiple Choices";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 305: return "Use Proxy";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 402: return "Payment Required";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 407: return "Proxy Authentication Required";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 411: return "Length Required";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 416: return "Range Not Satisfiable";
    case 417: return "Expectation Failed";
    case 418: return "I'm a teapot";
    case 421: return "Misdirected Request";
    case 422: return "Unprocessable Content";
    case 423: return "Locked";
    case 424: return "Failed Dependency";
    case 425: return "Too Early";
    case 426: return "Upgrade Required";
    case 428: return "Precondition Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 451: return "Unavailable For Legal Reasons";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    case 506: return "Variant Also Negotiates";
    case 507: return "Insufficient Storage";
    case 508: return "Loop Detected";
    case 511: return "Network Authentication Required";
    default: return "";
    }
}

static const struct {
    int status;
    const char *text;
} errors[] = {
    [HTTP_BAD_REQUEST_LINE] = { 400, "expected a request line: METHOD target HTTP/1.1" },
    [HTTP_BAD_METHOD] = { 400, "expected a method of token characters, followed by one space" },
    [HTTP_BAD_TARGET] = { 400, "expected a target of visible ASCII without fragment: /path, "
                               "http://host/path, * (OPTIONS) or host:port (CONNECT)" },
    [HTTP_BAD_VERSION] = { 400, "expected HTTP/1.1 or HTTP/1.0 and the end of the line" },
    [HTTP_BAD_LINE_END] = { 400, "expected lines to end in CR LF, found a bare CR or LF" },
    [HTTP_BAD_HEADER_NAME] = { 400, "expected a header name of token characters, then a colon" },
    [HTTP_BAD_HEADER_VALUE] = { 400, "expected a header value without NUL or other control bytes" },
    [HTTP_OBS_FOLD] = { 400, "expected a header, found a line that starts with a space" },
    [HTTP_BAD_HOST] = { 400, "expected one Host header: name or address, maybe a port" },
    [HTTP_BAD_CONTENT_LENGTH] = { 400, "expected one Content-Length of decimal digits" },
    [HTTP_BAD_TRANSFER_ENCODING] = { 400, "expected one Transfer-Encoding, ending in chunked" },
    [HTTP_BOTH_LENGTHS] = { 400, "expected Content-Length or Transfer-Encoding, found both" },
    [HTTP_BAD_CHUNK] = { 400, "expected a chunk: hexadecimal size, CR LF, data, CR LF" },
    [HTTP_BAD_TRAILER] = { 400, "expected trailers as headers: name, colon, value, CR LF" },
    [HTTP_LINE_TOO_LONG] = { 414, "expected a shorter request line" },
    [HTTP_HEADERS_TOO_LARGE] = { 431, "expected fewer bytes of headers" },
    [HTTP_TOO_MANY_HEADERS] = { 431, "expected fewer headers" },
    [HTTP_BODY_TOO_LARGE] = { 413, "expected a smaller body" },
    [HTTP_CODING_UNSUPPORTED] = { 501, "expected chunked as the only transfer coding" },
    [HTTP_VERSION_UNSUPPORTED] = { 505, "expected HTTP/1.1 or HTTP/1.0" },
    [HTTP_EXPECTATION_FAILED] = { 417, "expected no Expect other than 100-continue" },
    [HTTP_BAD_PROXY_PROTOCOL] = { 400, "expected a PROXY protocol header, version 1 or 2" },
    [HTTP_BAD_STATUS_LINE] = { 502, "expected a status line: HTTP/1.1, three digits, a reason" },
};

int http_error_status(enum http_error e)
{
    CHECKF(e > 0 && e < ARRAY_LENGTH(errors), "error %d", (int)e);
    return errors[e].status;
}

const char *http_error_text(enum http_error e)
{
    CHECKF(e > 0 && e < ARRAY_LENGTH(errors), "error %d", (int)e);
    return errors[e].text;
}
