"""A hub on loopback: the part of the Hugging Face hub's HTTP protocol that downloads use.

GET  /api/models/{repo}[/revision/{rev}]          commit and files
GET  /api/models/{repo}/tree/{rev}?recursive=true  files with sizes
HEAD /{repo}/resolve/{rev}/{file}                  ETag, size and commit
GET  /{repo}/resolve/{rev}/{file}                  bytes, or the range asked for

and of uploads to models, by git LFS:

POST /api/repos/create                             a repository, private or not
POST /api/validate-yaml                            what is wrong with a card
POST /api/models/{repo}/preupload/{rev}            which files go by LFS
POST /{repo}.git/info/lfs/objects/batch            which of these the hub lacks, and where they go
PUT  /lfs/{oid}                                    their bytes
POST /api/models/{repo}/commit/{rev}               all files of a commit

Data sets are the same under /api/datasets/{repo} and /datasets/{repo}; their files are also listed
folder by folder, /tree/{rev}/{folder}.
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
from urllib.parse import unquote, urlsplit


@dataclass
class Repo:
    """One repository: commits by name of branch, tag or commit.

    Attributes:
        revisions: revision -> files (name -> bytes). Equal files are one commit.
        token: that a request must carry; empty for a public repository.
        gated: whether access is refused although the repository is known.
        private: as it was made.
        messages: of the commits that were made.
    """

    revisions: dict[str, dict[str, bytes]]
    token: str = ""
    gated: bool = False
    private: bool = False
    messages: list[str] = field(default_factory=list)

    def commit(self, revision: str) -> str | None:
        for name, files in self.revisions.items():
            digest = hashlib.sha1()
            for file, data in sorted(files.items()):
                digest.update(file.encode() + b"\0" + data)
            if revision in (name, digest.hexdigest()):
                return digest.hexdigest()
        return None

    def files(self, revision: str) -> dict[str, bytes]:
        commit = self.commit(revision)
        return next(f for name, f in self.revisions.items() if self.commit(name) == commit)


@dataclass
class Hub:
    """A running server.

    Attributes:
        url: for HF_ENDPOINT.
        repos: "org/name", or "datasets/org/name" -> repository.
        requests: "METHOD path" of each request, in order.
        failing: answer everything with this status; 0 for none.
        cuts: how many more times to hang up in the middle of a file of weights.
        ranges: the ranges that were asked for.
        objects: what LFS has, by SHA-256.
        writers: tokens that may write; anybody where there are none.
    """

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    failing: int = 0
    cuts: int = 0
    ranges: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    writers: tuple[str, ...] = ()

    def downloads(self) -> list[str]:
        """The files that were fetched, by name."""
        found = (re.fullmatch(r"GET /.*/resolve/[^/]+/(.*)", line) for line in self.requests)
        return sorted(match[1] for match in found if match)


@contextmanager
def running(repos: dict[str, Repo]) -> Iterator[Hub]:
    """Serve on a free port of loopback until the block ends."""
    hub = Hub(repos=repos)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.requests.append(f"PUT {self.path}")
        if self.hub.cuts:
            self.hub.cuts -= 1
            self.close_connection = True
            return
        assert hashlib.sha256(data).hexdigest() == self.path.removeprefix("/lfs/")
        self.hub.objects[self.path.removeprefix("/lfs/")] = data
        self._send(200, b"", {}, body=True)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"POST {path}")
        if self.hub.failing or (self.hub.writers and self._token() not in self.hub.writers):
            return self._send(self.hub.failing or 401, b"", {}, body=True)
        if path == "/api/validate-yaml":
            answer: dict = {"warnings": [], "errors": []}
        elif path == "/api/repos/create":
            answer = self._create(json.loads(data))
        elif path.endswith("/info/lfs/objects/batch"):
            answer = self._batch(json.loads(data))
        elif "/preupload/" in path:
            files = json.loads(data)["files"]
            answer = {"files": [self._mode(file["path"]) for file in files]}
        else:
            match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path)
            assert match is not None
            answer = self._commit(match[1], data)
        return self._send(200, json.dumps(answer).encode(), {}, body=True)

    def _create(self, asked: dict) -> dict:
        repo = f"{asked['organization']}/{asked['name']}"
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.repos.setdefault(repo, Repo({"main": {}}, private=private))
        return {"url": f"{self.hub.url}/{repo}"}

    def _mode(self, name: str) -> dict:
        large = name.endswith((".gguf", ".safetensors"))
        mode = "lfs" if large else "regular"
        return {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _batch(self, asked: dict) -> dict:
        objects = []
        for one in asked["objects"]:
            known = one["oid"] in self.hub.objects
            target = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}
            objects.append(one if known else {**one, "actions": target})
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name: str, data: bytes) -> dict:
        repo, files = self.hub.repos[name], {}
        for line in map(json.loads, data.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repo.messages.append(value["summary"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        repo.revisions["main"] = {**repo.revisions["main"], **files}
        commit = repo.commit("main")
        url = f"{self.hub.url}/{name}/commit/{commit}"
        return {"commitUrl": url, "commitOid": commit, "success": True}

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.failing:
            return self._send(self.hub.failing, b"", {}, body)
        api = re.fullmatch(
            r"/api/(?:models/|(?=datasets/))((?:datasets/)?[^/]+/[^/]+)"
            r"(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?",
            path,
        )
        file = re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        if match is None:
            return self._send(404, b"", {}, body)
        repo = self.hub.repos.get(match[1])
        if repo is None or (repo.token and self._token() != repo.token):
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"}, body)
        if repo.gated:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"}, body)
        revision = (api[3] or "main") if api else match[2]
        commit = repo.commit(revision)
        if commit is None:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
        files = repo.files(revision)
        if api and api[2] == "tree":
            return self._send_tree(files, api[4] or "", body)
        if api:
            listed = json.dumps(_info(match[1].removeprefix("datasets/"), commit, files))
            return self._send(200, listed.encode(), {}, body)
        assert file is not None
        if file[3] not in files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        return self._send_file(files[file[3]], commit, body)

    def _send_tree(self, files: dict[str, bytes], folder: str, body: bool) -> None:
        """A folder's files, those in folders of it too where the query asks for them."""
        start = f"{folder}/" if folder else ""
        inside = {name: data for name, data in files.items() if name.startswith(start)}
        if not inside:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        listed = _tree(inside)
        if "recursive=true" not in urlsplit(self.path).query.lower():
            deeper = {name for name in inside if "/" in name.removeprefix(start)}
            listed = [entry for entry in listed if entry["path"] not in deeper]
            folders = {start + name.removeprefix(start).split("/")[0] for name in deeper}
            listed += [{"type": "directory", "path": f, "oid": "0" * 40} for f in sorted(folders)]
        return self._send(200, json.dumps(listed).encode(), {}, body)

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _send_file(self, data: bytes, commit: str, body: bool) -> None:
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}
        headers["Accept-Ranges"] = "bytes"
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return self._send(200, data, headers, body)
        self.hub.ranges.append(match[0])
        first, last = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self._send(206, data[first : last + 1], headers, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and self.hub.cuts and self.path.endswith((".safetensors", ".gguf")):
            self.hub.cuts -= 1
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(data)


def _info(repo: str, commit: str, files: dict[str, bytes]) -> dict[str, object]:
    return {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}


def _tree(files: dict[str, bytes]) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for name, data in files.items()
    ]
