"""The image, as people and Kubernetes run it."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ci import oci
from raincast import __version__
from raincast.forecasting import forecast, model, writing
from raincast.observations import reading
from tests.conftest import ROOT, build_image, needs
from tests.container.engine import address, asked, docker, running
from tests.container.package_index import PASSWORD, required, running_index
from tests.integration.serving import ROW, body_of, eventually

IMAGE = "raincast:local"
HEALTH_CHECK = ("python", "-m", "raincast.serving.healthcheck")
SAMPLE = ROOT / "data" / "sample.csv"
# As Kubernetes runs it with Pod Security `restricted`, for a user that the image does not know.
LOCKED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=48151:62342", "--network=none")


pytestmark = pytest.mark.usefixtures("image_folder")


@pytest.fixture(name="expected", scope="module")
def fixture_expected(trained: Path) -> list[dict[str, Any]]:
    """The forecasts for the bundled sample, made outside the image."""
    text = writing.render(forecast.forecast(model.load(trained), reading.read(SAMPLE)), "csv").decode()
    return list(csv.DictReader(io.StringIO(text)))


def inspected(name: str, template: str) -> Any:
    """Return a part of the engine's description of a container or image."""
    done = docker("inspect", "--format", f"{{{{json {template}}}}}", name)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def buildah(*arguments: str) -> str:
    """Run a command of buildah and return what it prints."""
    return subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("flags", [(), LOCKED], ids=["plain", "locked"])
def test_without_arguments_it_forecasts_the_sample_as_a_table(flags: tuple[str, ...], expected: Any) -> None:
    done = docker("run", "--rm", *flags, IMAGE)
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr) == (0, b"")
    assert lines[0].split()[:2] == ["Date", "Location"]
    assert [line.split()[1] for line in lines[-49:]] == [row["Location"] for row in expected]


@pytest.mark.parametrize("flags", [(), LOCKED], ids=["plain", "locked"])
def test_standard_input_gives_csv(flags: tuple[str, ...], expected: Any) -> None:
    done = docker("run", "--rm", "--interactive", *flags, IMAGE, "-", stdin=SAMPLE.read_bytes())
    assert done.returncode == 0, done.stderr
    assert list(csv.DictReader(io.StringIO(done.stdout.decode()))) == expected


def mounted(tmp_path: Path, mode: int = 0o777) -> Path:
    """Return a folder to mount, with the sample in it."""
    shutil.copy(SAMPLE, tmp_path / "in.csv")
    tmp_path.chmod(mode)
    return tmp_path


@pytest.mark.parametrize("flags", [(), (*LOCKED, "--tmpfs=/tmp")], ids=["plain", "locked"])
def test_a_file_in_a_mount_gives_parquet_there(flags: tuple[str, ...], tmp_path: Path, expected: Any) -> None:
    folder = mounted(tmp_path)
    done = docker("run", "--rm", *flags, f"--volume={folder}:/data", IMAGE, "/data/in.csv", "-o", "/data/out.parquet")
    assert done.returncode == 0, done.stderr
    with duckdb.connect() as database:
        query = "SELECT Location, probability_of_rain, rain_tomorrow FROM read_parquet(?)"
        rows = database.execute(query, [str(folder / "out.parquet")]).fetchall()
    assert rows == [(row["Location"], float(row["probability_of_rain"]), row["rain_tomorrow"]) for row in expected]
    assert {path.name for path in folder.iterdir()} == {"in.csv", "out.parquet"}


@pytest.mark.parametrize("flags", [(), LOCKED[:-1]], ids=["plain", "locked"])
def test_it_serves_and_stops(flags: tuple[str, ...], trained: Path) -> None:
    with running(IMAGE, "--publish=127.0.0.1::8080", *flags) as name:
        url = address(name)
        response = json.loads(eventually(lambda: asked(f"{url}/forecast", body_of([ROW]))))
        assert response["model"]["version"] == model.describe(trained)["version"]
        eventually(lambda: inspected(name, ".State.Health.Status") == "healthy")
        # The default grace period of `docker stop` is 10 s, of which the drain takes 5.
        assert docker("stop", name).returncode == 0
        state = inspected(name, ".State")
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
        lines = docker("logs", name).stdout.decode().splitlines()
        assert "/forecast" in [json.loads(line)["path"] for line in lines]


