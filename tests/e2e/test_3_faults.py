"""What breaks comes back by itself or is named in one message, and the next run makes it good.

Every test leaves a whole classroom behind, and makes one first when it runs alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import psycopg2
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from conftest import REPOSITORY, Classroom, Run, remove
from waiting import bound, classroom_ports, wait_until

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812
    from types_boto3_iam import IAMClient

POSTGRES = "mlflow-classroom-postgres"
STORE = ("mlflow-classroom-object-store", "mlflow-classroom-s3")
SERVER = "mlflow-jdoe"
BUCKET = "mlflow-exp-tracking-jdoe"
WHO = ("-e", "user=jdoe")
CONVERGE = ("site.yml", *WHO, "--tags", "backend,provision")
pytestmark = pytest.mark.long
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


@pytest.fixture(scope="module", autouse=True)
def jdoe(classroom: Classroom) -> None:
    """Provide jdoe, unless an earlier test did."""
    if os.geteuid() == 0 and Path("/run/systemd/system").is_dir():
        pytest.skip("these faults are made through supervisord; here systemd runs the services")
    if not classroom.home.joinpath("handouts/jdoe/mlflow.env").is_file():
        classroom.play("site.yml", *WHO)


def control(room: Classroom, *words: str) -> str:
    """Return what supervisorctl says."""
    done = subprocess.run(
        [
            next(room.home.glob("runtime-*/bin/supervisorctl")),
            *("-c", room.home / "supervisor/supervisord.conf", *words),
        ],
        stdout=subprocess.PIPE,
        text=True,
        timeout=bound(12),
        check=False,
    )
    return done.stdout.strip()


def pids(room: Classroom, services: tuple[str, ...]) -> dict[str, int]:
    """Return the process of each service, 0 for one that is down."""
    said = {service: control(room, "pid", service) for service in services}
    return {service: int(text) if text.isdigit() else 0 for service, text in said.items()}


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the command's closing bracket: state and parent.
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                child = int(status.parent.name)
                found += [child, *descendants(child)]
    return found


def exists(pid: int) -> bool:
    """Tell whether a process is there and has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def call(room: Classroom, route: str, **body: Any) -> dict[str, Any]:
    """Return the tracking server's answer."""
    address = room.handout("jdoe")["MLFLOW_TRACKING_URI"]
    answer = requests.post(f"{address}/api/2.0/mlflow/{route}", json=body, timeout=bound(5))
    answer.raise_for_status()
    document: dict[str, Any] = answer.json()
    return document


def serves(room: Classroom) -> bool:
    """Tell whether the tracking server answers from its database, and the object store at all."""
    try:
        call(room, "experiments/search", max_results=1)
        address = f"http://127.0.0.1:{room.ports['classroom_s3_port']}/{BUCKET}"
        return requests.get(address, timeout=bound(1)).status_code == requests.codes.forbidden
    except requests.RequestException:
        return False


def run_ids(room: Classroom) -> set[str]:
    """Return every run of jdoe that the tracking server has acknowledged."""
    experiments = call(room, "experiments/search", max_results=100)["experiments"]
    ids = [each["experiment_id"] for each in experiments]
    found = call(room, "runs/search", experiment_ids=ids, max_results=1000)
    return {run["info"]["run_id"] for run in found.get("runs", [])}


def open_database(room: Classroom, database: str) -> Connection:
    """Open a session as the administrator."""
    session = psycopg2.connect(
        host="127.0.0.1",
        port=room.ports["classroom_postgres_port"],
        dbname=database,
        user="classroom",
        password=room.secret("postgres-admin"),
    )
    session.autocommit = True
    return session


def ask(room: Classroom, database: str, statement: str, *values: object) -> list[Any]:
    """Return the first column of a statement's rows, none for one that has no rows."""
    with closing(open_database(room, database)) as session, session.cursor() as cursor:
        cursor.execute(statement, values or None)
        return [row[0] for row in cursor.fetchall()] if cursor.description else []


def administer_keys(room: Classroom) -> IAMClient:
    """Return the store's administrator."""
    certificate = str(room.home / "object-store/tls.pem")
    return boto3.client(
        "iam",
        endpoint_url=f"https://127.0.0.1:{room.ports['classroom_s3_admin_port']}",
        region_name="us-east-2",
        aws_access_key_id=room.secret("s3-admin-key"),
        aws_secret_access_key=room.secret("s3-admin-secret"),
        verify=certificate,
        config=Config(client_cert=certificate),
    )


def keys(room: Classroom) -> list[str]:
    """Return the ids of jdoe's access keys as the store knows them."""
    listed = administer_keys(room).list_access_keys(UserName=BUCKET)
    return [key["AccessKeyId"] for key in listed["AccessKeyMetadata"]]


def verify(room: Classroom) -> Run:
    """Look from outside at server, tables and objects of every run."""
    return room.play("playbooks/verify.yml", *WHO)


