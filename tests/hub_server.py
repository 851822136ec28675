"""A small Hub on 127.0.0.1 for the tests: makes repositories, takes commits as huggingface_hub sends them, serves them.

It speaks the documented calls: create-repo, model info, validate-yaml, preupload, Git LFS batch and upload, commit with
parentCommit and pull requests, resolve with ranges. `HubServer.fail` makes any of them fail: a status, or a cut line.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import pytest
import yaml
from huggingface_hub import constants, file_download, utils

TOKEN = "hf_" + "x" * 34
CUT = -1  # instead of a status: the connection breaks
CUT_AFTER = -2  # the call is carried out, and its answer lost


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """Commits by id, each a whole tree, and the references to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    lfs_paths: set[str] = field(default_factory=set)
    private: bool = False

    def commit(
        self, files: dict[str, bytes], ref: str = "main", parent: str | None = None, gone: list[str] | None = None
    ) -> str:
        parent = parent or self.refs.get("main", "")
        kept = {path: body for path, body in self.commits.get(parent, {}).items() if path not in (gone or [])}
        tree = {**kept, **files}
        content = parent.encode() + b"".join(path.encode() + body for path, body in sorted(tree.items()))
        oid = hashlib.sha1(content).hexdigest()
        self.commits[oid] = tree
        self.refs[ref] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


