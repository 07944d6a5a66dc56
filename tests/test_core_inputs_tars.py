"""webdataset tars: samples by key, members by place, and hostile archives."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cogvideo_core.errors import BadManifest, ClipTooLarge, ForbiddenUri, StorageError
from cogvideo_core.inputs import clip_files, sources
from cogvideo_core.inputs.inside import address, parsed
from cogvideo_core.settings.specs import DatasetSpec

Record = dict[str, Any]


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def pack(path: Path, *members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def read(source: Path | str, **more: Any) -> list[Record]:
    return [dict(record) for record in sources.read_clips(DatasetSpec(source=str(source), **more))]


def fetched(record: Record, folder: Path, most: int = 10**6) -> bytes:
    return clip_files.fetch(record, folder, most).read_bytes()


def sample(key: str, data: bytes, **columns: Any) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [member(f"{key}.mp4", data), member(f"{key}.json", json.dumps({"target_prompts": ["x"]} | columns).encode())]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_of_a_key_are_a_sample(tmp_path: Path, kind: int) -> None:
    """Caption from .txt, columns from .json, long and non-ASCII names, bytes by their place in the tar."""
    long = "ü" * 60 if kind != tarfile.USTAR_FORMAT else "u"
    path = pack(
        tmp_path / "s.tar",
        *sample("./d/0001", b"first" * 1000, caption="from json", id=7),
        member("d/0002.txt", b"ein Hund\n"),
        *sample("d/0002", b"second", caption="not this"),
        *sample(long, b"third", source_prompt="a cat"),
        kind=kind,
    )
    records = read(path)
    assert [r["clip"] for r in records] == ["s.tar/d/0001.mp4", "s.tar/d/0002.mp4", f"s.tar/{long}.mp4"]
    assert [r["source_prompt"] for r in records] == ["from json", "ein Hund", "a cat"]
    assert json.loads(records[0]["own"][0]) == {"id": 7} and records[0]["size"] == 5000
    assert [fetched(r, tmp_path / "down") for r in records] == [b"first" * 1000, b"second", b"third"]
    assert read(path)[0]["source_id"] == records[0]["source_id"]


def test_a_samples_json_has_all_columns_of_a_manifest(tmp_path: Path) -> None:
    """Settings of a row, a part of the clip, and a list of edits, which all lie in the same member."""
    edits = [{"target_prompt": "x", "seed": 3}, {"target_prompt": "y", "start": 1.5}]
    one, other = read(pack(tmp_path / "s.tar", *sample("a", b"one", target_prompts=None, edits=edits, recipe="bold")))
    assert (one["target_prompts"], one["overrides"]) == (["x"], ['{"recipe":"bold","seed":3}'])
    assert (other["target_prompts"], other["start_s"]) == (["y"], 1.5)
    assert one["uri"] == other["uri"] and one["source_id"] != other["source_id"]
    assert fetched(one, tmp_path / "down") == fetched(other, tmp_path / "down") == b"one"


def test_target_prompts_may_come_from_a_prompts_file(tmp_path: Path) -> None:
    """A tar of videos alone gets every prompt, and its samples may have several videos with captions of their own."""
    path = pack(
        tmp_path / "s.tar",
        *(member(name, name.encode()) for name in ("1.left.mp4", "1.right.MP4", "1.txt")),
        *(member(name, name.encode()) for name in ("v.1.mp4", "v.1.txt", "v.2.mp4", "v.2.txt")),
    )
    (tmp_path / "p.list").write_text("blue\ngreen\n")
    records = read(path, prompts=str(tmp_path / "p.list"))
    assert [(r["clip"], r["source_prompt"]) for r in records] == [
        ("s.tar/1.left.mp4", "1.txt"),
        ("s.tar/1.right.MP4", "1.txt"),
        ("s.tar/v.1.mp4", "v.1.txt"),
        ("s.tar/v.2.mp4", "v.2.txt"),
    ]
    assert records[0]["target_prompts"] == ["blue", "green"]


def test_links_devices_and_folders(tmp_path: Path) -> None:
    """Links and devices are refused one by one and never followed; folders and hidden files are passed by."""
    path = pack(
        tmp_path / "s.tar",
        member("d", type=tarfile.DIRTYPE),
        member("a.mp4", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("b.mp4", type=tarfile.LNKTYPE, linkname="../../x"),
        member("c.mp4", type=tarfile.CHRTYPE),
        member("._e.mp4", b"x"),
        *sample("e", b"good"),
        member("e.jpg", b"x"),
        member("f.wav", b"x"),
        member("g.mp4", b"x"),
        member("g.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    )
    *links, good, lone, caption = read(path)
    assert [r["message"].partition(": ")[2] for r in links] == [
        "it is a link or a device in its tar; pack the file itself"
    ] * 3
    assert fetched(good, tmp_path) == b"good"
    assert "clip 's.tar/f': its sample holds no video" in lone["message"]
    assert "its 'g.json' is no plain file" in caption["message"]


@pytest.mark.parametrize("name", ["../../etc/x.mp4", "/etc/x.mp4", "a/../../x.mp4", "http://host/x.mp4", "x y.mp4"])
def test_names_are_never_paths(tmp_path: Path, name: str) -> None:
    """A name that climbs out, or is absolute, is only a name: nothing is written under it."""
    (tmp_path / "in").mkdir()
    info, data = member("0.mp4", b"good")
    info.name = name
    path = pack(tmp_path / "in" / "s.tar", (info, data), member("p.txt"))
    record = next(r for r in read(path, prompts=prompts(tmp_path)) if "error" not in r)
    got = clip_files.fetch(record, tmp_path / "down", 100)  # type: ignore[arg-type]
    assert got.parent == tmp_path / "down" and got.read_bytes() == b"good"
    assert {p.name for p in tmp_path.iterdir()} == {"in", "down", "p.list"}


def prompts(folder: Path) -> str:
    (folder / "p.list").write_text("blue\n")
    return str(folder / "p.list")


def test_names_with_control_characters_fail_alone(tmp_path: Path) -> None:
    """They would break tables; the message can be shown."""
    (record,) = read(pack(tmp_path / "s.tar", member("a\nb.mp4", b"x")), prompts=prompts(tmp_path))
    assert "control characters" in record["message"] and record["message"].isprintable()


def test_sizes_are_limited(tmp_path: Path) -> None:
    """A video by max_megabytes, a caption by a megabyte."""
    huge = member("b.txt", b"x" * 1_100_000)
    good, caption = read(pack(tmp_path / "s.tar", *sample("a", b"12345"), member("b.mp4", b"x"), huge))
    with pytest.raises(ClipTooLarge):
        fetched(good, tmp_path, 4)
    assert "its 'b.txt' is no plain file of 1048576 bytes at most; shorten it" in caption["message"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[1]", "is no JSON object"),
        (b"{", "can't be read"),
        (b"\xff\xfe\x00", "can't be read"),
        (b"[" * 99_999, "can't be read"),
    ],
)
def test_captions_that_cannot_be_read_fail_alone(tmp_path: Path, data: bytes, words: str) -> None:
    """The sentence names the caption's file."""
    bad, good = read(pack(tmp_path / "s.tar", member("a.mp4", b"x"), member("a.json", data), *sample("b", b"x")))
    assert words in bad["message"] and "'a.json'" in bad["message"] and "error" not in good


