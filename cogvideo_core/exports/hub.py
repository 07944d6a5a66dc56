"""Pushes a finished export to the Hugging Face hub, as a dataset repository, with the hub's own client."""

from __future__ import annotations

import re
from pathlib import Path

from cogvideo_core.errors import BadSpec, StorageError
from cogvideo_core.exports.place import HOME, MARK, SUMS
from cogvideo_core.storage.objects import redacted
from cogvideo_core.storage.uris import is_remote, local_path, unsigned

REPOSITORY = re.compile(r"hf://(?:datasets/)?([A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95})")


def push(folder: str, to: str, private: bool = False) -> str:
    """Uploads the folder of a finished export to hf://user/name; returns the repository's address.

    What is there already is not sent again; other files of the repository stay. Raises BadSpec for an address that is
    none, a folder without a finished export, or a missing token; StorageError where the hub refuses or is out of reach.
    """
    repository, path = repository_of(to), finished_export(folder)
    from huggingface_hub import HfApi, get_token

    if not (token := get_token()):
        raise BadSpec(f"field to: {to!r} needs a token of the hub; log in with hf auth login, or set HF_TOKEN")
    api = HfApi(token=token)
    try:
        address = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=path,
            ignore_patterns=[f"{HOME}/**"],
            commit_message="Edited videos, exported by cogvideo-edit",
        )
    except Exception as error:  # the client passes on the classes of its transport, which change with its versions
        raise StorageError(
            f"hub {to!r}: {redacted(error)}; check the token's rights and the network, push again"
        ) from error
    return str(address)


def repository_of(to: str) -> str:
    """user/name of hf://user/name. Raises BadSpec."""
    if not (found := REPOSITORY.fullmatch(to)):
        raise BadSpec(f"field to: {unsigned(to)[:200]!r} is no repository of the hub; write hf://user/name")
    return found[1]


def finished_export(folder: str) -> Path:
    """The local folder of an export, whole as far as its names tell. Raises BadSpec."""
    if is_remote(folder):
        raise BadSpec(f"field root: {unsigned(folder)!r} is not on this machine; export to a folder, then push that")
    path = Path(local_path(folder))
    if not (path / MARK).is_file() or not (path / SUMS).is_file():
        raise BadSpec(
            f"field root: {folder!r} holds no finished export; write one with cogvideo-edit export RUN FOLDER"
        )
    with (path / SUMS).open(encoding="utf-8") as lines:
        for line in lines:
            name = line.rstrip("\n")[66:]
            if not (path / name).is_file():
                raise BadSpec(f"field root: {folder!r} lacks {name!r} of its {SUMS}; export to it again")
    return path
