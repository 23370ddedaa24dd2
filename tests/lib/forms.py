"""HTML forms as a browser without scripts sees them."""
from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urljoin

from lib.httpclient import Response, Session


class Form:
    def __init__(self, attributes: dict[str, str]):
        self.id = attributes.get("id", "")
        self.name = attributes.get("name", "")
        self.action = attributes.get("action", "")
        self.method = attributes.get("method", "get").upper()
        self.multipart = attributes.get("enctype", "").lower() == "multipart/form-data"
        self.fields: list[tuple[str, str]] = []   # what would be sent, in order
        self.buttons: list[tuple[str, str]] = []
        self.file_fields: list[str] = []
        self.boxes: dict[str, list[str]] = {}     # names of unchecked boxes and radios -> their values

    def names(self) -> list[str]:
        return [n for n, _ in self.fields]

    def get(self, name: str) -> str | None:
        return next((v for n, v in self.fields if n == name), None)

    def set(self, name: str, value: str) -> "Form":
        """Fills a field that the form has."""
        if name not in self.names() and name not in self.boxes:
            raise AssertionError(f"form {self.id or self.action} has no field {name}: {self.names()}")
        at = self.names().index(name) if name in self.names() else len(self.fields)
        self.fields = [f for f in self.fields if f[0] != name]
        self.fields.insert(at, (name, value))
        return self

    def unset(self, name: str) -> "Form":
        self.fields = [f for f in self.fields if f[0] != name]
        return self

    def submit(self, session: Session, page: Response, button: str | None = None, files=None, **options):
        """Sends it as a click on `button` (its name; None: no button) would."""
        data = list(self.fields)
        if button is not None:
            data.append(next(b for b in self.buttons if b[0] == button))
        url = urljoin(page.url, self.action or page.url)
        if self.method == "GET":
            from urllib.parse import urlencode
            return session.get(url.split("?")[0] + "?" + urlencode(data), **options)
        if self.multipart:
            files = files or [(f, "", b"", "application/octet-stream") for f in self.file_fields]
            return session.post(url, data, files=files, **options)
        return session.post(url, data, **options)


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.forms: list[Form] = []
        self.form: Form | None = None
        self.textarea: str | None = None
        self.text = ""
        self.select: str | None = None
        self.options: list[tuple[str, bool]] = []

    def handle_starttag(self, tag, attrs):
        a = {k: v if v is not None else "" for k, v in attrs}
        if tag == "form":
            self.form = Form(a)
            self.forms.append(self.form)
        elif self.form is None or "disabled" in a:
            return
        elif tag == "input":
            self._input(a)
        elif tag == "button" and a.get("name") and a.get("type", "submit") == "submit":
            self.form.buttons.append((a["name"], a.get("value", "")))
        elif tag == "textarea":
            self.textarea, self.text = a.get("name"), ""
        elif tag == "select":
            self.select, self.options = a.get("name"), []
        elif tag == "option" and self.select is not None:
            self.options.append((a.get("value", ""), "selected" in a))

    def _input(self, a):
        name, kind, value = a.get("name"), a.get("type", "text").lower(), a.get("value", "")
        if not name:
            return
        if kind in ("submit", "image"):
            self.form.buttons.append((name, value))
        elif kind == "file":
            self.form.file_fields.append(name)
        elif kind in ("checkbox", "radio") and "checked" not in a:
            self.form.boxes.setdefault(name, []).append(value or "on")
        elif kind in ("checkbox", "radio"):
            self.form.fields.append((name, value or "on"))
        elif kind not in ("button", "reset"):
            self.form.fields.append((name, value))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_data(self, data):
        if self.textarea is not None:
            self.text += data

    def handle_endtag(self, tag):
        if tag == "form":
            self.form = None
        elif tag == "textarea" and self.form is not None and self.textarea:
            self.form.fields.append((self.textarea, self.text.removeprefix("\n")))
            self.textarea = None
        elif tag == "select" and self.form is not None and self.select:
            chosen = [v for v, selected in self.options if selected] or [v for v, _ in self.options[:1]]
            self.form.fields += [(self.select, v) for v in chosen]
            self.select = None


def forms(page: Response) -> list[Form]:
    reader = _Reader()
    reader.feed(page.text)
    return reader.forms


def form(page: Response, *, id: str | None = None, field: str | None = None) -> Form:
    """The form with this id, or the first that has this field."""
    found = forms(page)
    for f in found:
        if (id is None or f.id == id) and (field is None or field in f.names() or field in f.boxes
                                           or field in f.file_fields):
            return f
    raise AssertionError(f"no form with id={id} field={field} on {page.url} ({page.status}); there are "
                         f"{[(f.id, f.action, f.names()) for f in found]}\n{page.text[:3000]}")
