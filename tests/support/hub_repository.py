"""Repositories of the test server: commits, branches, and what the API tells of a file."""

import hashlib
from dataclasses import dataclass, field

LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".flac", ".wav")


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """Commits and branches: every commit is a whole mapping of paths to contents, so none is ever half there."""

    private: bool = False
    gated: bool = False
    accepted: set[str] = field(default_factory=set)  # tokens whose owners accepted the terms
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        listing = "".join(f"{path} {git_oid(content)}\n" for path, content in sorted(files.items()))
        sha = hashlib.sha1(f"{self.branches.get(branch)}\n{len(self.commits)}\n{listing}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)


def describe(path: str, content: bytes) -> dict:
    """A file as tree and paths-info tell of it."""
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
    if path.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry
