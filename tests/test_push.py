"""What goes to the hub, to a stand-in of it on this machine."""

import base64
import http.server
import json
import threading

import pytest

from common.errors import BadInput, Failed
from tests.test_export import lenet
from tools import push
from tools.repository import told


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as takes a folder of small files: what it is sent is kept."""

    def do_POST(self):
        size = self.headers.get("Content-Length")
        body = self.rfile.read(int(size)) if size else self.chunks()
        self.server.asked.append((self.path, body, self.headers.get("Authorization")))
        if self.path.endswith(self.server.refuses):
            return self.answer(403, {"error": "no"})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.answer(200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        if self.path.endswith("/commit/main"):
            return self.answer(
                200, {"commitUrl": f"http://127.0.0.1:{self.server.server_port}/me/net/commit/1", "commitOid": "1", "success": True}
            )
        if self.path == "/api/repos/create":
            return self.answer(200, {"url": f"http://127.0.0.1:{self.server.server_port}/me/net", "name": "me/net"})
        return self.answer(200, {"errors": [], "warnings": []})  # of the card's head

    def do_GET(self):
        self.answer(404, {"error": "there is no such file"})

    def chunks(self):
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, code, content):
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.refuses = [], "nothing"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


def test_a_run_goes_to_the_hub(hub, tmp_path, capsys):
    """First it is only shown; then exactly what was shown goes, to a private repository."""
    from safetensors.torch import load

    folder, net = lenet(tmp_path)
    assert push.main("lenet", str(folder), "me/net") == 0
    shown = capsys.readouterr().out
    assert "nothing was sent" in shown and "me/net, private" in shown and "# lenet/mnist" in shown and not hub.asked
    assert push.main("lenet", str(folder), "me/net", yes=True) == 0
    assert "/me/net/commit/1\n" in capsys.readouterr().out
    asked = {path: body for path, body, _ in hub.asked}
    created = json.loads(asked["/api/repos/create"])
    assert (created["organization"], created["name"]) == ("me", "net") and (
        created.get("private") or created["visibility"] == "private"
    )
    lines = [json.loads(line) for line in asked["/api/models/me/net/commit/main"].splitlines()]
    sent = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
    assert sent.keys() == {"README.md", "model.safetensors"}
    assert all(f"{len(content):,} bytes" in shown for content in sent.values())
    assert all(each.equal(net.state_dict()[name]) for name, each in load(sent["model.safetensors"]).items())
    assert {token for _, _, token in hub.asked} == {"Bearer hf_made_up"}


def test_the_hub_reads_the_cards_head(tmp_path):
    from huggingface_hub import ModelCard

    from tools import export

    card = ModelCard.load(export.write("lenet", str(lenet(tmp_path)[0]), "safetensors")[1])
    assert (card.data.license, card.data.library_name, card.data.tags) == ("other", "pytorch", ["reproduction", "lenet"])


def test_what_cannot_be_sent(hub, tmp_path, monkeypatch, capsys):
    folder, _ = lenet(tmp_path)
    send = lambda repo="me/net": push.main("lenet", str(folder), repo, yes=True)
    hub.refuses = "/create"
    with pytest.raises(BadInput, match=r"refuses it: .*403"):
        send()
    with pytest.raises(BadInput, match="name the repository: REPO=user/name"):
        send("net")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    asked = len(hub.asked)
    assert told(send) == 2 and len(hub.asked) == asked
    assert capsys.readouterr().err == "error: there is no token of the hub: `hf auth login` keeps one, or set HF_TOKEN\n"
    assert push.main("lenet", str(folder), "me/net") == 0  # to look needs none


def test_a_hub_that_is_not_there(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Failed, match="cannot be reached"):
        push.main("lenet", str(lenet(tmp_path)[0]), "me/net", yes=True)
