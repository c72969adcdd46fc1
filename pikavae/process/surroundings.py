"""Remove the variables that other tools left in the environment, and bypass proxies for addresses of this machine.

The variables that count are documented: PIKAVAE_HOME, PIKAVAE_AUTH_FILE, PIKAVAE_NOTIFY_URLS, PIKAVAE_NOTIFY_SECRET,
PIKAVAE_SWEEPS_URL, MLFLOW_TRACKING_URI, PREFECT_HOME, PREFECT_API_URL, HF_HOME and the like, CUDA_VISIBLE_DEVICES, and
OMP_NUM_THREADS, which torch follows.
"""

from __future__ import annotations

import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
"""The folder that contains the package pikavae: a checkout, or the folder of installed packages."""
NAMES = Path(__file__).resolve().parents[1] / "_names"

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
PROXY_SCHEMES = {"http", "https", "socks5", "socks5h"}
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

PYTHON_LEFTOVERS = ("PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONDEVMODE")
"""Variables that change how Python runs a program: -O removes checks and the texts of `--help`, warnings become
errors."""
MLFLOW_KEPT = (
    "MLFLOW_TRACKING_",
    "MLFLOW_HTTP_",
    "MLFLOW_S3_",
    "MLFLOW_GCS_",
    "MLFLOW_BOTO_",
    "MLFLOW_KERBEROS_",
    "MLFLOW_MYSQL_",
    "MLFLOW_SQLALCHEMYSTORE_",
    "MLFLOW_ARTIFACT_",
    "MLFLOW_MULTIPART_",
    "MLFLOW_ENABLE_MULTIPART_",
    "MLFLOW_ENABLE_PROXY_MULTIPART_",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
    "MLFLOW_DISABLE_TELEMETRY",
    "MLFLOW_LOGGING_LEVEL",
)
"""Prefixes of MLflow's variables that say how to reach a store. All others name runs, experiments, registries and ports
of other work."""
LAUNCHER_LEFTOVERS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "LOGLEVEL"),
)
LAUNCHER_PREFIXES = ("ROLE_", "TORCHELASTIC_", "PET_", "ACCELERATE_", "FSDP_", "OMPI_", "PMI_", "PMIX_", "MV2_", "CCL_")
"""Prefixes of variables by which torchrun, accelerate and MPI mark a process as one of several."""


def tidy(environment: MutableMapping[str, str] | None = None) -> None:
    """Remove what other tools left, and prepare the rest for child processes. Call it before anything reads it.

    Args:
        environment: the variables to change in place; by default those of this process.
    """
    variables = os.environ if environment is None else environment
    for name in [name for name in variables if name in PYTHON_LEFTOVERS or _is_of_mlflow(name)]:
        del variables[name]
    if (address := variables.get("MLFLOW_TRACKING_URI", "")).startswith("sqlite:///") and ":memory:" not in address:
        path = Path(address.removeprefix("sqlite:///"))
        variables["MLFLOW_TRACKING_URI"] = f"sqlite:///{path.absolute()}"  # servers and workers run in other folders
    for name in CERTIFICATES:  # conda leaves them behind
        if (named := variables.get(name)) and not Path(named).exists():
            del variables[name]
    spare_loopback(variables)
    variables["PYTHONSAFEPATH"] = "1"  # nothing is imported from the working directory
    variables["PYTHONPATH"] = os.pathsep.join([str(NAMES), *_python_path(variables)])


def spare_loopback(variables: MutableMapping[str, str]) -> None:
    """Exempt this machine from the user's proxies, which remain for all other hosts.

    A proxy of an unknown kind is removed, because httpx would then refuse every address, also those of this machine.
    """
    for name in [*PROXIES, *map(str.upper, PROXIES)]:
        if value := variables.get(name, "").strip():
            known = _known_proxy(value)
            if known is None:
                logger.warning("%s: not a proxy that can be used (http, https, socks5); it is ignored", name)
                del variables[name]
            else:
                variables[name] = known
    spare_hosts(variables, *LOOPBACK)


def spare_hosts(variables: MutableMapping[str, str], *spared: str) -> None:
    """Exempt hosts from the user's proxies."""
    lower, upper = variables.get("no_proxy"), variables.get("NO_PROXY")
    for name, hosts in (("no_proxy", lower or upper or ""), ("NO_PROXY", upper or lower or "")):
        listed = [host.strip() for host in hosts.split(",") if host.strip()]
        if "*" not in listed:
            variables[name] = ",".join([*listed, *(host for host in spared if host not in listed)])


def ask(address: str, seconds: float) -> None:
    """Check that a server answers, without a proxy if it is on this machine: urllib would use one for `[::1]`.

    Raises:
        OSError: it does not answer, or (`urllib.error.HTTPError`) refuses.
        ValueError: `address` is not an address.
    """
    direct = [urllib.request.ProxyHandler({})] if urlsplit(address).hostname in LOOPBACK else []
    urllib.request.build_opener(*direct).open(address, timeout=seconds).close()


def why_no_answer(address: str, seconds: float) -> str | None:
    """Return why the page `health` of a server does not answer; None if something answers, whatever it says."""
    try:
        ask(f"{address.rstrip('/')}/health", seconds)
    except urllib.error.HTTPError as error:
        error.close()  # the first call shows if it is the right server
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables by which a launcher such as torchrun names its processes."""
    return {
        name: value
        for name, value in environment.items()
        if name not in LAUNCHER_LEFTOVERS and not name.startswith(LAUNCHER_PREFIXES)
    }


def child_path() -> str:
    """Return the PYTHONPATH with which a child imports what this process imports, without the working directory."""
    found = _without_working_directory(entry for entry in sys.path if entry)
    return os.pathsep.join(found if str(ROOT) in found else [*found, str(ROOT)])


def _is_of_mlflow(name: str) -> bool:
    return name.startswith(("MLFLOW_", "_MLFLOW_")) and not name.startswith(MLFLOW_KEPT)


def _known_proxy(value: str) -> str | None:
    """Return the proxy in a form that every client understands; None if it is not usable."""
    address = value if "://" in value else f"http://{value}"
    scheme, rest = address.split("://", 1)
    scheme = {"socks": "socks5"}.get(scheme.lower(), scheme.lower())  # as desktops write it
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        usable = scheme in PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return f"{scheme}://{rest}" if usable else None


def _python_path(variables: Mapping[str, str]) -> list[str]:
    """Return the entries of PYTHONPATH for child processes, with the checkout that contains pikavae."""
    named = [entry for entry in variables.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != str(NAMES)]
    kept = _without_working_directory(named)
    return kept if str(ROOT) in kept or not (ROOT / "pyproject.toml").is_file() else [*kept, str(ROOT)]


def _without_working_directory(entries: Iterable[str]) -> list[str]:
    """Return the entries of a path, absolute, without the working directory unless pikavae is there."""
    here = Path.cwd()
    folders = [Path(entry).absolute() for entry in entries]
    return [str(folder) for folder in folders if folder.resolve() != here or here == ROOT]
