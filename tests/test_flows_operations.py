"""What `up` is made of: deployments and their forms, processes, passwords, the gallery's server, set-up of a server."""

from __future__ import annotations

import base64
import http.client
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import uuid4

import fsspec
import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cogvideo_core.errors import BadSpec, EditError
from cogvideo_core.settings.presets import PRESET_INVERSIONS
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from flows import housekeeping, report
from flows.cli import up as cli_up
from flows.cli.main import app
from flows.server import gallery as gallery_server
from flows.server import processes
from flows.server import setup as operations
from tasks import work
from tasks.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOYMENTS = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"]
NAMES = {
    "plan",
    "describe-dataset",
    "edit",
    "edit-dataset",
    "invert-dataset",
    "retry-failed",
    "judge",
    "edit-wave",
    "campaign",
    "collect",
    "export-dataset",
    "tune",
    "retention",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PREFECT_HOME of its own, and no secret in the environment."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv(processes.AUTH, raising=False)
    return processes.home()


def flow_of(deployment: dict[str, Any]) -> Any:
    module, _, name = deployment["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_the_deployments_are_all_there() -> None:
    """Each has a description, tags, a concurrency limit and the pool, and nothing is pulled from anywhere."""
    assert {entry["name"] for entry in DEPLOYMENTS} == NAMES
    for entry in DEPLOYMENTS:
        assert entry["description"] and "cogvideo-edit" in entry["tags"]
        assert entry["concurrency_limit"]["limit"] >= 1 and entry["work_pool"]["name"] == operations.POOL
    whole = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())
    assert whole["pull"] == [] and "schedules" not in str(whole)  # a schedule is an example, in a comment


def test_what_waits_and_what_computes_have_queues_of_their_own() -> None:
    """Else a campaign would hold the one slot that the wave it waits for needs."""
    queues = {entry["name"]: entry["work_pool"]["work_queue_name"] for entry in DEPLOYMENTS}
    assert queues["campaign"] != queues["edit-wave"] == queues["edit-dataset"] == operations.QUEUE


@pytest.mark.parametrize("entry", DEPLOYMENTS, ids=lambda entry: entry["name"])
def test_deployments_fit_their_flows(entry: dict[str, Any]) -> None:
    """The entrypoint is a module's flow, which takes the parameters that are given and has defaults for the rest."""
    from prefect.utilities.callables import parameter_schema

    flow = flow_of(entry)
    schema = parameter_schema(flow)
    assert set(entry["parameters"]) <= set(schema.properties) and not schema.required
    assert ":" not in entry["entrypoint"]


@pytest.mark.parametrize("entry", DEPLOYMENTS, ids=lambda entry: entry["name"])
def test_forms_have_words_and_no_tabs(entry: dict[str, Any]) -> None:
    """Groups in their order, one level deep; every field has a title and a description, and none a choice of types,
    which Prefect's form shows as tabs."""
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(flow_of(entry)).model_dump()
    order = ["dataset", "model", "inversion", "recipe", "output", "engine"]
    groups = [name for name, about in schema["properties"].items() if name in order and "$ref" in str(about)]
    assert groups == [name for name in order if name in groups]
    for group in schema["definitions"].values():
        for name, field in group["properties"].items():
            assert field["title"] and field["description"], name
            assert "anyOf" not in field and "$ref" not in field, name
    assert "anyOf" not in str(schema["properties"])


def test_presets_come_first_in_the_recipe() -> None:
    """As a choice; what one rarely changes comes after what one often does."""
    fields = list(RecipeSpec.model_fields)
    assert fields[0] == "preset"
    assert max(map(fields.index, ("guidance_scale", "seeds", "negative_prompt"))) < fields.index("layer_start")


def test_a_preset_of_the_form_brings_its_inversion() -> None:
    """Where the inversion is left as it is; a field of it that was changed stays."""
    rest: Any = {"dataset": DatasetSpec(), "model": ModelSpec(), "output": OutputSpec(), "engine": EngineSpec()}
    for name, wanted in PRESET_INVERSIONS.items():
        settings = Settings(**rest, inversion=InversionSpec(), recipe=RecipeSpec(preset=name))  # type: ignore[arg-type]
        assert settings.inversion == wanted
        changed = Settings(**rest, inversion=InversionSpec(steps=7), recipe=RecipeSpec(preset=name))  # type: ignore[arg-type]
        assert changed.inversion == wanted.model_copy(update={"steps": 7})
        again = Settings(**{k: v for k, v in changed.as_json().items() if k != "plan"})
        assert again.as_json() == changed.as_json()
    assert Settings(**rest, inversion=InversionSpec(), recipe=RecipeSpec(name="fast")).inversion == InversionSpec()


def test_wrong_values_end_a_run_with_the_fields_name(prefect_harness: None) -> None:
    """What only a rule between fields can refuse is refused before anything is read or loaded."""
    from flows.edit_dataset import edit_dataset

    given: Any = {"dataset": {"source": "nowhere", "frames": 10}}
    state = edit_dataset(**given, return_state=True)
    assert state.is_failed() and "frames must be 8k+1" in state.message


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"dataset": {"source": "s3://b/x/clips"}, "recipe": {"preset": "bold"}}, "clips bold 2026-01-02 03:04"),
        (
            {"dataset": DatasetSpec(source="a b/m.csv"), "recipe": RecipeSpec(name="mine")},
            "m.csv mine 2026-01-02 03:04",
        ),
        ({"recipe": {"guidance_scale": 99}}, "manifest.jsonl 2026-01-02 03:04"),
        ({"root": "out/run/"}, "run 2026-01-02 03:04"),
        ({"output": {"root": "out/<b>"}}, "-b- 2026-01-02 03:04"),
        ({"dataset": {"source": "https://u:p@h/m.csv?sig=1"}, "recipe": {}, "wave": 3}, "m.csv balanced wave 3"),
    ],
)
def test_runs_are_called_by_dataset_recipe_and_date(
    given: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the parameters are JSON, as from the form, or objects; nothing secret and no markup gets into a name."""
    date = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    monkeypatch.setattr(report, "flow_run", SimpleNamespace(parameters=given, scheduled_start_time=date))
    assert report.run_name().startswith(name) and len(report.run_name()) <= len(name) + 17


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_password(host: str) -> None:
    """Nobody but this machine's accounts can reach it."""
    cli_up.check_binding(host, auth=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_anything_else_without_a_password_is_refused(host: str, home: Path) -> None:
    """With one sentence, by both commands that listen, and before anything is started."""
    cli_up.check_binding(host, auth=True)
    with pytest.raises(BadSpec, match=r"^field host: .*; add --auth, or use 127\.0\.0\.1$"):
        cli_up.check_binding(host, auth=False)
    for command in (["up"], ["gallery", "out"]):
        done = CliRunner().invoke(app, [*command, "--host", host])
        assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1
    assert processes.read_state()["processes"] == {}


def test_a_password_is_made_once_and_for_the_owner_alone(home: Path) -> None:
    """A file of mode 0600, whatever the umask; the environment comes before it; one that others may read is refused."""
    before = os.umask(0)
    try:
        made = processes.auth_string()
    finally:
        os.umask(before)
    assert (home / "auth").stat().st_mode & 0o777 == 0o600 and len(made) > 30
    assert processes.auth_string() == made
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(processes.AUTH, "me:mine")
        assert processes.auth_string() == "me:mine"
        patch.setenv(processes.AUTH, "nobody")
        with pytest.raises(BadSpec, match="must be user:password"):
            processes.auth_string()
    (home / "auth").chmod(0o640)
    with pytest.raises(BadSpec, match="can be read by other accounts"):
        processes.auth_string()


def test_the_secret_travels_in_the_environment_alone(home: Path) -> None:
    """To server and clients alike; without --auth a leftover of the user's own does not close the server."""
    settings = {"host": "0.0.0.0", "port": 4200, "gallery": "/out", "auth": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_AUTH_STRING", "old:one")
        given = cli_up.environment_of(settings, "me:mine")
        assert given[processes.AUTH] == given["PREFECT_API_AUTH_STRING"] == "me:mine"
        assert "PREFECT_API_AUTH_STRING" not in cli_up.environment_of(settings, "")
    assert given["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert given["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert "in /home/auth" in cli_up.told(settings, ["server"], "/home/auth")


def test_commands_find_the_password_of_their_own_server_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read where PREFECT_API_URL is that of `up`, and for no other server."""
    settings = {"host": "127.0.0.1", "port": 4200, "auth": True}
    processes.write_state({"settings": settings, "processes": {}})
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert cli_up.connect()["PREFECT_API_AUTH_STRING"] == processes.auth_string()
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    assert "PREFECT_API_AUTH_STRING" not in cli_up.connect()


SLEEPER = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']); "


def test_only_what_was_started_is_stopped(home: Path) -> None:
    """The process and its children end; another with the number of one that has ended is let alone, and so is a
    second `down`."""
    state = processes.read_state()
    processes.start(state, "worker", [sys.executable, "-c", SLEEPER + "time.sleep(99)"], dict(os.environ))
    entry = processes.read_state()["processes"]["worker"]
    parent = processes.alive(entry)
    assert parent is not None and (home / "worker.log").stat().st_mode & 0o777 == 0o600
    while not (children := parent.children()):
        pass
    assert processes.alive(entry | {"started": entry["started"] - 60}) is None
    assert not processes.stop(entry | {"started": entry["started"] - 60}) and parent.is_running()
    assert processes.stop(entry) and not processes.stop(entry)
    psutil.wait_procs(children, 10)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    done = CliRunner().invoke(app, ["down"])
    assert done.exit_code == 0 and "nothing was up" in done.stdout


def test_what_does_not_come_up_is_told_with_the_end_of_its_log(home: Path) -> None:
    """The last line, and where the rest stands."""
    state = processes.read_state()
    processes.start(state, "server", [sys.executable, "-c", "raise SystemExit('no room')"], dict(os.environ))
    with pytest.raises(EditError, match=r"the server did not come up \(no room\); see .*server\.log"):
        processes.wait_until(state, "server", lambda: False)


def test_deploy_wants_an_address(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would set up a server that ends with the command."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    done = CliRunner().invoke(app, ["deploy"])
    assert done.exit_code == 2 and "PREFECT_API_URL is not set" in done.stderr


def test_a_taken_port_is_refused(home: Path) -> None:
    """Before anything is started, with the field's name."""
    taken = gallery_server.serve(home, "127.0.0.1", 0)
    wanted = {"host": "127.0.0.1", "port": taken.server_port, "auth": False}
    with pytest.raises(BadSpec, match=rf"^field port: another program listens on {taken.server_port}"):
        cli_up.check_wanted(wanted, processes.read_state())
    taken.server_close()


STORED = f"edits/ab/{'ab' * 32}/{'cd' * 16}/edit.mp4"


@pytest.fixture(params=[("disk", ""), ("disk", "me:mine"), ("store", "")], ids=["disk", "password", "store"])
def gallery(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """(a served gallery, headers of a welcome guest), with and without a password, on a disk and in an object store."""
    root = tmp_path / "out" / "run"
    (root / "dataset/videos/ab").mkdir(parents=True)
    (root / "dataset/videos/ab/a-1.mp4").write_bytes(b"of a large dataset")
    (root / "dataset/videos/ab/metadata.parquet").write_bytes(b"PAR1")
    (root / "plan").mkdir()
    (root / "index.html").write_text("<p>a gallery</p>")
    (root / STORED).parent.mkdir(parents=True)
    (root / STORED).write_bytes(b"rejected")
    (root / STORED).with_name("why.json").write_text("{}")
    (root / "dataset/videos/a-1.mp4").write_bytes(bytes(range(200)))
    (root / "plan/settings.json").write_text("{}")
    (root / "gallery").mkdir()
    for name in ("00001.js", "index-00000.js", "mine.js", "00001.js.bak"):
        (root / "gallery" / name).write_text("galleryShard()")
    (root / "00001.js").write_text("mine")
    (root / "gallery/00002.js").symlink_to(root / "00001.js")
    (tmp_path / "index.html").write_text("outside")
    (root / "dataset/videos/link.mp4").symlink_to(tmp_path / "index.html")
    place, password = request.param
    store = in_memory(tmp_path) if place == "store" else ""
    server = gallery_server.serve(f"{store}/out" if store else tmp_path / "out", "127.0.0.1", 0, password)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    coded = base64.b64encode(password.encode()).decode()
    yield server, {"Authorization": f"Basic {coded}"} if password else {}
    if store:
        fsspec.filesystem("memory").rm(store, recursive=True)
    server.shutdown()
    server.server_close()


def in_memory(folder: Path) -> str:
    """The files of a folder in fsspec's store in memory, which has no links; its URL."""
    url = f"memory://{folder.name}-{uuid4().hex}"
    fs, root = fsspec.core.url_to_fs(url)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            fs.pipe_file(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return url


def asked(server: Any, path: str, headers: dict[str, str], method: str = "GET") -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.headers
    connection.close()
    return found


def test_the_gallery_shows_pages_and_videos_and_nothing_else(gallery: Any) -> None:
    """No listing, no plan, nothing outside the folder, by whichever spelling."""
    server, welcome = gallery
    assert asked(server, "/run/index.html", welcome)[:2] == (200, b"<p>a gallery</p>")
    assert asked(server, "/run/dataset/videos/a-1.mp4?x=1", welcome)[1] == bytes(range(200))
    assert asked(server, "/run/dataset/videos/ab/a-1.mp4", welcome)[1] == b"of a large dataset"
    assert asked(server, "/run/dataset/videos/ab/metadata.parquet", welcome)[0] == 404
    assert asked(server, f"/run/{STORED}", welcome)[1] == b"rejected"  # the video of a rejected edit
    assert asked(server, f"/run/{STORED.replace('edit.mp4', 'why.json')}", welcome)[0] == 404
    assert asked(server, "/run/dataset/videos/a-1.mp4", welcome, "HEAD")[1] == b""
    status, page, headers = asked(server, "/", welcome)
    assert status == 200 and b'<a href="/run/index.html">run</a>' in page and b"plan" not in page
    assert headers["Content-Security-Policy"] == "default-src 'none'"
    hidden = ["/run/plan/settings.json", "/run/", "/..%2findex.html", "/../index.html", "/run/%00", "/%ff"]
    for path in [*hidden, "/run/dataset/videos/link.mp4", "/run/dataset/videos/..%2f..%2fplan%2fsettings.json"]:
        assert asked(server, path, welcome)[0] == 404, path


def test_the_gallery_shows_the_data_of_its_page(gallery: Any) -> None:
    """Parts of a large gallery come as scripts, for pages of this server alone; no other script does."""
    server, welcome = gallery
    for name in ("00001.js", "index-00000.js"):
        status, body, headers = asked(server, f"/run/gallery/{name}?v=1234abcd", welcome)
        assert (status, body, headers["Content-Type"]) == (200, b"galleryShard()", "text/javascript; charset=utf-8")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    hidden = [
        "gallery/mine.js",
        "gallery/00001.js.bak",
        "00001.js",
        "gallery/00002.js",
        "gallery/",
        "gallery/../00001.js",
    ]
    for path in hidden:
        assert asked(server, f"/run/{path}", welcome)[0] == 404, path
    if welcome:
        assert asked(server, "/run/gallery/00001.js", {})[0] == 401


def test_the_gallery_keeps_strangers_out(gallery: Any) -> None:
    """With a password, who does not have it; without one, pages that call this machine by another name."""
    server, welcome = gallery
    if welcome:
        assert asked(server, "/", {})[0] == asked(server, "/run/index.html", {})[0] == 401
        assert asked(server, "/run/index.html", {"Authorization": "Basic eDp5"})[0] == 401
    else:
        assert asked(server, "/run/index.html", {"Host": "evil.example"})[0] == 403
        assert asked(server, "/run/index.html", {"Host": f"localhost:{server.server_port}"})[0] == 200


def test_browsers_can_seek(gallery: Any) -> None:
    """A byte range gives that part, with its place in the whole."""
    server, welcome = gallery
    status, body, headers = asked(server, "/run/dataset/videos/a-1.mp4", welcome | {"Range": "bytes=10-19"})
    assert (status, body, headers["Content-Range"]) == (206, bytes(range(10, 20)), "bytes 10-19/200")


def test_a_store_out_of_reach_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The browser gets 502, and the server goes on."""
    from flows.server import shelves

    def away(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route to the store")

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "info", away)
    server = gallery_server.serve("memory://away", "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    assert asked(server, "/run/index.html", {})[0] == 502 and asked(server, "/nothing", {})[0] == 404
    server.shutdown()
    server.server_close()
    assert isinstance(shelves.shelf_of("memory://away"), shelves.StoreShelf)


@given(st.text(max_size=20) | st.from_regex(r"bytes=\d{0,4}-\d{0,4}", fullmatch=True), st.integers(0, 3000))
def test_ranges_lie_within_the_file(header: str, size: int) -> None:
    """Whatever a client asks for, the answer is a part of the file or none."""
    if found := gallery_server.wanted_range(header, size):
        assert 0 <= found[0] <= found[1] < size


def test_a_server_is_set_up_once(prefect_harness: None, tmp_path: Path) -> None:
    """Pool, queue, limit and automations are made; a second time finds them, and a value changed by hand stays."""
    from prefect.client.orchestration import get_client

    def set_up() -> list[str]:
        with get_client(sync_client=True) as client:
            made = [*operations._pool(client, tmp_path), *operations._queue(client, 2), *operations._limit(client, 2)]
            made += operations._automation(
                client, operations.ZOMBIES, lambda: operations.zombies(300, ["edit-dataset"])
            )
            return made + operations._automation(client, operations.NOTIFY, lambda: operations.notification(["a"]))

    assert len(set_up()) == 5
    with get_client(sync_client=True) as client:
        queue = client.read_work_queue_by_name(operations.QUEUE, operations.POOL)
        client.update_work_queue(queue.id, concurrency_limit=7)
        assert set_up() == []
        assert client.read_work_queue_by_name(operations.QUEUE, operations.POOL).concurrency_limit == 7
        assert client.read_global_concurrency_limit_by_name(operations.LIMIT).limit == 2 * 2
        pool = client.read_work_pool(operations.POOL)
        assert pool.type == "process"
        assert pool.base_job_template["variables"]["properties"]["working_dir"]["default"] == str(tmp_path)
        (zombies,) = client.read_automations_by_name(operations.ZOMBIES)
        (notify,) = client.read_automations_by_name(operations.NOTIFY)
        assert (zombies.enabled, notify.enabled) == (True, False)


def test_the_version_follows_forms_and_file(tmp_path: Path) -> None:
    """The same for the same deployments; another when their file changes."""
    file = tmp_path / "prefect.yaml"
    file.write_text("a: 1")
    one = operations.deployed_version(file)
    assert operations.deployed_version(file) == one
    file.write_text("a: 2")
    assert operations.deployed_version(file) != one


def test_tasks_say_what_they_reused(prefect_harness: None) -> None:
    """Their state is called Reused, or ClipsFailed, with the counts; its result is the records all the same."""
    from prefect import flow, task

    def record(reused: bool) -> dict[str, Any]:
        return {"timings": [{"stage": "edit", "reused": reused}, {"stage": "encode", "reused": True}]}

    failed = {"error": "NotAVideo", "stage": "encode", "message": "", "kind": "bad_input"}
    cases = {"Reused": [record(True)], "Completed": [record(True), record(False)], "ClipsFailed": [failed]}

    @task
    def edit(records: list[Any]) -> list[Any]:
        return work.marked(records, "edit")

    @flow
    def all_cases() -> dict[str, Any]:
        return {name: edit(records, return_state=True) for name, records in cases.items()}

    states = all_cases()
    for name, state in states.items():
        assert state.name == name and state.is_completed() and state.result() == cases[name]
    assert states["Completed"].message == "2 clips: 1 reused, 0 failed"
    assert work.marked(cases["Reused"], "edit") is cases["Reused"]  # outside of a task run the records alone


def test_housekeeping_flows(prefect_harness: None, toy: ModuleType, tmp_path: Path) -> None:
    """Retention lists and keeps until told to remove; collecting builds the dataset again from what is committed."""
    root = tmp_path / "root"
    toy.run(str(root), tmp_path / "clips")
    attempt = root / "latents/ab" / ("ab" * 32) / "attempt-1" / "latents.safetensors"
    attempt.parent.mkdir(parents=True)
    attempt.write_bytes(b"half")
    spec = housekeeping.RetentionSpec(root=str(root), older_than_h=0)
    listed = housekeeping.retention(retention=spec)
    assert (listed["objects"], listed["removed"]) == (1, False) and attempt.exists()
    removed = housekeeping.retention(retention=spec.model_copy(update={"delete": True}))
    assert (removed["objects"], removed["removed"]) == (1, True) and not attempt.exists()
    (root / "index.html").unlink()
    counts = housekeeping.collect(output=OutputSpec(root=str(root)))
    assert counts["edits"] == 6 and (root / "index.html").exists()


def test_links_lead_to_galleries_that_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the served folder, and nowhere else; names are quoted."""
    (tmp_path / "out/a b").mkdir(parents=True)
    (tmp_path / "out/a b/index.html").write_text("")
    assert report.gallery_link(OutputSpec(root=str(tmp_path / "out/a b"))) == ""
    monkeypatch.setenv(report.GALLERY_URL, "http://127.0.0.1:4201")
    monkeypatch.setenv(report.GALLERY_FOLDER, str(tmp_path / "out"))
    assert report.gallery_link(OutputSpec(root=str(tmp_path / "out/a b"))) == "http://127.0.0.1:4201/a%20b/index.html"
    for other in (
        OutputSpec(root=str(tmp_path)),
        OutputSpec(root="s3://b/out"),
        OutputSpec(root=str(tmp_path / "out/c")),
    ):
        assert report.gallery_link(other) == ""
