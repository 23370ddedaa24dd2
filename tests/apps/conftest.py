"""Applications share one MariaDB; each test file has its own site and server."""
import pytest

from lib.pages import complaints


@pytest.fixture
def quiet(server):
    """The server's logs must not complain during the test."""
    before = len(complaints(server))
    yield
    found = complaints(server)[before:]
    assert not found, "\n".join(found[:20])