class HubServer:
    """What the Hub holds, what happened to it, and what shall go wrong."""

    def __init__(self) -> None:
        self.repos: dict[str, Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.fail: dict[str, int] = {}
        self.calls: list[str] = []
        self.before_commit: Any = None
        self.cut_downloads_at: int | None = None  # bytes of a first answer, before the connection breaks
        self.headers: list[dict[str, str]] = []
        self.url = ""

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        """A repository that is already there; returns its commit."""
        self.repos[repo] = Repository(lfs_paths={path for path in files if path.endswith(".safetensors")})
        return self.repos[repo].commit({".gitattributes": b"", **files})

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        stored = self.repos[repo]
        return stored.commits[stored.refs.get(revision, revision)]


class Handler(BaseHTTPRequestHandler):
    """One request; `hub` is set on the subclass that a server runs."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    ROUTES = (
        ("create", "POST", r"/api/repos/create"),
        ("delete", "DELETE", r"/api/repos/delete"),
        ("validate", "POST", r"/api/validate-yaml"),
        ("preupload", "POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)"),
        ("commit", "POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)"),
        ("info", "GET", r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?"),
        ("batch", "POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch"),
        ("upload", "PUT", r"/lfs/(\w+)"),
        ("verify", "POST", r"/lfs/(\w+)/verify"),
        ("download", "GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)"),
        ("download", "HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)"),
    )
    NEEDS_TOKEN = ("create", "delete", "preupload", "commit", "batch")

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""

    def handle_any(self) -> None:
        url = urlparse(self.path)
        self.query = parse_qs(url.query)
        self.body = self.read_body()
        for name, method, pattern in self.ROUTES:
            match = re.fullmatch(pattern, url.path)
            if match and method == self.command:
                self.hub.calls.append(name)
                self.hub.headers.append(dict(self.headers))
                return self.run(name, [unquote(group) if group else None for group in match.groups()])
        self.answer(404, {"error": "no such call"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def run(self, name: str, arguments: list[str | None]) -> None:
        failure = self.hub.fail.get(name)
        if failure == CUT:
            self.close_connection = True
            return
        if failure and failure > 0:
            return self.answer(failure, {"error": f"told to fail with {failure}"})
        if name in self.NEEDS_TOKEN and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if failure == CUT_AFTER:
            self.answer = lambda *_, **__: setattr(self, "close_connection", True)  # type: ignore[method-assign]
        getattr(self, f"on_{name}")(*arguments)

    def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self, code: str) -> None:
        self.answer(404, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    def on_create(self) -> None:
        wanted = self.json()
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.hub.repos:
            return self.answer(409, {"error": "You already created this model repo"})
        self.hub.add(name, {})
        self.hub.repos[name].private = wanted.get("visibility") == "private"
        self.answer(200, {"url": f"{self.hub.url}/{name}"})

    def on_delete(self) -> None:
        wanted = self.json()
        del self.hub.repos[f"{wanted['organization']}/{wanted['name']}"]
        self.answer(200, {})

    def on_validate(self) -> None:
        block = self.json()["content"].split("---")[1]
        try:
            assert isinstance(yaml.safe_load(block), dict)
        except (yaml.YAMLError, AssertionError) as error:
            return self.answer(400, {"errors": [{"message": str(error)}], "warnings": []})
        self.answer(200, {"errors": [], "warnings": []})

    def on_info(self, name: str, revision: str | None) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            return self.missing("RepoNotFound")
        oid = repo.resolve(revision or "main")
        if oid is None:
            return self.missing("RevisionNotFound")
        siblings = [{"rfilename": path} for path in sorted(repo.commits[oid])]
        self.answer(200, {"id": name, "modelId": name, "sha": oid, "siblings": siblings, "private": repo.private})

    def on_preupload(self, name: str, revision: str) -> None:
        repo = self.hub.repos[name]
        tree = repo.commits[repo.resolve(revision) or ""]
        files = []
        for file in self.json()["files"]:
            path, lfs = file["path"], file["path"].endswith(".safetensors")
            oid = None
            if path in tree:
                oid = hashlib.sha256(tree[path]).hexdigest() if lfs else git_oid(tree[path])
            mode = "lfs" if lfs else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": files})

    def on_batch(self, name: str) -> None:
        objects = []
        for wanted in self.json()["objects"]:
            target = f"{self.hub.url}/lfs/{wanted['oid']}"
            actions = {"upload": {"href": target}, "verify": {"href": f"{target}/verify"}}
            objects.append({**wanted, **({} if wanted["oid"] in self.hub.lfs else {"actions": actions})})
        self.answer(200, {"transfer": "basic", "objects": objects})

    def on_upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer(400, {"error": "hash differs"})
        self.hub.lfs[oid] = self.body
        self.answer(200, {})

    def on_verify(self, oid: str) -> None:
        self.answer(200 if oid in self.hub.lfs else 404, {})

    def on_commit(self, name: str, revision: str) -> None:
        repo = self.hub.repos[name]
        if self.hub.before_commit:
            self.hub.before_commit(repo)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        pull_request = "create_pr" in self.query
        if not pull_request and header.get("parentCommit", repo.resolve(revision)) != repo.resolve(revision):
            return self.answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        files, removed = {}, []
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                removed.append(value["path"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile"
                files[value["path"]] = self.hub.lfs[value["oid"]]
                repo.lfs_paths.add(value["path"])
        ref = "refs/pr/1" if pull_request else revision
        oid = repo.commit(files, ref, header.get("parentCommit"), removed)
        reply = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"}
        self.answer(200, {**reply, "pullRequestUrl": f"{self.hub.url}/{name}/discussions/1"} if pull_request else reply)

    def on_download(self, name: str, revision: str, path: str) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            return self.missing("RepoNotFound")
        oid = repo.resolve(revision)
        if oid is None:
            return self.missing("RevisionNotFound")
        content = repo.commits[oid].get(path)
        if content is None:
            return self.missing("EntryNotFound")
        digest = hashlib.sha256(content).hexdigest() if path in repo.lfs_paths else git_oid(content)
        headers = {"X-Repo-Commit": oid, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted:
            start = int(wanted.group(1))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.answer(206, content[start:], headers)
        if self.hub.cut_downloads_at and self.command == "GET":
            headers["Content-Length"] = str(len(content))
            self.close_connection = True
            return self.answer(200, content[: self.hub.cut_downloads_at], headers)
        self.answer(200, content, headers)


@contextmanager
def running(hub: HubServer) -> Iterator[HubServer]:
    """Serve a Hub on a free port of 127.0.0.1."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def point_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let huggingface_hub talk to this server and to no other, with retries that do not wait."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):  # which has a name of its own for it before 1.0
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    getattr(utils, "reset_sessions", lambda: None)()  # before 1.0 a session stays offline
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
