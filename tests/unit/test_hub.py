"""Rules on the Hugging Face Hub, from a folder laid out as its cache, without a network."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest
from folders import ROOT
from shipped import QUICK

from unsup_rule import pretrained
from unsup_rule.cli.main import main
from unsup_rule.errors import UnsupRuleError

CODE = f"""
from unsup_rule import pretrained
from unsup_rule.errors import UnsupRuleError
rule = pretrained("hf://somebody/laptop")
assert rule.sha256 == pretrained("{QUICK}").sha256
print(rule.name, rule.card)
try:
  pretrained("hf://somebody/else")
except UnsupRuleError as error:
  print(error)
"""


def test_a_rule_in_the_cache_is_loaded(tmp_path):
  pytest.importorskip("huggingface_hub")
  repository = tmp_path / "models--somebody--laptop"
  snapshot = repository / "snapshots" / ("0" * 40)
  snapshot.mkdir(parents=True)
  (repository / "refs").mkdir()
  (repository / "refs" / "main").write_text("0" * 40)
  pretrained(QUICK).write(snapshot / "rule.npz")
  (snapshot / "README.md").write_text("The card.")
  settings = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
  path = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
  done = subprocess.run(
    [sys.executable, "-c", CODE], env=os.environ | settings | path, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  first, second = done.stdout.splitlines()
  assert first == "hf://somebody/laptop The card."
  assert second.startswith("cannot get hf://somebody/else; check ")


def test_what_is_missing_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as Python marks what is not there
  with pytest.raises(UnsupRuleError, match=r"not installed; run pip install huggingface_hub$"):
    pretrained("hf://somebody/laptop")
  with pytest.raises(UnsupRuleError, match=r"hf://laptop names no repository.*hf://owner/name"):
    pretrained("hf://laptop")


class Endpoint(http.server.BaseHTTPRequestHandler):
  """What the hub answers to an upload; `server.files` is what it was given."""

  def do_POST(self):
    body = self.rfile.read(int(self.headers["content-length"]))
    here = f"http://127.0.0.1:{self.server.server_port}"
    if self.path == "/api/repos/create":
      answer = {"url": f"{here}/somebody/laptop"}
    elif self.path.endswith("/preupload/main"):
      files = json.loads(body)["files"]
      answer = {
        "files": [
          {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files
        ]
      }
    elif self.path == "/api/models/somebody/laptop/commit/main":
      for value in (json.loads(line) for line in body.splitlines()):
        if value["key"] == "file":
          content = base64.b64decode(value["value"]["content"])
          self.server.files[value["value"]["path"]] = content
      url = f"{here}/somebody/laptop/commit/{'1' * 40}"
      answer = {"success": True, "commitUrl": url, "commitOid": "1" * 40}
    else:
      answer = {}
    self._answer(200, json.dumps(answer).encode())

  def do_GET(self):
    self._answer(404, b"{}")

  def _answer(self, status, content):
    self.send_response(status)
    self.send_header("content-type", "application/json")
    self.send_header("content-length", str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *_):
    pass


def test_a_rule_is_pushed_with_its_card(tmp_path, monkeypatch, capsys):
  constants = pytest.importorskip("huggingface_hub.constants")
  command = ["export", f"--rule={QUICK}", "--push=hf://somebody/laptop", "--about=Mine."]
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
    server.files = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    code = main(command)
    server.shutdown()
  shown = capsys.readouterr()
  assert code == 0, shown.err
  assert shown.out.endswith("-> https://huggingface.co/somebody/laptop\n")
  assert set(server.files) == {"README.md", "rule.npz"}
  assert server.files["README.md"].startswith(b"# laptop\n\nMine.\n")
  (tmp_path / "mine.npz").write_bytes(server.files["rule.npz"])
  assert pretrained(tmp_path / "mine.npz").sha256 == pretrained(QUICK).sha256
  # Nobody answers there any more.
  assert main(command) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "error: cannot push to hf://somebody/laptop; check its name, `hf auth login`" in line


def test_where_to_export_must_be_said(capsys):
  assert main(["export", "--rule", QUICK]) == 2
  assert "nowhere to export to; give --out, or --push hf://" in capsys.readouterr().err
  assert main(["export", "--rule", QUICK, "--push", "somebody/laptop"]) == 2
  assert "somebody/laptop names no repository of the hub" in capsys.readouterr().err
