"""A Hugging Face hub on the loopback interface, for HF_ENDPOINT: repositories are folders.

It answers what huggingface_hub 2.4, transformers 5.23 and datasets 5.2 ask to find a revision, list
a repository and fetch its files, in the hub's own terms (commit, ETag, X-Error-Code). No uploads.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


@dataclass
class FakeHub:
    """`refs` maps "models/owner/name" or "datasets/owner/name" to its revisions: name -> folder."""

    refs: Mapping[str, Mapping[str, Path]]
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """Paths of all requests so far."""
    breaks_off: str = ""
    """Name of a file in the middle of which the connection ends."""
    refuses: int = 0
    """An HTTP status that answers every request."""

    def commit(self, repo: str, revision: str = "main") -> str:
        """A commit is named by its folder."""
        return hashlib.sha1(str(self.refs[repo][revision]).encode()).hexdigest()

    def folder(self, repo: str, revision: str) -> Path | None:
        for name, folder in self.refs[repo].items():
            if revision in (name, self.commit(repo, name)):
                return folder
        return None


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


def _entry(folder: Path, file: Path) -> dict:
    size, name = file.stat().st_size, file.relative_to(folder).as_posix()
    return {"type": "file", "path": name, "size": size, "oid": _etag(file)}


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        self.hub.asked.append(self.path)
        if self.hub.refuses:
            return self._answer(b"", "", status=self.hub.refuses, message="not to you")
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[0] == "api"
        parts = parts[1:] if api else parts if parts[0] == "datasets" else ["models", *parts]
        repo, (verb, revision, *rest) = (
            "/".join(parts[:3]),
            [*parts[3:], "", "main"][:2] + parts[5:],
        )
        if repo not in self.hub.refs:
            return self._refuse("RepoNotFound")
        folder = self.hub.folder(repo, revision if verb else "main")
        if folder is None:
            return self._refuse("RevisionNotFound")
        named = next(n for n, f in self.hub.refs[repo].items() if f == folder)
        commit = self.hub.commit(repo, named)
        if verb == "resolve" and not api:
            file = folder.joinpath(*rest)
            if not file.is_file():
                return self._refuse("EntryNotFound", commit)
            return self._answer(file.read_bytes(), commit, _etag(file))
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if verb == "tree":
            under = folder.joinpath(*rest)
            found: object = [_entry(folder, file) for file in files if file.is_relative_to(under)]
        elif verb == "paths-info":
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
            wanted = [file for file in files if file.relative_to(folder).as_posix() in asked]
            found = [_entry(folder, file) for file in wanted]
        else:
            names = [{"rfilename": _entry(folder, file)["path"]} for file in files]
            found = {"id": repo.split("/", 1)[1], "sha": commit, "siblings": names}
        self._answer(json.dumps(found).encode(), commit)

    do_HEAD = do_POST = do_GET

    def _refuse(self, code: str, commit: str = "") -> None:
        self._answer(b"", commit, status=HTTPStatus.NOT_FOUND, error=code)

    def _answer(
        self,
        body: bytes,
        commit: str,
        etag: str = "",
        status: int = HTTPStatus.OK,
        error: str = "",
        message: str = "",
    ) -> None:
        self.send_response(status)
        names = {"X-Repo-Commit": commit, "ETag": etag and f'"{etag}"'}
        errors = {"X-Error-Code": error, "X-Error-Message": message}
        for name, value in (names | errors).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            broken = bool(self.hub.breaks_off) and self.path.endswith(self.hub.breaks_off)
            self.wfile.write(body[: len(body) // 2] if broken else body)
            self.close_connection |= broken

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def fake_hub(refs: Mapping[str, Mapping[str, Path]]) -> Iterator[FakeHub]:
    """Serve these repositories until the block ends."""
    hub = FakeHub(refs)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
