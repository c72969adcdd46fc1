"""What of the environment decides, and what does not; and that no module is imported from where one stands."""

import os
import subprocess
import sys
import urllib.error
from pathlib import Path

import httpx
import pytest
import requests

from pikavae.data.shards.workers import map_in_processes
from pikavae.errors import UserError
from pikavae.operations.running import supervision
from pikavae.process.servers import Server
from pikavae.process.surroundings import ask, tidy
from pikavae.tracker.checkout import git_tags
from pikavae.tracker.client import Workspace
from pikavae.workspace.home import home
from tests.support.answering import answering

PROXY = "http://127.0.0.1:9"  # nobody listens there
LOCAL = ("127.0.0.1", "localhost", "[::1]")


def asked_by(client, address):
    """Whether a client gets an answer to its question."""
    try:
        if client == "httpx":
            with httpx.Client() as one:
                return one.get(address).status_code == 200
        if client == "requests":
            return requests.get(address, timeout=10).status_code == 200
        ask(address, 10.0)
    except (httpx.HTTPError, requests.RequestException, urllib.error.URLError):
        return False
    return True


@pytest.mark.parametrize("client", ["httpx", "requests", "urllib"])
@pytest.mark.parametrize(
    "variables",
    [
        {"http_proxy": PROXY},
        {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY},
        {"all_proxy": PROXY, "no_proxy": "example.org"},
        {"ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": ""},
        {"all_proxy": "socks://127.0.0.1:9/"},
        {"ALL_PROXY": "socks4a://127.0.0.1:9", "http_proxy": "127.0.0.1:9"},
        {"http_proxy": "http://proxy:none"},
        {"http_proxy": PROXY, "SSL_CERT_FILE": "/no/such/file.pem"},
    ],
    ids=" ".join,
)
def test_this_machine_is_asked_without_a_proxy(monkeypatch, client, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tidy()
    for host in LOCAL:
        with answering(host) as port:
            assert asked_by(client, f"http://{host}:{port}/health"), host


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
@pytest.mark.parametrize("client", ["httpx", "requests"])
def test_other_hosts_keep_the_users_proxy(monkeypatch, client, name):
    with answering("127.0.0.1") as port:  # as a proxy it answers for everybody
        monkeypatch.setenv(name, f"127.0.0.1:{port}" if client == "httpx" else f"http://127.0.0.1:{port}")
        tidy()
        assert asked_by(client, "http://pictures.invalid/a.png")


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ("socks://proxy.example:1080", "socks5://proxy.example:1080"),
        ("SOCKS://proxy.example", "socks5://proxy.example"),
        ("proxy.example:3128", "http://proxy.example:3128"),
    ],
)
def test_a_proxy_is_kept_as_every_client_understands_it(written, understood):
    variables = {"ALL_PROXY": written}
    tidy(variables)
    assert variables["ALL_PROXY"] == understood


def test_what_the_user_excludes_from_proxies_stays_excluded():
    variables = {"NO_PROXY": "intern.example, 10.0.0.0/8"}
    tidy(variables)
    tidy(variables)
    expected = "intern.example,10.0.0.0/8,127.0.0.1,localhost,::1"
    assert (variables["no_proxy"], variables["NO_PROXY"]) == (expected, expected)
    everything = {"no_proxy": "*"}
    tidy(everything)
    assert everything["no_proxy"] == "*"


LEFT_OVER = {
    "MLFLOW_RUN_ID": "0" * 32,
    "MLFLOW_EXPERIMENT_ID": "7",
    "MLFLOW_EXPERIMENT_NAME": "of somebody",
    "MLFLOW_REGISTRY_URI": "http://127.0.0.1:9",
    "MLFLOW_BACKEND_STORE_URI": "sqlite:////elsewhere.db",
    "MLFLOW_STATIC_PREFIX": "/mlflow",
    "MLFLOW_PORT": "80",
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
    "PYTHONINSPECT": "1",
    "PYTHONSTARTUP": "/no/such/file.py",
}
PROMISED = {
    "MLFLOW_TRACKING_URI": "http://tracking.example",
    "MLFLOW_TRACKING_TOKEN": "secret",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_S3_ENDPOINT_URL": "http://s3.example",
    "HF_HOME": "/cache",
    "HF_HUB_OFFLINE": "1",
    "HF_TOKEN": "secret",
    "CUDA_VISIBLE_DEVICES": "1",
    "OMP_NUM_THREADS": "3",
    "PIKAVAE_HOME": "/state",
}


def test_what_was_left_over_is_dropped_and_what_is_promised_stays():
    variables = {**LEFT_OVER, **PROMISED}
    tidy(variables)
    assert not LEFT_OVER.keys() & variables.keys()
    assert PROMISED.items() <= variables.items()


