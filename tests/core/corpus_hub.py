"""A Hugging Face hub of one folder, on loopback: for tests of datasets that are published to it.

It speaks the part of the hub's HTTP protocol that reading and committing to a dataset needs (repository information,
listings, files with ranges, commits of files that are no LFS), so that the real `datasets` and `huggingface_hub` run
against it. A repository is a folder `org/name`, its head the hash of its files; `org/name.commits` has a line of JSON
for each commit. Run as a program it prints its address and serves until its input ends.
"""

import base64
import hashlib
import http.server
import json
import shutil
import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

JSON = {"Content-Type": "application/json"}


def commit_of(repo: Path) -> str:
    return hashlib.sha1(b"".join(path.read_bytes() for path in _files(repo))).hexdigest()


def _files(repo: Path) -> list[Path]:
    return sorted(path for path in repo.rglob("*") if path.is_file())


def _entry(repo: Path, path: Path) -> dict[str, object]:
    if path.is_dir():
        return {"type": "directory", "path": str(path.relative_to(repo)), "oid": "0" * 40, "size": 0}
    body = path.read_bytes()
    oid = hashlib.sha1(body).hexdigest()
    return {"type": "file", "path": str(path.relative_to(repo)), "oid": oid, "size": len(body)}


class Hub(http.server.BaseHTTPRequestHandler):
    root: Path

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        form = self._body()
        url = urlsplit(self.path)
        match unquote(url.path).strip("/").split("/"):
            case ["api", "validate-yaml"]:
                self._send(200, b'{"errors": [], "warnings": []}', JSON)
            case ["api", "datasets", org, name, "commit", _] if (repo := self.root / org / name).is_dir():
                self._commit(repo, [json.loads(line) for line in form.splitlines()])
            case ["api", "datasets", org, name, *rest] if (repo := self.root / org / name).is_dir():
                self._send(200, json.dumps(self._api(repo, rest, url.query, form)).encode(), JSON)
            case ["datasets", org, name, "resolve", _, *path] if (
                file := self.root.joinpath(org, name, *path)
            ).is_file():
                self._file(self.root / org / name, file)
            case ["datasets", org, name, "resolve", *_] if (repo := self.root / org / name).is_dir():
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit_of(repo)})
            case _:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    do_HEAD = do_POST = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _commit(self, repo: Path, lines: list[dict[str, dict[str, str]]]) -> None:
        header, *operations = lines
        told = header["value"]
        if told.get("parentCommit", commit_of(repo)) != commit_of(repo):
            self._send(412, b'{"error": "a commit has happened since"}', JSON)
            return
        added, deleted = [], []
        for operation in operations:
            path = operation["value"]["path"]
            if operation["key"] == "file":
                (repo / path).parent.mkdir(parents=True, exist_ok=True)
                (repo / path).write_bytes(base64.b64decode(operation["value"]["content"]))
                added.append(path)
            else:
                shutil.rmtree(repo / path) if (repo / path).is_dir() else (repo / path).unlink()
                deleted.append(path)
        with repo.with_name(f"{repo.name}.commits").open("a") as log:
            log.write(json.dumps({"summary": told["summary"], "added": added, "deleted": deleted}) + "\n")
        url = f"http://{self.headers['Host']}/datasets/{repo.parent.name}/{repo.name}/commit/{commit_of(repo)}"
        answer = {"success": True, "commitOid": commit_of(repo), "commitUrl": url, "hookOutput": ""}
        self._send(200, json.dumps(answer).encode(), JSON)

    def _api(self, repo: Path, rest: list[str], query: str, form: bytes) -> object:
        match rest:
            case ["tree", _, *folder]:
                top = repo.joinpath(*folder)
                inside = top.rglob("*") if "recursive=true" in query.lower() else top.iterdir()
                return [_entry(repo, path) for path in sorted(inside)]
            case ["preupload", _]:
                paths = [file["path"] for file in json.loads(form)["files"]]
                return {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
            case ["paths-info", _]:
                body = json.loads(form) if form.startswith(b"{") else parse_qs(form.decode())
                return [_entry(repo, repo / path) for path in body["paths"] if (repo / path).exists()]
        names = [{"rfilename": str(path.relative_to(repo))} for path in _files(repo)]
        id = f"{repo.parent.name}/{repo.name}"
        return {"id": id, "sha": commit_of(repo), "siblings": names, "private": False, "tags": [], "downloads": 0}

    def _file(self, repo: Path, file: Path) -> None:
        body = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": commit_of(repo)}
        wanted = self.headers.get("Range")
        if wanted is None or self.command == "HEAD":
            self._send(200, body, headers)
            return
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        part = body[int(start) : int(end or len(body)) + 1]
        self._send(206, part, {**headers, "Content-Range": f"bytes {start}-{int(start) + len(part) - 1}/{len(body)}"})


if __name__ == "__main__":
    Hub.root = Path(sys.argv[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    import threading

    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
