"""Fetching a file: whole and checked, or not there at all."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from diffusion_link_hf.metrics import MetricDependencyError
from diffusion_link_hf.metrics.downloads import download, metrics_folder

BODY = b"jar" * 1000


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[:100] if self.path == "/short" else BODY)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_whole_file_with_the_right_checksum(server, tmp_path):
    download("m", f"{server}/whole", tmp_path / "new" / "file", hashlib.sha256(BODY).hexdigest())
    assert (tmp_path / "new" / "file").read_bytes() == BODY
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("path", "sha256", "message"),
    [
        ("/short", None, "only 100 of 3,000 bytes"),
        ("/missing", None, "404"),
        ("/whole", "0" * 64, "SHA-256"),
    ],
)
def test_anything_else_leaves_no_file(server, tmp_path, path, sha256, message):
    with pytest.raises(MetricDependencyError, match=message):
        download("m", server + path, tmp_path / "file", sha256)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(MetricDependencyError, match="cannot be fetched"):
        download("m", "http://127.0.0.1:9/file", tmp_path / "file")


def test_where_files_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_LINK_METRICS", str(tmp_path / "a"))
    assert metrics_folder() == tmp_path / "a"
    monkeypatch.delenv("DIFFUSION_LINK_METRICS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert metrics_folder() == tmp_path / "diffusion-link" / "metrics"