def test_a_relative_database_is_found_from_everywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    variables = {"MLFLOW_TRACKING_URI": "sqlite:///mine.db"}
    tidy(variables)
    assert variables["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mine.db"


LAUNCHED = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "PET_NNODES"]
LAUNCHED += ["ACCELERATE_USE_CPU", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "LOGLEVEL"]


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_training_is_not_taken_for_one_of_several_by_what_a_launcher_left(monkeypatch, name):
    monkeypatch.setenv(name, "4")
    assert name not in supervision._environment()


@pytest.fixture
def shadows(tmp_path, monkeypatch):
    """A working directory full of modules that must not be imported."""
    folder = tmp_path / "shadows"
    folder.mkdir()
    for name in ("random.py", "queue.py", "tasks.py", "flows.py", "mlflow.py", "uvicorn.py", "torch.py"):
        (folder / name).write_text("raise SystemExit('the wrong module')\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", ".")
    return folder


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["models", "list"]])
def test_the_command_runs_its_own_modules_wherever_one_stands(shadows, tmp_path, words):
    script = tmp_path / "pikavae"  # as pip makes it
    script.write_text("import sys\nfrom pikavae.entry import main\nsys.exit(main())\n")
    done = run(sys.executable, str(script), *words)
    assert "wrong module" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


def test_a_deleted_working_directory_is_refused_in_one_line(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    done = run(
        "sh", "-c", 'cd "$1" && rmdir "$1" && exec "$2" -m pikavae.entry --version', "sh", folder, sys.executable
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pikavae: the current folder was deleted; change to another and try again\n"


def test_children_run_our_modules_wherever_one_stands(shadows):
    tidy()
    names = "random.__file__, flows.cli.__file__, tasks.__path__"
    code = f"import random, queue, flows.cli, tasks, sys; print({names})"
    child = run(sys.executable, "-c", code)
    assert str(shadows) not in child.stdout
    assert child.returncode == 0, child.stderr
    assert f"{Path(__file__).parents[2]}/tasks" in child.stdout


def where_random_is(_job):
    import random

    return random.__file__


def test_workers_and_training_run_our_modules_wherever_one_stands(shadows):
    describe = str
    (found,) = map_in_processes(where_random_is, [0], begin=int, processes=1, max_bytes=2**30, describe=describe)
    assert str(shadows) not in found
    code = "import random, pikavae.training.worker; print(random.__file__)"
    child = subprocess.run(
        [sys.executable, "-P", "-c", code], env=supervision._environment(), capture_output=True, text=True, check=True
    )
    assert str(shadows) not in child.stdout


def test_servers_stand_where_no_modules_are(shadows, tmp_path):
    log = tmp_path / "log"
    code = "import os; print(os.getcwd(), os.environ['PYTHONSAFEPATH'])"
    Server.start("x", [sys.executable, "-c", code], {"PYTHONPATH": ""}, tmp_path / "home", log).process.wait(30)
    assert log.read_text().split() == [str(tmp_path / "home"), "1"]


@pytest.mark.parametrize("variables", [{"PYTHONOPTIMIZE": "2"}, {"PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "1"}])
def test_python_runs_the_command_as_if_nothing_were_set(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = run(sys.executable, "-m", "pikavae.entry", "--help")
    assert done.returncode == 0, done.stderr
    assert "  Decode, scale, check and split the pictures." in done.stdout


def test_a_git_hook_does_not_name_the_commit(monkeypatch, tmp_path):
    before = git_tags(Path(__file__).parents[2])
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    assert git_tags(Path(__file__).parents[2]) == before


@pytest.mark.parametrize("name", ["a?b", os.fsdecode(b"a\xff")])
def test_a_home_that_no_database_can_lie_in_is_refused_in_one_line(monkeypatch, tmp_path, name):
    monkeypatch.setenv("PIKAVAE_HOME", str(tmp_path / name / "home"))
    with pytest.raises(UserError, match=r"PIKAVAE_HOME .*rename that folder") as refused:
        home()
    str(refused.value).encode()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a#b", "50%20", "a%(x)s", "ä-日本", "it's"])
def test_a_home_of_any_other_name_holds_its_database_and_its_files(monkeypatch, tmp_path, name):
    from pikavae.tracker import run_log

    place = tmp_path / name / "home"
    monkeypatch.setenv("PIKAVAE_HOME", str(place))
    client = Workspace(home()).client
    run = run_log.RunLog.start(client, Workspace(home()).experiment_id("x"), "x", tags={}, params={})
    run.log_text("hello", "note.txt")
    assert Path(client.download_artifacts(run.run_id, "note.txt")).read_text() == "hello"
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert (place / "mlflow.db").stat().st_size > 0
