"""
A Hub on the loopback: as much of its HTTP protocol as pushing and loading models and data sets takes, in memory and
in a thread.

Clients read `HF_ENDPOINT` when they are imported, so they have to run in a process that was started with it set to
`HubServer.endpoint`, with `HF_HUB_DISABLE_XET=1` (large files then travel by git-lfs) and `HF_TOKEN` set to `TOKEN`.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


USER = "user"
TOKEN = "hf_local"
# The real Hub looks at the content as well; here the suffix is enough.
LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".pt", ".pth", ".pkl", ".png")
ROUTES: list[tuple[str, re.Pattern, Callable]] = []


@dataclass(frozen=True)
class Blob:
    """Content of a file, with the names that git and git-lfs have for it."""

    content: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        """The text that git stores in place of a large file."""
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()

    @property
    def git_oid(self) -> str:
        stored = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_oid

    def describe(self, path: str) -> dict[str, Any]:
        """Return the entry of a tree listing."""
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(self.content), "oid": self.git_oid}
        if self.is_lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return entry


@dataclass
class Repository:
    """A history of snapshots: a commit is a full dictionary from paths to blobs."""

    repo_id: str
    is_private: bool
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)  # branch or pull request -> commit

    def __post_init__(self):
        self.commit({}, "initial commit", "main")

    def commit(self, files: dict[str, Blob], title: str, *heads: str) -> str:
        """Store a snapshot, point the heads at it and return its hash."""
        oid = hashlib.sha1(f"{self.repo_id} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = files
        self.titles[oid] = title
        self.heads.update(dict.fromkeys(heads, oid))
        return oid

    def resolve(self, revision: str) -> str | None:
        """Return the commit of a branch, a pull request or a commit hash."""
        return self.heads.get(revision, revision if revision in self.commits else None)


class HubError(Exception):
    """An answer other than success, with the code by which the client library chooses its exception."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **headers} | ({"X-Error-Code": code} if code else {})


class HubServer(ThreadingHTTPServer):
    """
    The server; use it as a context manager.

    Attributes:
        repositories: Every repository by its id, private ones included.
        broken_path: Requests whose path matches it are answered with the status 500.
        num_broken: How many more such requests are; `None` is all.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubRequestHandler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.broken_path: re.Pattern | None = None
        self.num_broken: int | None = None
        self.lock = threading.Lock()

    def __enter__(self) -> "HubServer":
        # A client waits for at most one polling interval when the server shuts down.
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Return the content of every file of a repository."""
        repository = self.repositories[repo_id]
        return {path: blob.content for path, blob in repository.commits[repository.resolve(revision)].items()}


def route(methods: str, pattern: str) -> Callable[[Callable], Callable]:
    """Register a handler method for paths such as `/api/{kind}/{repo}/tree/{revision}`, of models and data sets."""
    pieces = {
        "{repo}": r"(?P<repo_id>[\w.-]+/[\w.-]+?)",
        "{revision}": r"(?P<revision>[^/]+)",
        "{path}": r"(?P<path>.+)",
        "{kind}": "(?:models|datasets)",
        "{folder}": "(?:/datasets)?",
    }
    for name, piece in pieces.items():
        pattern = pattern.replace(name, piece)

    def register(handler: Callable) -> Callable:
        ROUTES.extend((method, re.compile(pattern), handler) for method in methods.split())
        return handler

    return register


