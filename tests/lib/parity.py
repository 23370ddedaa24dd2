"""Two servers asked the same: their answers made comparable, and compared. tests/parity/DIFFERENCES.md says what may differ."""
import difflib
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "parity" / "DIFFERENCES.md"


def read_differences():
    """The indented lines of DIFFERENCES.md: fields that are not compared, (text, becomes) pairs, statuses with Location."""
    fields, texts, statuses = set(), [], {}
    for line in PAGE.read_text().splitlines():
        kind, _, rest = line.removeprefix("    ").partition(":")
        if not line.startswith("    "):
            continue
        if kind == "field":
            fields.add(rest.strip())
        elif kind == "text":
            texts.append([rest[1:], None])
        elif kind == "becomes":
            texts[-1][1] = rest[1:]
        elif kind == "location":
            here, there = re.fullmatch(r" (\d+) becomes (\d+)", rest).groups()
            statuses[int(here)] = int(there)
        else:
            raise AssertionError(f"DIFFERENCES.md: {line!r}")
    return fields, texts, statuses


OWN_FIELDS, TEXTS, STATUSES_WITH_LOCATION = read_differences()


def normal(server, text: str) -> str:
    """Without what DIFFERENCES.md lists."""
    for pattern, becomes in TEXTS:
        text = re.sub(pattern.replace("{port}", str(server.port)), becomes, text)
    return text


def fields(server, response):
    return sorted((n.lower(), normal(server, v)) for n, v in response.fields if n.lower() not in OWN_FIELDS)


def seen_by(server, response):
    status = response.status
    if response.headers("location"):
        status = STATUSES_WITH_LOCATION.get(status, status)
    return status, fields(server, response), normal(server, response.body.decode("latin-1"))


def both(pair, method, target, headers=None, body=None):
    seen = []
    for server in pair:
        with server.connect() as c:
            seen.append(seen_by(server, c.request(method, target, headers, body)))
    return seen


def same(pair, method, target, headers=None, body=None):
    alike(*both(pair, method, target, headers, body))


def alike(ours, theirs):
    ours, theirs = as_lines(ours), as_lines(theirs)
    assert ours == theirs, "\n".join(difflib.unified_diff(theirs, ours, "nginx", "sapid", lineterm="", n=1))[:3000]


def as_lines(answer):
    status, fields, text = answer
    return [str(status), *(f"{n}: {v}" for n, v in fields), "", *text.split("\n")]