def message(run: Run) -> str:
    """Return the message of a refusal, which is the last but the counts."""
    said: str = run.output.rstrip().split("\n\n")[-2]
    return " ".join(said.split())


# --- Killed -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "services", [(POSTGRES,), STORE, (SERVER,)], ids=["PostgreSQL", "object store", "MLflow"]
)
def test_killed_service_comes_back_by_itself(
    classroom: Classroom, services: tuple[str, ...]
) -> None:
    known = run_ids(classroom)
    killed = pids(classroom, services)
    # The signal would go to these tests themselves otherwise.
    assert all(killed.values()), f"down before the test: {killed}"
    # MLflow's child keeps the port and answers until it is ended, too.
    orphans = [child for pid in killed.values() for child in descendants(pid)]
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: all(
            pid not in (0, killed[name]) for name, pid in pids(classroom, services).items()
        ),
        f"{services} to run again",
        6,
    )
    wait_until(lambda: not any(map(exists, orphans)), "the children of the killed to end", 6)
    wait_until(lambda: serves(classroom), "server and store to answer", 12)
    assert run_ids(classroom) == known
    verify(classroom)


def test_killed_supervisor_is_replaced_and_takes_its_orphans_over(classroom: Classroom) -> None:
    everything = (POSTGRES, *STORE, SERVER)
    known, orphans = run_ids(classroom), pids(classroom, everything)
    assert all(orphans.values())
    os.kill(int(control(classroom, "pid")), signal.SIGKILL)
    classroom.play(*CONVERGE)
    assert all(pids(classroom, everything).values())
    assert [name for name, pid in orphans.items() if exists(pid)] == []
    assert run_ids(classroom) == known
    verify(classroom)


# --- Down, refused, drifted ---------------------------------------------------------------------


def test_each_store_that_is_down_is_named_and_the_next_run_starts_it(classroom: Classroom) -> None:
    ports = classroom.ports
    control(classroom, "stop", POSTGRES, *STORE)
    run = classroom.play("playbooks/provision.yml", *WHO, fails=True)
    said = message(run)
    assert f"PostgreSQL at 127.0.0.1:{ports['classroom_postgres_port']} does not serve its" in said
    assert "Connection refused. Next: start it, then run the same command again." in said
    assert "ansible-playbook playbooks/backend.yml -e user=jdoe" in said

    control(classroom, "start", POSTGRES)
    run = classroom.play("playbooks/provision.yml", *WHO, fails=True)
    said = message(run)
    address = f"https://127.0.0.1:{ports['classroom_s3_admin_port']}"
    assert f"The S3 server at {address} does not answer: " in said
    assert "Next: start it, then run the same command again." in said

    classroom.play("playbooks/backend.yml", *WHO)
    assert classroom.play("playbooks/provision.yml", *WHO).changed == 0
    verify(classroom)


def test_wrong_password_of_the_administrator_is_named_with_its_file(classroom: Classroom) -> None:
    file = classroom.home / "secrets/postgres-admin"
    right = file.read_text()
    file.write_text("0123456789" * 4)
    try:
        run = classroom.play("playbooks/provision.yml", *WHO, fails=True)
    finally:
        file.write_text(right)
    assert 'its administrator "classroom": password authentication failed' in message(run)
    assert f"Next: put the right password back into {file}, then run" in message(run)
    assert run.changed == 0
    assert classroom.play("playbooks/provision.yml", *WHO).changed == 0


def test_drifted_password_and_lost_key_are_made_good(classroom: Classroom) -> None:
    ask(classroom, "postgres", "alter role mlflow_jdoe password 'changed by hand'")
    saved, _ = classroom.credentials("jdoe")
    administrator = administer_keys(classroom)
    administrator.create_access_key(UserName=BUCKET)
    administrator.delete_access_key(UserName=BUCKET, AccessKeyId=saved)
    classroom.play("playbooks/provision.yml", *WHO)
    renewed, _ = classroom.credentials("jdoe")
    assert renewed != saved
    assert keys(classroom) == [renewed]
    assert classroom.handout("jdoe")["AWS_ACCESS_KEY_ID"] == renewed
    verify(classroom)
    assert classroom.play("playbooks/provision.yml", *WHO).changed == 0


def test_foreign_key_is_taken_away_and_the_saved_one_stays(classroom: Classroom) -> None:
    saved, _ = classroom.credentials("jdoe")
    administer_keys(classroom).create_access_key(UserName=BUCKET)
    assert len(keys(classroom)) == 2
    assert classroom.play("playbooks/provision.yml", *WHO).changed == 1
    assert keys(classroom) == [saved]


def test_schema_of_a_newer_mlflow_is_refused_and_left_alone(classroom: Classroom) -> None:
    [known] = ask(classroom, "mlflow_jdoe", "select version_num from alembic_version")
    update = "update alembic_version set version_num = %s"
    ask(classroom, "mlflow_jdoe", update, "fedcba987654")
    try:
        run = classroom.play("playbooks/provision.yml", *WHO, fails=True)
        left = ask(classroom, "mlflow_jdoe", "select version_num from alembic_version")
    finally:
        ask(classroom, "mlflow_jdoe", update, known)
    assert (
        "The database mlflow_jdoe has schema revision fedcba987654, which this MLflow"
        in message(run)
    )
    assert "Nothing was changed. Update this project to the newer MLflow (git pull)" in message(run)
    assert left == ["fedcba987654"]
    assert classroom.play("playbooks/provision.yml", *WHO).changed == 0


