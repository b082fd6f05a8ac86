"""What Weights & Biases is told, and that a run ends well whatever becomes of it. Nothing here leaves this machine."""

import contextlib
import functools
import http.server
import json
import re
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from common import track
from common.claims import Claim
from common.files import read_rows
from tests.start import Started, finish, here, processes, record, until

KEY = "0123456789" * 4


@pytest.fixture
def environment(tmp_path):
    """Of a user who has not logged in to W&B."""
    return {"WANDB_MODE": "", "WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "no-netrc")}


@pytest.fixture
def argv(tmp_path, toy_data):
    return "headline", "--seed", "3", "--data-dir", toy_data, "--out", tmp_path / "runs"


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "runs" / "toy" / "headline" / "seed3"


def logged(directory: Path) -> list[dict]:
    """The rows of metrics.jsonl as W&B should have them."""
    rows = [{k: v for k, v in row.items() if k != "time"} for row in read_rows(directory / "metrics.jsonl")]
    return [{**row, "claims/test_error/paper": 20.0} for row in rows]


def directories(directory: Path) -> list[str]:
    """wandb's directories of runs, without the time in their names."""
    return sorted(re.sub(r"\d{8}_\d{6}-", "", path.name) for path in directory.glob("wandb/*run-*-*"))


def wandb_id(directory: Path) -> str:
    return json.loads((directory / "config.json").read_text())["wandb_id"]


def stored(directory: Path) -> tuple[Any, list[dict], dict]:
    """What the one .wandb file holds."""
    (path,) = directory.glob("wandb/*run-*-*/run-*.wandb")
    return entries(path)


def entries(path: Path) -> tuple[Any, list[dict], dict]:
    """A .wandb file, a log as LevelDB has them: (its run record, rows of the history but for figures', last summary)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    run, history, summary = None, [], {}
    while at + 7 <= len(data):
        if -at % 2**15 < 7:  # no header fits in the rest of the block
            at += -at % 2**15
        _, size, kind = struct.unpack_from("<IHB", data, at)
        at, parts = at + 7 + size, parts + data[at + 7 : at + 7 + size]
        if kind in (1, 4):  # whole, or the last part
            entry, parts = Record.FromString(parts), b""
            items = [*entry.history.item, *entry.summary.update]
            values = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
            if entry.WhichOneof("record_type") == "run":
                run = entry.run
            elif entry.WhichOneof("record_type") == "summary":
                summary |= values
            elif entry.WhichOneof("record_type") == "history":
                history.append(values)
    return run, curve(history), summary


def curve(history: list[dict]) -> list[dict]:
    """Without wandb's own columns, and without the figures."""
    rows = [{k: v for k, v in row.items() if not k.startswith("_")} for row in history]
    return [row for row in rows if not any(k.startswith("figures/") for k in row)]


def ends_soon(run: Started, after: str, seconds: float) -> None:
    until(lambda: not run.alive or after in run.output())
    began = time.monotonic()
    assert run.wait() == 0, run.output()
    assert time.monotonic() - began < seconds


def test_offline(tmp_path, argv, directory, environment):
    """One offline run of two processes holds configuration, curve, the paper's flat line, and the claims."""
    finish(processes(2, tmp_path / "log", "tests.toy.train", *argv, **environment | {"WANDB_MODE": "offline"}))

    assert directories(directory) == [f"offline-run-{wandb_id(directory)}"]
    run, history, summary = stored(directory)
    assert (run.project, run.run_group, run.job_type) == ("paper-reproductions", "toy", "headline")
    assert (run.run_id, run.display_name) == (wandb_id(directory), "toy/headline/seed3")
    config = {item.key: json.loads(item.value_json) for item in run.config.update if item.key != "_wandb"}
    result = record(directory)
    assert config == {**result["config"], "seed": 3, "precision": result["precision"], "code": result["code"]}

    assert history == logged(directory)
    assert [row["step"] for row in history] == list(range(5, 41, 5))
    assert all(row.keys() >= {"train_loss", "test_error"} for row in history)
    ours = result["metrics"]["test_error"]
    claim = {"claims/test_error/paper": 20.0, "claims/test_error/ours": ours, "claims/test_error/difference": ours - 20.0}
    assert summary.items() >= (claim | result["metrics"]).items()
    assert "figures/curve" in {key.partition(".")[0] for key in summary}


@pytest.mark.slow
def test_killed_offline(tmp_path, argv, directory, environment):
    """A run killed and resumed is one offline run with every row once; started over it is another one."""
    again = functools.partial(Started, tmp_path / "log", "tests.toy.train", *argv, **environment | {"WANDB_MODE": "offline"})
    run = again("--steps", "200")
    until(lambda: not run.alive or len(read_rows(directory / "metrics.jsonl")) >= 3)
    run.kill(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    first = wandb_id(directory)
    assert directories(directory) == [f"offline-run-{first}"]

    resumed = again("--steps", "200")
    assert resumed.wait() == 0
    assert re.search(r"from step [1-9]", resumed.output())
    assert wandb_id(directory) == first
    assert directories(directory) == [f"offline-run-{first}"]
    history = stored(directory)[1]
    assert history == logged(directory)
    assert [row["step"] for row in history] == list(range(5, 201, 5))

    assert again("--restart").wait() == 0
    assert wandb_id(directory) != first
    assert directories(directory) == [f"offline-run-{wandb_id(directory)}"]


@pytest.mark.slow
def test_no_credentials(tmp_path, argv, directory, environment):
    """Without credentials a run asks for nothing and says how to upload it later."""
    run = Started(tmp_path / "log", "tests.toy.train", *argv, **environment)
    assert run.wait() == 0
    (path,) = directory.glob("wandb/offline-run-*")
    assert f"wandb sync {path}\n" in run.output()
    assert "cannot be reached" not in run.output()
    assert stored(directory)[1] == logged(directory)


class Server(http.server.ThreadingHTTPServer):
    """Enough of W&B's server to take a run. It answers so many requests and then falls silent, or refuses them all."""

    def __init__(self, answers: float = float("inf"), status: int = 200, known: dict | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.status, self.known = answers, status, known
        self.upserts: list[dict] = []
        self.history: list[dict] = []
        self.offset = -1
        self.closed = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def reply(self, asked: dict) -> dict:
        project = {"id": "p", "name": track.PROJECT, "entity": {"id": "e", "name": "me"}}
        if "wandb-history.jsonl" in asked.get("files", {}):
            lines = asked["files"]["wandb-history.jsonl"]
            self.offset = lines["offset"] if self.offset < 0 else self.offset
            self.history += map(json.loads, lines["content"])
        match asked.get("operationName"):
            case "RunResumeStatus":
                return {"data": {"model": {**project, "bucket": self.known}}}
            case "UpsertBucket":
                self.upserts.append(asked["variables"])
                bucket = {"id": "x", "name": asked["variables"]["name"], "displayName": "n", "config": "{}", "project": project}
                return {"data": {"upsertBucket": {"bucket": bucket, "inserted": self.known is None}}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in asked["variables"]["files"]]
                return {"data": {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}}
        return {"data": {}}

    def handle_error(self, *_) -> None: ...  # a client that hangs up


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.answers -= 1
        if self.server.answers < 0:
            self.close_connection = self.server.closed.wait(60)
            return
        asked = json.loads(body) if self.command == "POST" and body else {}
        reply = json.dumps(self.server.reply(asked) if self.server.status == 200 else {"errors": []}).encode()
        with contextlib.suppress(ConnectionError):
            self.send_response(self.server.status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

    do_GET = do_PUT = do_POST

    def log_message(self, *_) -> None: ...


@contextlib.contextmanager
def serving(**how):
    with Server(**how) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.closed.set()
        server.shutdown()


@pytest.mark.parametrize("network", ["nobody there", "silent", "unauthorized"])
@pytest.mark.slow
def test_no_network(network, tmp_path, argv, directory, environment):
    """Where W&B cannot be reached a run goes on offline soon, to a good end, and says so. The time-out here is 3 s, not 15."""
    with contextlib.ExitStack() as stack:
        if network == "nobody there":
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        else:
            url = stack.enter_context(serving(**{"silent": {"answers": 0}, "unauthorized": {"status": 401}}[network])).url
        run = Started(tmp_path / "log", "tests.impatient", *argv, **environment | {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": url})
        until(lambda: not run.alive or "wandb sync" in run.output(), 25)
        ends_soon(run, after="record  ", seconds=10)
    assert "W&B cannot be reached (" in run.output()
    assert f"wandb sync {directory}/wandb/offline-run-" in run.output()
    assert directories(directory) == [f"offline-run-{wandb_id(directory)}"]
    assert stored(directory)[1] == logged(directory)


@pytest.mark.slow
def test_online(tmp_path, argv, directory, environment):
    """A run whose server is ahead of its checkpoint sends only new rows. When the network goes away it does not wait for ever."""
    assert here("tests.toy.train", *argv)[0] == 0
    (directory / "result.json").unlink()
    for path in directory.glob("checkpoint/*"):
        path.unlink()
    bucket = {"id": "x", "name": wandb_id(directory), "displayName": "n", "config": "{}", "summaryMetrics": '{"step": 20}'}
    bucket |= {
        "wandbConfig": '{"t": 1}',
        "historyLineCount": 4,
        "eventsLineCount": 0,
        "logLineCount": 0,
        "eventsTail": "[]",
        "tags": [],
    }
    bucket |= {"historyTail": json.dumps([json.dumps({"_step": 3, "_runtime": 1, "step": 20})])}
    with serving(known=bucket) as server:
        environment |= {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        run = Started(tmp_path / "log", "tests.impatient", *argv, **environment)
        assert run.wait() == 0, run.output()
    assert "W&B shows this run at" in run.output()
    assert "wandb sync" not in run.output()
    about = [server.upserts[0][name] for name in ("project", "groupName", "jobType", "name", "displayName")]
    assert about == ["paper-reproductions", "toy", "headline", wandb_id(directory), "toy/headline/seed3"]
    assert server.offset == 4
    assert curve(server.history) == logged(directory)[4:]
    assert directories(directory) == [f"run-{wandb_id(directory)}"]

    with serving(answers=2) as server:  # as many as it takes to begin
        run = Started(tmp_path / "gone", "tests.impatient", *argv, "--restart", **environment | {"WANDB_BASE_URL": server.url})
        ends_soon(run, after="step 40/40", seconds=20)
    assert "W&B shows this run at" in run.output()
    assert f"wandb sync {directory}/wandb/run-" in run.output()
    assert stored(directory)[1] == logged(directory)


@pytest.mark.slow
def test_service_killed(tmp_path, argv, directory, environment):
    """A run outlives wandb's own process."""
    run = Started(tmp_path / "log", "tests.impatient", *argv, "--steps", "400", **environment | {"WANDB_MODE": "offline"})
    until(lambda: not run.alive or len(read_rows(directory / "metrics.jsonl")) >= 3)
    (service,) = [child for child in psutil.Process(run.process.pid).children() if child.name() == "wandb-core"]
    service.kill()
    assert run.wait() == 0, run.output()
    assert "W&B stopped (" in run.output()
    assert "Traceback" not in run.output()
    assert [row["step"] for row in logged(directory)] == list(range(5, 401, 5))


def test_without_wandb(tmp_path, argv, directory, environment, monkeypatch):
    """WANDB_MODE=disabled does not even import wandb; without the package a line says so."""
    run = Started(tmp_path / "log", "tests.impatient", *argv, **environment | {"WANDB_MODE": "disabled"})
    assert run.wait() == 0
    assert "wandb was not imported" in run.output()
    assert not (directory / "wandb").exists()

    monkeypatch.setitem(sys.modules, "wandb", None)  # what find_spec looks at first
    monkeypatch.delenv("WANDB_MODE")
    code, output = here("tests.toy.train", *argv, "--restart")
    assert (code, output.count("wandb is not installed")) == (0, 1)
    assert len(logged(directory)) == 8
    assert not (directory / "wandb").exists()


def test_names_tell_runs_apart(tmp_path, toy_data, environment, monkeypatch):
    """--beside: each of a sweep's runs has a folder and a name that say what it changes; the experiment's own keeps its place."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = ["headline", "--data-dir", toy_data, "--out", tmp_path, "--beside"]
    for lr in ("0.02", "0.01", "1e-5"):
        assert here("tests.toy.train", *flags, f"--lr={lr}")[0] == 0  # as wandb's agent writes it
    folder = tmp_path / "toy/headline"
    assert sorted(path.name for path in folder.iterdir()) == ["seed0", "seed0-lr=0.01", "seed0-lr=1e-05"]
    assert [stored(folder / name)[0].display_name for name in ("seed0", "seed0-lr=1e-05")] == [
        "toy/headline/seed0", "toy/headline/seed0 lr=1e-05"
    ]  # fmt: skip
    code, output = here("tests.toy.train", *flags, "--lr", "0.01")
    assert code == 0 and "finished before" in output
    code, output = here("tests.toy.train", *flags[:-1], "--lr", "0.01")
    assert code == 2 and "--beside or --out names another folder" in output


def test_a_sweeps_run_keeps_its_id(tmp_path, argv, directory, environment, monkeypatch):
    """wandb's agent says which run it is."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_ID", "agent123")
    assert here("tests.toy.train", *argv)[0] == 0
    assert wandb_id(directory) == stored(directory)[0].run_id == "agent123"


def test_claims_of_one_metric_have_keys_of_their_own():
    first, second, last = (Claim("accuracy", value, "%", at=at) for value, at in ((60, 1000), (70, 2000), (80, None)))
    record = {"metrics": {"accuracy": 75.0}, "curves": {"step": [0, 1500], "accuracy": [50, 65]}}
    assert track.flat([first, second, last]) == {
        "claims/accuracy@1000/paper": 60, "claims/accuracy@2000/paper": 70, "claims/accuracy/paper": 80
    }  # fmt: skip
    found = track.summary([first, second, last], record)
    assert (found["claims/accuracy@1000/ours"], found["claims/accuracy@1000/difference"]) == (60, 0)
    assert (found["claims/accuracy/ours"], found["claims/accuracy/difference"]) == (75, -5)
    assert "claims/accuracy@2000/ours" not in found and found["claims/accuracy@2000/paper"] == 70  # the curve ends before


def test_tensorboard(tmp_path, argv, directory):
    """--track tensorboard: the rows of metrics.jsonl, the paper's lines and the pictures, once, also of a run that was stopped."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def shown() -> EventAccumulator:
        (folder,) = {path.parent for path in directory.glob("tensorboard/**/events*")}
        events = EventAccumulator(str(folder))
        events.Reload()
        return events

    run = Started(tmp_path / "log", "tests.toy.train", *argv, "--track", "tensorboard", "--steps", "400")
    until(lambda: not run.alive or len(read_rows(directory / "metrics.jsonl")) >= 3)
    run.kill(signal.SIGKILL)
    run.wait()
    assert here("tests.toy.train", *argv, "--track", "tensorboard", "--steps", "400")[0] == 0
    events, rows = shown(), read_rows(directory / "metrics.jsonl")
    losses = events.Scalars("train_loss")
    assert [event.step for event in losses] == [row["step"] for row in rows]
    assert [event.value for event in losses] == pytest.approx([row["train_loss"] for row in rows])
    assert {event.value for event in events.Scalars("claims/test_error/paper")} == {20.0}
    assert events.Scalars("result/claims/test_error/ours")[0].value == pytest.approx(record(directory)["metrics"]["test_error"])
    assert events.Tags()["images"] == ["figures/curve"]
    assert not (directory / "wandb").exists()
