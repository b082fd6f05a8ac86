"""A real server that misbehaves, for tests of what is downloaded; and what tests of readers share."""

import hashlib
import http.server
import json
import os
import threading
import time
from contextlib import contextmanager

import pytest

from common.errors import BadInput

FAILURES = {  # how a server fails -> what is said
    "missing": "HTTP Error 404",
    "wrong": "invalid hash value",
    "cut": "invalid hash value",
    "chunks": "IncompleteRead",
    "hangs-up": "closed connection",
    "silent": "timed out",
    "stalls": "timed out",
}


def refused(function, *args):
    """The one line of a BadInput."""
    with pytest.raises(BadInput) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(path, content):
    """The path, after text or bytes have been written there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@contextmanager
def unprivileged(path):
    """What stands there is closed to us, also where the tests are run by root."""
    mode, user = path.stat().st_mode, os.geteuid()
    path.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


class Handler(http.server.BaseHTTPRequestHandler):
    """GET /<how>/<file>: the file, or one of the ways in which that fails."""

    def do_GET(self):
        how, name = self.path.split("/")[1:]
        self.server.asked.append((how, name))
        body = self.server.files.get(name)
        if how == "silent":
            self.server.ending.wait(10)
        elif how == "hangs-up":
            pass
        elif how == "missing" or body is None:
            self.send_error(404)
        else:
            self.send_response(200)
            size = ("Transfer-Encoding", "chunked") if how == "chunks" else ("Content-Length", len(body))
            self.send_header(*map(str, size))
            self.end_headers()
            if how == "slow":
                time.sleep(0.1)
            if how == "chunks":
                self.wfile.write(b"%x\r\n" % len(body))
            body = b"<html>" + body[6:] if how == "wrong" else body
            self.wfile.write(body if how in ("good", "slow", "wrong") else body[: len(body) // 2])
            if how == "stalls":
                self.wfile.flush()
                self.server.ending.wait(10)

    def log_message(self, *args):
        pass


class HubHandler(Handler):
    """The hub's pages that a download asks for: about a data set, its files, and each file."""

    def do_GET(self):
        page = self.path.split("?")[0].removeprefix("/api").removeprefix("/datasets/")
        self.server.asked.append(page)
        kind, revision, *name = page.split("/", 4)[2:]
        body = self.server.files.get(*name) if name else b""
        if self.server.how == "silent":
            return self.server.ending.wait(10)
        if kind == "revision":
            body = json.dumps({"id": "any/name", "sha": revision}).encode()
        elif kind == "tree":
            rows = [{"type": "file", "path": name, "size": len(x), "oid": "0"} for name, x in self.server.files.items()]
            body = json.dumps(rows).encode()
        if self.server.how in (404, 401) or body is None or name == [self.server.how]:
            return self.send_error(401 if self.server.how == 401 else 404)
        self.send_response(200)
        tag = hashlib.sha256(body).hexdigest()
        for header in (("Content-Length", len(body)), ("ETag", f'"{tag}"'), ("X-Repo-Commit", revision)):
            self.send_header(*map(str, header))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        pass  # the client has gone, as it may

    def mirror(self, how):
        return f"http://127.0.0.1:{self.server_port}/{how}/"


@contextmanager
def serving(handler, files):
    """A server of these files (name -> bytes) on this machine, until the end of the block."""
    made = Server(("127.0.0.1", 0), handler)
    made.files, made.asked, made.ending = files, [], threading.Event()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.ending.set()
        made.shutdown()
        made.server_close()
        thread.join()