def test_it_is_unhealthy_if_the_service_does_not_respond() -> None:
    with running(IMAGE, arguments=("serve", "--port", "9000")) as name:
        eventually(lambda: docker("exec", name, *HEALTH_CHECK).returncode == 0)
        docker("pause", name)
        docker("unpause", name)
        assert b"/healthz: 200" in docker("exec", name, *HEALTH_CHECK).stdout
        # The container's command is a service, but nothing listens on its port.
        done = docker("exec", "--env=RAINCAST_PORT=1", name, "python", "-c", HEALTH_OF_ANOTHER_PORT)
        assert done.returncode == 1
        assert b"no response on port 1" in done.stdout


HEALTH_OF_ANOTHER_PORT = """
import pathlib, sys
from raincast.serving import healthcheck
pathlib.Path("/dev/shm/command").write_bytes(b"python\\0/app/prediction.py\\0serve\\0")
sys.exit(healthcheck.main(pathlib.Path("/dev/shm/command")))
"""


def test_a_container_that_forecasts_a_file_is_healthy(tmp_path: Path) -> None:
    folder = mounted(tmp_path)
    os.mkfifo(folder / "slow.csv")
    (folder / "slow.csv").chmod(0o666)
    with running(IMAGE, f"--volume={folder}:/data", arguments=("/data/slow.csv",)) as name:
        writer = eventually(lambda: writer_of(folder / "slow.csv"))
        assert docker("exec", name, *HEALTH_CHECK).returncode == 0
        docker("kill", "--signal=TERM", name)
        assert docker("wait", name).stdout.strip() == b"143"
        os.close(writer)


