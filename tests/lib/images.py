"""What a running sapid says of its images of entry scripts."""
import json

from lib.process import wait_until
from lib.roles import pools, title


def images(server, pool=0):
    return json.loads(server.admin("/server?json").text)["pools"][pool]["images"]


def active(server):
    return {i["script"]: i for i in images(server)["active"]}


def ask(server, path="/"):
    return server.get(path).json()


def from_image(answer):
    return answer["boot"] != answer["pid"]


def wait_for_image(server, path="/"):
    """Asks until an image answers; that answer."""
    def answered():
        answer = ask(server, path)
        return answer if from_image(answer) else None
    return wait_until(answered, f"an image of {path}", interval=0.05)


def image_pools(server):
    return [p for p in pools(server) if "-image" in title(p)]


def generation(server, script="/index.php"):
    return active(server).get(script, {}).get("generation", 0)
