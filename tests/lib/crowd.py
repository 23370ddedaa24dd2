"""Several people who do the same on several servers: every answer must be the same on each, and nobody may meet what is
another's.

Each person has a mark that appears in no page but their own: in what they type, upload, send as query, header and cookie.
Marks, and the cookies a server has given somebody, are looked for in every status line, field and body that somebody else
gets. `Crowd.walk` lets one person at a time act, in random order, on all servers, and compares; `rush` lets all of them
act at the same time on one server, and only hunts.
"""
import hashlib
import json
import random
import re
import threading
from collections import deque
from dataclasses import dataclass, field

from lib.httpclient import Response, Session

# Of the framing and the server's own, which differ between servers by right.
FIELDS_APART = {"date", "server", "connection", "keep-alive", "transfer-encoding", "content-length", "x-powered-by"}


class Person:
    def __init__(self, number: int, salt: str = ""):
        self.number = number
        self.mark = "mark" + hashlib.sha256(f"{salt}{number}".encode()).hexdigest()[:14]
        self.email = f"{self.mark}@example.org"
        self.name = f"P{number} {self.mark}"


class Browser(Session):
    """A session that remembers every answer, and the cookies that were a secret of its person lately."""

    def __init__(self, address, person: Person):
        super().__init__(address)
        self.person = person
        self.seen: list[tuple[str, str, Response]] = []
        self.secrets: deque[str] = deque(maxlen=8)
        self.owned = 0   # answers with the mark of this person
        self.headers["X-Person"] = person.mark

    def _once(self, method, url, extra, body):
        response = super()._once(method, url, extra, body)
        self.seen.append((method, url.removeprefix(self.origin), response))
        for value in self.cookies.values():
            if len(value) >= 24 and value not in self.secrets:   # a session's, not a preference
                self.secrets.append(value)
        return response


def whole(response: Response) -> str:
    """All that came, as text."""
    head = "\n".join(f"{name}: {value}" for name, value in response.fields)
    return f"{response.status} {response.reason}\n{head}\n\n{response.body.decode('latin-1')}"


@dataclass
class Crowd:
    servers: dict
    people: list[Person]
    masks: list[tuple[str, str]] = field(default_factory=list)   # pattern -> what stands for it, in bodies and fields
    fields_apart: set = field(default_factory=set)

    def __post_init__(self):
        self.browsers = {(name, p.number): Browser(s.address, p) for name, s in self.servers.items() for p in self.people}
        self.compared = self.hunted = 0
        self.masks = [(re.compile(pattern), text) for pattern, text in self.masks]

    def close(self) -> None:
        for browser in self.browsers.values():
            browser.close()

    def masked(self, browser: Browser, text: str) -> str:
        text = re.sub(rf"(?<!\d){browser.address[1]}(?!\d)", "PORT", text)
        for pattern, replacement in self.masks:
            text = pattern.sub(replacement, text)
        return text

    def comparable(self, browser: Browser, step: tuple[str, str, Response]) -> str:
        method, url, response = step
        apart = FIELDS_APART | self.fields_apart
        fields = []
        for name, value in response.fields:
            if name.lower() == "set-cookie":   # values, and times that are reckoned from now
                value = re.sub(r"^([^=]+)=[^;]*", r"\1=VALUE", value)
                value = re.sub(r"(?i)(expires|max-age)=[^;]*", r"\1=WHEN", value)
            if name.lower() not in apart:
                fields.append(f"{name.lower()}: {self.masked(browser, value)}")
        body = self.masked(browser, response.body.decode("latin-1"))
        return "\n".join([f"{method} {self.masked(browser, url)}: {response.status}", *sorted(fields), "", body])

    def hunt(self, browser: Browser, server: str, since: int) -> None:
        """Nobody else's mark or cookie is in what this browser was given."""
        for method, url, response in browser.seen[since:]:
            text = whole(response)
            self.hunted += 1
            browser.owned += browser.person.mark in text
            for other in self.people:
                if other is browser.person:
                    continue
                for secret in [other.mark, *list(self.browsers[server, other.number].secrets)]:
                    assert secret not in text, (f"{server}: {secret} of person {other.number} was given to person "
                                                f"{browser.person.number} by {method} {url}:\n{text[:3000]}")

    def act(self, person: Person, action, dice_seed) -> None:
        """One action on every server; the first server's answers are what the others' are compared with."""
        answers = {}
        for name in self.servers:
            browser = self.browsers[name, person.number]
            since = len(browser.seen)
            action(browser, random.Random(dice_seed), person)
            self.hunt(browser, name, since)
            answers[name] = [self.comparable(browser, step) for step in browser.seen[since:]]
            del browser.seen[:]
        first, *others = answers
        for other in others:
            for one, two in zip(answers[first], answers[other]):
                assert one == two, (f"person {person.number}, {action.__name__}: {other} is not {first}:\n" + difference(one, two))
            assert len(answers[first]) == len(answers[other]), f"{action.__name__}: more requests on one of {first}, {other}"
        self.compared += len(answers[first])

    def walk(self, actions, steps: int, seed: str) -> None:
        """`steps` actions, each by one person, in an order that depends on the seed alone."""
        dice = random.Random(seed)
        for step in range(steps):
            self.act(dice.choice(self.people), dice.choice(actions), f"{seed}-{step}")
        for (name, number), browser in self.browsers.items():
            assert browser.owned > 0, f"person {number} never saw their own mark on {name}: the hunt would find nothing"

    def rush(self, server: str, actions, requests: int, seed: str) -> None:
        """All people at once, on one server."""
        problems: list[BaseException] = []
        before = self.hunted

        def live(person: Person) -> None:
            browser, dice = self.browsers[server, person.number], random.Random(f"{seed}-{person.number}")
            try:
                while self.hunted - before < requests and not problems:
                    dice.choice(actions)(browser, random.Random(dice.random()), person)
                    self.hunt(browser, server, 0)
                    del browser.seen[:]
            except BaseException as e:   # noqa: BLE001  told by the thread that waits
                problems.append(e)
        threads = [threading.Thread(target=live, args=(p,)) for p in self.people]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if problems:
            raise problems[0]


def difference(one: str, two: str) -> str:
    """The first line that differs, with its surroundings."""
    a, b = one.split("\n"), two.split("\n")
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    x, y = (lines[at] if at < len(lines) else "" for lines in (a, b))
    column = next((i for i, (c, d) in enumerate(zip(x, y)) if c != d), min(len(x), len(y)))
    part = slice(max(0, column - 100), column + 200)
    show = lambda lines, line: "\n".join([*(text[:200] for text in lines[max(0, at - 2):at]), "..." + line[part]])
    return f"{a[0]}\n--- line {at}, column {column}\n{show(a, x)}\n--- but\n{show(b, y)}"


def from_images(server) -> tuple[int, int]:
    """Requests that images have answered, and all of PHP."""
    status = json.loads(server.admin("/server?json&full").text)
    (pool,) = status["pools"]
    return pool["accepted"] - sum(g["done"] for g in pool["generations"]), pool["accepted"]
