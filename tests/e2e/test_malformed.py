"""Several hundred malformed requests: each is refused with the expected status, the connection is closed,
and nothing that was sent behind it is ever answered."""
import pytest

from lib.httpclient import Connection
from lib.malformed import CASES

SMUGGLED = b"GET /hello.php?smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

pytestmark = pytest.mark.sapid_only   # nginx tolerates a good part of the table


def ask(address, data: bytes):
    with Connection(address) as c:
        try:
            c.send(data + SMUGGLED)
            c.finish_sending()
        except OSError:
            pass   # refused while we were still sending
        response = c.read_response()
        return response, c.read_rest()


@pytest.mark.parametrize("name,data,statuses,closes", CASES, ids=[case[0] for case in CASES])
def test_malformed(server, name, data, statuses, closes):
    response, rest = ask(server.address, data)
    assert response.status in statuses, f"{data[:200]!r} -> {response}"
    assert b"Hello World!" not in response.body
    if closes and response.status != 200:
        assert rest == b"", f"answered after a refusal: {rest[:300]!r}"
        assert response.header("connection") == "close"


def test_server_is_well_after_all_of_them(server):
    assert server.get("/hello.php").text == "Hello World!"