def test_port_taken_while_the_server_was_down_is_named(classroom: Classroom) -> None:
    port = int(classroom.handout("jdoe")["MLFLOW_TRACKING_URI"].rpartition(":")[2])
    control(classroom, "stop", SERVER)
    with socket.socket() as intruder:
        intruder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        intruder.bind(("127.0.0.1", port))
        intruder.listen()
        run = classroom.play(*CONVERGE, fails=True)
    text = f"port {port} (the tracking server of jdoe) is taken by pid {os.getpid()} "
    assert text in run.flat()
    assert "choose another port: -e mlflow_server_port=" in run.flat()
    assert run.changed == 0
    classroom.play("playbooks/provision.yml", *WHO)
    verify(classroom)


# --- Disk ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[None]:
    """Mount a disk of some megabytes at a directory."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@root_only
def test_disk_that_is_too_small_is_refused_beforehand(classroom: Classroom, tmp_path: Path) -> None:
    room = Classroom(tmp_path / "disk", classroom_ports(), classroom.venv)
    with small_disk(room.home, 100):
        run = room.play("site.yml", *WHO, fails=True)
        assert list(room.home.iterdir()) == []
    assert f"{room.home} (programs, databases and artifacts) has 10" in run.flat()
    assert "MB free and needs 3000 MB; make room, or choose another directory" in run.flat()
    assert run.changed == 0


# --- The run itself is killed -------------------------------------------------------------------

TABLES = (
    "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
)
DATABASES = "select datname from pg_database"

# What is run, what is there when it is killed (never before in this classroom), and whether the
# processes that the run has started die with it or live on beside the next run.
MOMENTS: list[tuple[str, Callable[[Classroom], bool], bool]] = [
    ("site.yml", lambda room: any(room.home.glob("postgres/data*/base")), True),
    ("site.yml", lambda room: len(ask(room, "classroom_template", TABLES)) > 5, True),
    ("site.yml", lambda room: len(ask(room, "classroom_template", TABLES)) > 40, False),
    ("site.yml", lambda room: "mlflow_jdoe" in ask(room, "postgres", DATABASES), True),
    ("playbooks/provision.yml", lambda room: len(keys(room)) > 0, True),
    ("playbooks/provision.yml", lambda room: pids(room, (SERVER,))[SERVER] > 0, True),
    ("playbooks/train.yml", lambda room: len(run_ids(room)) > 0, True),
]
NOT_YET = (OSError, psycopg2.Error, BotoCoreError, ClientError)


def kill_during(
    room: Classroom, playbook: str, reached: Callable[[Classroom], bool], whole: bool
) -> None:
    """Start a playbook and kill it at the moment at which something is reached."""
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            room.command(playbook, *WHO),
            cwd=REPOSITORY,
            env=room.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        there = False
        while not there:
            with contextlib.suppress(*NOT_YET):
                there = reached(room)
            if process.poll() is not None:
                output.seek(0)
                pytest.fail(f"it ended before it could be killed:\n{output.read()[-5000:]}")
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGSTOP)
        # Each task runs in a session of its own, so the process group would not be enough.
        for pid in [process.pid, *(descendants(process.pid) if whole else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def fresh(classroom: Classroom) -> Iterator[Classroom]:
    """Give a second classroom that has the first one's programs and nothing else."""
    home = classroom.home.with_name(classroom.home.name + "-killed")
    room = Classroom(home, classroom_ports(), classroom.venv)
    room.home.mkdir()
    runtime = next(classroom.home.glob("runtime-*"))
    room.home.joinpath(runtime.name).symlink_to(runtime)
    yield room
    remove(room)


def test_run_that_is_killed_again_and_again_converges(fresh: Classroom) -> None:
    for moment in MOMENTS:
        kill_during(fresh, *moment)
    run = fresh.play("site.yml", *WHO)
    assert "verdict pass" in run.flat()
    assert fresh.play(*CONVERGE).changed == 0
    saved, _ = fresh.credentials("jdoe")
    assert keys(fresh) == [saved]
    assert not fresh.home.joinpath("postgres/data.new").exists()
    [stamp] = ask(
        fresh,
        "postgres",
        "select shobj_description(oid, 'pg_database') from pg_database where not datallowconn"
        " and datname = 'classroom_template'",
    )
    [revision] = ask(fresh, "mlflow_jdoe", "select version_num from alembic_version")
    assert stamp.endswith(f" revision {revision}")
    left = [path for path in fresh.home.joinpath("secrets").rglob("*") if path.suffix == ".new"]
    assert left == []