def broken_tars(whole: bytes) -> dict[str, bytes]:
    """Archives that are no tars, or lie."""
    negative = bytearray(whole)
    negative[124:136] = b"\xff" * 12  # base-256 for -1
    negative[148:156] = b"%06o\0 " % (sum(negative[:148]) + 8 * 32 + sum(negative[156:512]))
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 33
    large = tarfile.TarInfo("a.mp4")
    large.size = 1 << 40
    return {
        "gzip": gzip.compress(whole),
        "noise": b"no tar " * 500,
        "empty": b"",
        "cut": whole[:700],
        "negative": bytes(negative),
        "long header": header.tobuf() + bytes(2048),
        "reaches out": large.tobuf() + bytes(2048),
    }


@pytest.mark.parametrize("name", broken_tars(bytes(1024)))
def test_broken_tars_are_refused_as_a_whole(tmp_path: Path, name: str) -> None:
    """Compressed, cut, noise, sizes that lie: one sentence, soon."""
    whole = pack(tmp_path / "whole", *sample("a", b"x" * 2000)).read_bytes()
    (tmp_path / "s.tar").write_bytes(broken_tars(whole)[name])
    with pytest.raises(BadManifest) as caught:
        read(tmp_path / "s.tar")
    assert "s.tar" in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tgz", "memory://x/s.tar.zst"])
def test_compressed_tars_are_refused_by_name(tmp_path: Path, name: str) -> None:
    """Before anything is read, with the reason and the remedy."""
    with pytest.raises(BadManifest, match=r"is a compressed tar.*unpack it to a plain \.tar"):
        read(name if "://" in name else tmp_path / name)


def test_a_tar_that_has_changed_is_not_read(tmp_path: Path) -> None:
    """Its members may have moved; so for a tar that has become a link."""
    path = pack(tmp_path / "s.tar", *sample("a", b"one"))
    (record,) = read(path)
    pack(path, *sample("aa", b"two"), *sample("a", b"one"))
    with pytest.raises(StorageError, match="has changed since it was listed; run again"):
        fetched(record, tmp_path)
    path.rename(tmp_path / "else.tar")
    path.symlink_to(tmp_path / "else.tar")
    with pytest.raises(ForbiddenUri):
        fetched(record, tmp_path)


def test_tars_on_a_store(tmp_path: Path) -> None:
    """Members are read in place, a block for a header and the member's own bytes."""
    data = pack(tmp_path / "s.tar", *sample("a", b"one"), *sample("b", b"x" * 3_000_000)).read_bytes()
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/tars/s.tar", data)
    try:
        one, other = read("memory://tars/s.tar")
        assert one["uri"].startswith("tar+memory://tars/s.tar#name=a.mp4&at=")
        assert fetched(one, tmp_path / "x") == b"one" and fetched(other, tmp_path / "x", 10**7) == b"x" * 3_000_000
    finally:
        memory.rm("/tars", recursive=True)


def test_no_manifest_can_name_a_member(tmp_path: Path) -> None:
    """Addresses are made by the readers alone."""
    path = pack(tmp_path / "s.tar", *sample("a", b"one"))
    where = address("tar", str(path), name="a.mp4", at=0, size=3)
    (tmp_path / "m.jsonl").write_text(json.dumps({"clip": where, "target_prompts": ["x"]}))
    (record,) = read(tmp_path / "m.jsonl")
    assert record["error"] == "ForbiddenUri" and "'tar+file' is not allowed" in record["message"]


def test_addresses_come_back(tmp_path: Path) -> None:
    """Whatever the holder and the names are called."""
    for holder in (str(tmp_path / "a#b&c=d+e %20.tar"), "s3://bucket/k#1/s.tar", "https://h/s.tar?sig=a%20b"):
        where = parsed(address("tar", holder, name="ü #&=+.mp4", at=5))
        assert where is not None and where.holder == holder and where.fields == {"name": "ü #&=+.mp4", "at": "5"}
    assert parsed("/a/tar+file/b.mp4") is None and parsed("s3://b/tar+x#y") is None and parsed("tar.mp4") is None