class HubRequestHandler(BaseHTTPRequestHandler):
    """Routes a request to the method that serves it; each returns what becomes the JSON of the answer."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def handle_request(self):
        url = urlsplit(self.path)
        # Always read it: what stays in the connection would be taken for the next request.
        self.body = self.read_body()
        self.query = parse_qs(url.query)
        try:
            if self.is_broken(url.path):
                raise HubError(500, "This request was told to fail.")
            for method, pattern, handler in ROUTES:
                match = pattern.fullmatch(url.path)
                if method == self.command and match:
                    with self.server.lock:
                        answer = handler(self, **{name: unquote(value) for name, value in match.groupdict().items()})
                    break
            else:
                raise HubError(404, f"This server does not know {self.command} {url.path}.")
        except HubError as error:
            self.answer(json.dumps({"error": str(error)}).encode(), error.status, **error.headers)
        else:
            if answer is not None:
                self.answer(json.dumps(answer).encode(), **{"Content-Type": "application/json"})

    def is_broken(self, path: str) -> bool:
        """Whether this request was told to fail."""
        if self.server.broken_path is None or not self.server.broken_path.search(path) or self.server.num_broken == 0:
            return False
        if self.server.num_broken is not None:
            self.server.num_broken -= 1
        return True

    def do_GET(self):
        self.handle_request()

    def do_HEAD(self):
        self.handle_request()

    def do_POST(self):
        self.handle_request()

    def do_PUT(self):
        self.handle_request()

    def log_message(self, *arguments):
        """Keep the test output free of one line for each request."""

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, content: bytes, status: int = 200, **headers: str):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def is_authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def require_token(self):
        if not self.is_authorized:
            raise HubError(401, "Invalid username or password.")

    def require_owner(self, repo_id: str):
        """What belongs to others can be read with the token, and not written."""
        self.require_token()
        if not repo_id.startswith(f"{USER}/"):
            raise HubError(403, f"You don't have the rights to write to {repo_id}.")

    def get_repository(self, repo_id: str) -> Repository:
        repository = self.server.repositories.get(repo_id)
        if repository is None or (repository.is_private and not self.is_authorized):
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repository

    def get_commit(self, repo_id: str, revision: str) -> tuple[str, dict[str, Blob]]:
        repository = self.get_repository(repo_id)
        oid = repository.resolve(revision)
        if oid is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repository.commits[oid]

    @route("GET", "/api/whoami-v2")
    def serve_user(self):
        self.require_token()
        return {"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}}

    @route("POST", "/api/repos/create")
    def create_repository(self):
        self.require_token()
        request = json.loads(self.body)
        repo_id = f"{request.get('organization') or USER}/{request['name']}"
        self.require_owner(repo_id)
        if repo_id in self.server.repositories:
            # The client reads the address from the refusal as well.
            self.answer(json.dumps({"url": f"{self.server.endpoint}/{repo_id}"}).encode(), 409)
            return None
        # huggingface_hub 1 sends the first, 2 the second.
        is_private = bool(request.get("private")) or request.get("visibility") == "private"
        self.server.repositories[repo_id] = Repository(repo_id, is_private)
        return {"url": f"{self.server.endpoint}/{repo_id}"}

    @route("POST", "/api/validate-yaml")
    def validate_card(self):
        return {"errors": [], "warnings": []}

    @route("POST", "/api/{kind}/{repo}/branch/{revision}")
    def create_branch(self, repo_id: str, revision: str):
        self.require_token()
        repository = self.get_repository(repo_id)
        if revision in repository.heads:
            raise HubError(409, f"Reference already exists: {revision}")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repository.heads[revision] = self.get_commit(repo_id, start)[0]
        return {}

    @route("POST", "/api/{kind}/{repo}/preupload/{revision}")
    def choose_upload_modes(self, repo_id: str, revision: str):
        self.require_owner(repo_id)
        _, files = self.get_commit(repo_id, revision)
        answer = []
        for item in json.loads(self.body)["files"]:
            path = item["path"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
            if path in files:
                answer[-1]["oid"] = files[path].git_oid
        return {"files": answer}

    @route("POST", r"{folder}/{repo}\.git/info/lfs/objects/batch")
    def prepare_large_files(self, repo_id: str):
        self.require_token()
        self.get_repository(repo_id)
        objects = [{"oid": item["oid"], "size": item["size"]} for item in json.loads(self.body)["objects"]]
        for item in objects:
            # An object without actions is one that the server has already.
            if item["oid"] not in self.server.large_files:
                item["actions"] = {
                    "upload": {"href": f"{self.server.endpoint}/lfs/{item['oid']}"},
                    "verify": {"href": f"{self.server.endpoint}/lfs/verify"},
                }
        return {"transfer": "basic", "objects": objects}

    @route("PUT", "/lfs/{revision}")
    def store_large_file(self, revision: str):
        if hashlib.sha256(self.body).hexdigest() != revision:
            raise HubError(400, "The content does not have the announced hash.")
        self.server.large_files[revision] = self.body
        return {}

    @route("POST", "/lfs/verify")
    def verify_large_file(self):
        request = json.loads(self.body)
        if len(self.server.large_files.get(request["oid"], b"")) != request["size"]:
            raise HubError(404, "The object was not uploaded.")
        return {}

    @route("POST", "/api/{kind}/{repo}/commit/{revision}")
    def store_commit(self, repo_id: str, revision: str):
        self.require_owner(repo_id)
        repository = self.get_repository(repo_id)
        files = dict(self.get_commit(repo_id, revision)[1])
        title = ""
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                title = value["summary"]
            elif key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), is_lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.server.large_files:
                    raise HubError(400, f"The content of {value['path']} was not uploaded.")
                files[value["path"]] = Blob(self.server.large_files[value["oid"]], is_lfs=True)
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                raise HubError(400, f"This server does not know the operation {key!r}.")
        answer = {}
        head = revision
        if self.query.get("create_pr") == ["1"]:
            number = 1 + sum(name.startswith("refs/pr/") for name in repository.heads)
            head = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{self.server.endpoint}/{repo_id}/discussions/{number}"
        elif revision not in repository.heads:
            raise HubError(400, f"{revision} is no branch.")
        oid = repository.commit(files, title, head)
        return {"commitUrl": f"{self.server.endpoint}/{repo_id}/commit/{oid}", "commitOid": oid, **answer}

    @route("GET", "/api/{kind}/{repo}")
    def serve_default_info(self, repo_id: str):
        return self.serve_info(repo_id, "main")

    @route("GET", "/api/{kind}/{repo}/revision/{revision}")
    def serve_info(self, repo_id: str, revision: str):
        oid, files = self.get_commit(repo_id, revision)
        is_private = self.get_repository(repo_id).is_private
        siblings = [{"rfilename": path} for path in files]
        return {"id": repo_id, "sha": oid, "private": is_private, "tags": [], "siblings": siblings}

    @route("GET", "/api/{kind}/{repo}/tree/{revision}")
    def serve_tree(self, repo_id: str, revision: str, path: str = ""):
        folder = f"{path}/" if path else ""
        entries = [
            blob.describe(name)
            for name, blob in self.get_commit(repo_id, revision)[1].items()
            if name.startswith(folder)
        ]
        if path and not entries:
            raise HubError(404, f"{path} does not exist", "EntryNotFound")
        if self.query.get("recursive", ["false"])[0].lower() == "true":
            return entries
        # Only what lies in the folder itself, and the folders in it.
        deeper = {
            entry["path"].removeprefix(folder).split("/")[0]
            for entry in entries
            if "/" in entry["path"][len(folder) :]
        }
        listed = [entry for entry in entries if "/" not in entry["path"].removeprefix(folder)]
        return listed + [self.describe_folder(folder + name) for name in sorted(deeper)]

    @staticmethod
    def describe_folder(path: str) -> dict[str, Any]:
        return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}

    @route("GET", "/api/{kind}/{repo}/tree/{revision}/{path}")
    def serve_subtree(self, repo_id: str, revision: str, path: str):
        return self.serve_tree(repo_id, revision, path)

    @route("POST", "/api/{kind}/{repo}/paths-info/{revision}")
    def serve_paths(self, repo_id: str, revision: str):
        wanted = (
            json.loads(self.body)["paths"] if self.body.startswith(b"{") else parse_qs(self.body.decode())["paths"]
        )
        files = self.get_commit(repo_id, revision)[1]
        found = [files[path].describe(path) for path in wanted if path in files]
        folders = [path for path in wanted if any(name.startswith(f"{path}/") for name in files)]
        return found + [self.describe_folder(path) for path in folders]

    @route("GET HEAD", "{folder}/{repo}/resolve/{revision}/{path}")
    def serve_file(self, repo_id: str, revision: str, path: str):
        oid, files = self.get_commit(repo_id, revision)
        if path not in files:
            raise HubError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": oid})
        blob = files[path]
        headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": oid}
        if blob.is_lfs:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None:
            self.answer(blob.content, **headers)
            return
        first, last = int(asked[1]), int(asked[2])
        headers["Content-Range"] = f"bytes {first}-{last}/{len(blob.content)}"
        self.answer(blob.content[first : last + 1], 206, **headers)