def writer_of(fifo: Path) -> int | None:
    """Open the writing end of a pipe; None while no process reads from it."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--no-such-flag",), 2, "unrecognized arguments: --no-such-flag"),
        (("/data/absent.csv",), 2, "/data/absent.csv: cannot be read: No such file or directory"),
        (("serve", "--port", "99999"), 2, "99999 is not a port"),
        (("in.csv", "-o", "/nowhere/out.csv"), 2, "/nowhere/out.csv: there is no such folder"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = docker("run", "--rm", IMAGE, *arguments)
    assert done.returncode == code
    assert said in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_a_mount_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = mounted(tmp_path)
    (folder / "in.csv").chmod(0o600)
    done = docker("run", "--rm", f"--volume={folder}:/data", IMAGE, "/data/in.csv")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().strip() == "prediction.py: /data/in.csv: cannot be read: Permission denied"


def test_a_mount_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = mounted(tmp_path, 0o755)
    done = docker("run", "--rm", f"--volume={folder}:/data", IMAGE, "/data/in.csv", "-o", "/data/out.csv")
    assert (done.returncode, done.stdout) == (1, b"")
    said = done.stderr.decode()
    assert "/data" in said and "Permission denied" in said and "user 65532" in said
    assert [path.name for path in folder.iterdir()] == ["in.csv"]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    folder = mounted(tmp_path)
    header, *rows = SAMPLE.read_text().splitlines(keepends=True)
    (folder / "in.csv").write_text(header + "".join(rows * 100))
    flags = ("--tmpfs=/data:size=4k,mode=1777", f"--volume={folder}:/in:ro")
    for suffix in ("csv", "json"):
        done = docker("run", "--rm", *flags, IMAGE, "/in/in.csv", "-o", f"/data/out.{suffix}")
        assert done.returncode == 1
        assert "No space left on device" in done.stderr.decode()
        assert "Traceback" not in done.stderr.decode()


def test_a_missing_folder_for_temporary_files_is_named(tmp_path: Path) -> None:
    folder = mounted(tmp_path)
    flags = (*LOCKED, f"--volume={folder}:/data")
    done = docker("run", "--rm", *flags, IMAGE, "/data/in.csv", "-o", "/data/out.parquet")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("prediction.py: No usable temporary directory found in ['/tmp', ")
    done = docker("run", "--rm", *flags, "--env=TMPDIR=/data", IMAGE, "/data/in.csv", "-o", "/data/out.parquet")
    assert done.returncode == 0, done.stderr


def test_its_labels_say_where_it_comes_from(base_image: str, trained: Path) -> None:
    labels = inspected(IMAGE, ".Config.Labels")
    about = model.describe(trained)
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = {
        "revision": revision.stdout.strip(),
        "version": __version__,
        "base.name": base_image,
        "licenses": "Apache-2.0",
    }
    assert labels.items() >= {f"org.opencontainers.image.{name}": value for name, value in expected.items()}.items()
    assert labels["org.opencontainers.image.base.digest"].startswith("sha256:")
    assert labels["raincast.model.version"] == about["version"]
    assert labels["raincast.model.sha256"] == about["files"]["model.onnx"]
    assert labels["raincast.data.sha256"] == about["data_sha256"]
    assert inspected(IMAGE, ".Architecture") == {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def test_it_runs_as_a_number_and_without_a_shell() -> None:
    assert inspected(IMAGE, ".Config.User") == "65532:65532"
    assert inspected(IMAGE, ".Config.StopSignal") == "SIGTERM"
    for words in (inspected(IMAGE, ".Config.Entrypoint"), inspected(IMAGE, ".Config.Healthcheck.Test")[1:]):
        assert words[0] == "python"


def test_the_bill_of_materials_lists_every_distribution(image_folder: Path, trained: Path) -> None:
    listing = "from importlib.metadata import distributions as d; print(*{f'{x.name}=={x.version}' for x in d()})"
    inside = docker("run", "--rm", "--entrypoint=python", IMAGE, "-c", listing).stdout.decode().split()
    packages = docker("run", "--rm", "--entrypoint=dpkg-query", IMAGE, "--show", "--showformat=${Package}==${Version} ")
    bill = json.loads((image_folder / "sbom.cdx.json").read_text())
    listed = {kind: set[str]() for kind in ("pypi", "deb", "")}
    for part in bill["components"]:
        kind = part.get("purl", "pkg:/").removeprefix("pkg:").split("/")[0]
        listed[kind].add(f"{part['name']}=={part['version']}")
    assert listed["pypi"] == {name.lower().replace("_", "-") for name in inside} != set()
    assert listed["deb"] == set(packages.stdout.decode().split()) != set()
    (trees,) = (part for part in bill["components"] if part["type"] == "machine-learning-model")
    assert trees["hashes"] == [{"alg": "SHA-256", "content": model.describe(trained)["files"]["model.onnx"]}]


def test_the_rooms_for_training_are_not_in_it() -> None:
    code = "import os; print(*sorted(name for name in os.listdir('/app/raincast') if '.' not in name))"
    rooms = docker("run", "--rm", "--entrypoint=python", IMAGE, "-c", code).stdout.decode().split()
    assert {"batch", "features", "forecasting", "observations", "serving"} <= set(rooms)
    assert not {"training", "lifecycle"} & set(rooms)


def test_nothing_in_it_trains_or_compiles() -> None:
    code = "import importlib.util as u, shutil; print([n for n in {names} if u.find_spec(n)], shutil.which('gcc'))"
    names = ["sklearn", "pandas", "joblib", "mlflow", "onnx", "matplotlib", "pytest", "tests"]
    done = docker("run", "--rm", "--entrypoint=python", IMAGE, "-c", code.format(names=names))
    assert done.stdout.decode().strip() == "[] None"


def test_everything_that_it_runs_is_compiled() -> None:
    code = (
        "import sys; sys.argv = ['prediction.py']; sys.path.insert(0, '/app')\n"
        "import prediction; from raincast.batch import forecast_files; from raincast.serving import server\n"
        "print([n for n, m in sys.modules.items() if getattr(m, '__cached__', None) and m.__file__.endswith('.py')\n"
        "       and n != 'prediction' and not __import__('os').path.exists(m.__cached__)])"
    )
    done = docker("run", "--rm", "--entrypoint=python", IMAGE, "-c", code)
    assert done.stdout.decode().strip() == "[]", done.stderr


def test_a_build_from_another_index_asks_only_it_and_gives_the_same_image_without_its_password(
    image_folder: Path, base_image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    needs("openssl")
    before = (image_folder / "files" / "manifest.json").read_bytes()
    for line in buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        if line.startswith("localhost/raincast/dependencies:"):
            buildah("rmi", "--force", line)
    time.sleep(1.1)
    with running_index(tmp_path) as index:
        certificates = subprocess.run(
            ["ci/certificates"], cwd=ROOT, env=os.environ | {"CA_FILE": str(index.authority)}, capture_output=True,
            text=True, check=True,
        ).stdout.strip()  # fmt: skip
        capfd.readouterr()
        build_image(base_image, PIP_INDEX_URL=index.url, SSL_CERT_FILE=certificates, PIP_CERT="")
        assert index.packages("pip") == required(ROOT / "requirements-serve.txt")
    assert (image_folder / "files" / "manifest.json").read_bytes() == before
    output = "".join(capfd.readouterr())
    assert "MB above the base" in output
    secret = PASSWORD.encode()
    assert PASSWORD not in output
    for document in (*image_folder.glob("*.json"), *(image_folder / "files").glob("*")):
        assert secret not in document.read_bytes()
    for member, content in oci.files(oci.layers(image_folder / "files")):
        assert not member.name.startswith("run/package-index/")
        assert content is None or secret not in content.read()
    for line in buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        if line.startswith("localhost/raincast"):
            assert PASSWORD not in buildah("inspect", "--type", "image", line)
