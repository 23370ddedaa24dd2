"""What every page of an application must pass, and the files it names."""
import html
import re
from urllib.parse import urljoin, urlsplit

TYPES = {".css": r"text/css", ".js": r"(text|application)/javascript", ".png": r"image/png", ".svg": r"image/svg\+xml",
         ".jpg": r"image/jpeg", ".gif": r"image/gif", ".ico": r"image/.*", ".woff2": r"font/woff2"}
COMPLAINTS = re.compile(r"PHP (?:Fatal error|Parse error)|Segmentation|core dumped|"
                        r"\bAssertion\b|CHECK failed|AddressSanitizer|runtime error:")


def check_page(page, status: int = 200, text: str | None = None):
    assert page.status == status, page
    assert "Fatal error" not in page.text and "<b>Warning</b>:" not in page.text, page.text[:2000]
    if text is not None:
        assert text in page.text, f"{text!r} not on {page.url}\n{page.text[:3000]}"
    return page


def asset_urls(page) -> list[str]:
    """Style sheets, scripts and images of this server that a page names."""
    found = re.findall(r"""<(?:link|script|img)\b[^>]*?\b(?:href|src)=["']([^"']+)["']""", page.text)
    urls = [urljoin(page.url, html.unescape(u)) for u in found]
    here = urlsplit(page.url).netloc
    suffixes = tuple(TYPES)
    return sorted({u for u in urls if urlsplit(u).netloc == here and urlsplit(u).path.lower().endswith(suffixes)})


def check_assets(session, page, least: int = 1) -> None:
    """All of them are there, of the right type, with validators, and 304 when asked again."""
    urls = asset_urls(page)
    assert len(urls) >= least, f"{page.url} names only {urls}"
    for url in urls:
        r = session.get(url)
        suffix = "." + urlsplit(url).path.rsplit(".", 1)[1].lower()
        assert r.status == 200 and r.body, f"{url}: {r}"
        assert re.fullmatch(TYPES[suffix], r.header("content-type").split(";")[0]), f"{url}: {r.header('content-type')}"
        assert r.header("etag") and r.header("last-modified"), url
        assert session.get(url, headers={"If-None-Match": r.header("etag")}).status == 304, url


def complaints(server) -> list[str]:
    """Lines of the server's logs that no healthy run of an application leaves there. (Warnings of PHP are the
    applications' own: Debian's WordPress has some.)"""
    return server.errors() + [line for line in server.log_text().splitlines() if COMPLAINTS.search(line)]
