"""A module in a fork of the warm interpreter notices no difference, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ansible.constants as C  # noqa: N812  its usual name
import pytest
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader
from modules import PLUGINS
from waiting import bound, wait_until

SECRET = "Xk2vR8qLw0zN5tBd7yHs3mJf"
INTERPRETER = (
    f"{C.DEFAULT_EXECUTABLE} -c {shlex.quote(f'{shlex.quote(sys.executable)} && sleep 0')}"
)

Answer = tuple[int, bytes, bytes]


def payload(program: str) -> bytes:
    """Return a program as something that Ansible would send."""
    return f"# _ansiballz_main\n{textwrap.dedent(program)}".encode()


def connection(name: str) -> Any:
    """Return a connection as a task gets it."""
    connection_loader.add_directory(str(PLUGINS / "connection"))
    found = connection_loader.get(name, PlayContext())
    found.set_options()
    return found


def run(name: str, program: str, command: str = INTERPRETER) -> Answer:
    """Run a program over a connection, as a module."""
    answer: Answer = connection(name).exec_command(command, in_data=payload(program))
    return answer


def use(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Make a folder the private one of this run."""
    folder.mkdir(mode=0o700, parents=True)
    patch.setattr(C, "DEFAULT_LOCAL_TMP", str(folder))
    patch.setattr(C, "DEFAULT_MODULE_PATH", [str(PLUGINS / "modules")])
    return folder


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a run's folder that many tests use; its path is longer than a socket's may be."""
    with pytest.MonkeyPatch.context() as patch:
        yield use(tmp_path_factory.mktemp("shared") / ("folder-" * 20), patch)


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run's folder with nothing in it."""
    return use(tmp_path / "run", monkeypatch)


def server_of(folder: Path) -> int:
    """Return the process that serves a run: it has the log of the run as its output."""
    for entry in Path("/proc").glob("[0-9]*/fd/2"):
        with contextlib.suppress(OSError):
            if entry.readlink() == folder / "warm.log":
                return int(entry.parts[2])
    raise AssertionError("there is no server")


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and is not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


DESCRIBE = """
    import json, locale, os, resource, signal, stat, sys, threading
    import __main__
    files = [int(name) for name in os.listdir("/proc/self/fd")]
    files = [n for n in files if os.path.exists(f"/proc/self/fd/{n}") and os.get_inheritable(n)]
    print(json.dumps({
        "arguments": sys.argv,
        "program": [__name__, __file__, __main__.__dict__ is globals(), "load" in globals()],
        "input": sys.stdin.read(),
        "texts": [(f.encoding, f.errors, f.isatty()) for f in (sys.stdin, sys.stdout, sys.stderr)],
        "files": sorted(files),
        "pipes": [stat.S_ISFIFO(os.fstat(n).st_mode) for n in (1, 2)],
        "path": [p for p in sys.path if p],
        "directory": os.getcwd(),
        "umask": os.umask(0),
        "environment": {k: v for k, v in os.environ.items() if k not in ("_", "SHLVL", "OLDPWD")},
        "signals": [str(signal.getsignal(n)) for n in range(1, 32)],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "threads": [t.name for t in threading.enumerate()],
        "limits": [resource.getrlimit(n) for n in range(16)],
        "locale": locale.setlocale(locale.LC_ALL),
        "accounts": [os.getresuid(), os.getresgid(), os.getgroups(), os.nice(0)],
        "terminal": os.path.exists("/dev/tty") and os.ctermid(),
    }, sort_keys=True))
"""
PROGRAMS = {
    "exit code": "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)",
    "exit text": "import sys; sys.exit('a reason')",
    "exit at once": "import os; os._exit(7)",
    "last words": """
        import atexit, threading, time
        atexit.register(print, "at exit")
        threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
        print("end")
    """,
    "much": """
        import sys
        for n in range(20000):
            print(n, "o" * 50)
            print(n, "e" * 50, file=sys.stderr)
    """,
    "a child that speaks later": """
        import subprocess
        subprocess.Popen(["/bin/sh", "-c", "sleep 0.3; echo late"])
    """,
    "not text": "import os; os.write(1, bytes(range(256))); os.write(2, b'\\xff')",
    "children": """
        import signal, subprocess
        print(subprocess.run(["/bin/sh", "-c", "trap -p; ulimit -a; umask; exit 4"]).returncode)
        print(signal.getsignal(signal.SIGCHLD))
    """,
}


def test_a_program_finds_itself_in_the_same_place(shared_folder: Path) -> None:
    warm, ordinary = (json.loads(run(way, DESCRIBE)[1]) for way in ("warm", "local"))
    differing = {
        name: (warm[name], ordinary[name]) for name in warm if warm[name] != ordinary[name]
    }
    assert not differing


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_notices_no_difference(name: str, shared_folder: Path) -> None:
    assert run("warm", PROGRAMS[name]) == run("local", PROGRAMS[name])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_program_that_a_signal_ends(number: signal.Signals, shared_folder: Path) -> None:
    program = f"import os; print('lost'); os.kill(os.getpid(), {number})"
    code, stdout, stderr = run("warm", program)
    assert (code, stdout) == run("local", program)[:2]
    assert stderr.decode().strip() == signal.strsignal(number)


def test_an_exception_is_told(shared_folder: Path) -> None:
    code, _, stderr = run("warm", "raise ValueError('a reason')")
    assert code == 1
    assert stderr.decode().splitlines()[-1] == "ValueError: a reason"


def test_forks_differ_in_what_is_random(shared_folder: Path) -> None:
    program = (
        "import random, secrets, ssl, tempfile, uuid; print(random.random(), secrets.token_hex(), "
    )
    program += "ssl.RAND_bytes(8).hex(), next(tempfile._get_candidate_names()), uuid.uuid4())"
    first, second = (run("warm", program)[1].split() for _ in range(2))
    assert len(first) == 5
    assert not set(first) & set(second)


def test_calls_at_once(shared_folder: Path) -> None:
    def number(n: int) -> bytes:
        return run("warm", f"import time; time.sleep(0.05); print({n})")[1]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(number, range(64))) == [f"{n}\n".encode() for n in range(64)]


def test_first_calls_at_once(own_folder: Path, capfd: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: is_warm(), range(8)))
    assert "slower" not in "".join(capfd.readouterr())


def test_the_directory_is_the_connections(shared_folder: Path, tmp_path: Path) -> None:
    warm = connection("warm")
    warm.cwd = os.fsencode(tmp_path)
    answer = warm.exec_command(INTERPRETER, in_data=payload("import os; print(os.getcwd())"))
    assert answer == (0, f"{tmp_path}\n".encode(), b"")


def is_warm(command: str = INTERPRETER, **options: Any) -> bool:
    """Return whether a program runs in a fork of an interpreter that has loaded this."""
    warm = connection("warm")
    warm.set_options(var_options=options)
    program = "import sys; print('boto3' in sys.modules)"
    code, stdout, _ = warm.exec_command(command, in_data=payload(program))
    assert code == 0
    return stdout == b"True\n"


def test_both_forms_of_the_command_are_warm(shared_folder: Path) -> None:
    assert is_warm()
    assert is_warm(f"{C.DEFAULT_EXECUTABLE} -c {shlex.quote(shlex.quote(sys.executable))}")


@pytest.mark.parametrize(
    "command",
    [
        f"A=b {sys.executable} && sleep 0",
        f"env {sys.executable} && sleep 0",
        f"{os.path.dirname(sys.executable)}/./{os.path.basename(sys.executable)} && sleep 0",
        f"{sys.executable} -B && sleep 0",
    ],
)
def test_other_commands_are_ordinary(command: str, shared_folder: Path) -> None:
    assert not is_warm(f"{C.DEFAULT_EXECUTABLE} -c {shlex.quote(command)}")


def test_the_switch(shared_folder: Path) -> None:
    assert not is_warm(classroom_warm="false")
    assert is_warm(classroom_warm="true")


def test_what_is_no_module_is_ordinary(own_folder: Path) -> None:
    warm = connection("warm")
    assert warm.exec_command("echo $((1 + 1))") == (0, b"2\n", b"")
    assert warm.exec_command(INTERPRETER, in_data=b"print(3)") == (0, b"3\n", b"")
    assert not list(own_folder.iterdir())


def test_a_server_that_cannot_start(
    own_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import sys; sys.exit('no such library')")
    warm = connection("warm")
    monkeypatch.setattr(sys.modules[type(warm).__module__], "SERVER", broken)
    assert not is_warm()
    assert not is_warm()
    said = " ".join("".join(capsys.readouterr()).split())
    assert said.count("Modules run in the ordinary, slower way: no such library") == 1


def test_a_server_that_ends_during_a_module(own_folder: Path) -> None:
    assert is_warm()
    killer = threading.Timer(0.2, os.kill, (server_of(own_folder), signal.SIGKILL))
    killer.start()
    with pytest.raises(Exception, match=r"ended during one.*classroom_warm=false"):
        run("warm", "import time; time.sleep(0.5)")


def test_a_worker_that_ends_takes_its_module_along(own_folder: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = f"""
        import os, subprocess, time
        child = subprocess.Popen(["sleep", "60"])
        with open({str(told)!r} + ".new", "w") as f:
            f.write(f"{{os.getpid()}} {{child.pid}}")
        os.rename({str(told)!r} + ".new", {str(told)!r})
        time.sleep(60)
    """
    worker = multiprocessing.get_context("fork").Process(target=run, args=("warm", program))
    worker.start()
    wait_until(told.exists, "the module", 3)
    worker.kill()
    worker.join(bound(1))
    pids = [int(pid) for pid in told.read_text().split()]
    wait_until(lambda: not any(map(is_alive, pids)), "the end of the module and its child", 1)
    assert is_warm()


def test_the_server_ends_with_the_run_and_lets_a_module_finish(
    own_folder: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    program = f"import time; open({str(mark)!r}, 'a').write('a'); time.sleep(0.5); "
    program += f"open({str(mark)!r}, 'a').write('b')"
    # A run with a worker of its own, as Ansible makes them.
    source = f"""
        import multiprocessing, sys, time
        sys.path[:0] = {sys.path!r}
        import ansible.constants as C
        C.DEFAULT_LOCAL_TMP = {str(own_folder)!r}
        from test_warm import run
        worker = multiprocessing.get_context("fork").Process(target=run, args=("warm", {program!r}))
        worker.start()
        time.sleep(60)
    """
    starter = subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)])
    wait_until(mark.exists, "the module", 3)
    server = server_of(own_folder)
    starter.send_signal(signal.SIGKILL)
    starter.wait(bound(1))
    wait_until(lambda: mark.read_text() == "ab", "the end of the module", 1)
    wait_until(lambda: not is_alive(server), "the end of the server", 1)


def test_no_secret_stays(own_folder: Path) -> None:
    assert run("warm", f"a = '{SECRET}'; print(a)")[1].decode().strip() == SECRET
    code, _, stderr = run("warm", f"a = '{SECRET}'; raise ValueError")
    assert (code, SECRET in stderr.decode()) == (1, False)
    files = [path for path in own_folder.iterdir() if path.is_file()]
    assert files
    assert not any(SECRET in path.read_text() for path in files)
    assert SECRET not in Path(f"/proc/{server_of(own_folder)}/cmdline").read_text()


LOOK = """
    import json
    from ansible.module_utils import _internal
    from ansible.module_utils.basic import AnsibleModule
    from ansible.module_utils.extra import WORD

    def main():
        module = AnsibleModule({"text": {"no_log": True}}, supports_check_mode=True)
        module.warn("a warning")
        module.exit_json(changed=True, word=WORD, is_controller=_internal.is_controller)

    main()
"""
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  vars:
    ansible_connection: "{{ way }}"
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - {ansible.builtin.stat: {path: /etc/passwd}, register: r1}
    - ansible.builtin.command: {cmd: "sh -c 'cat >&2; exit 3'", stdin: given}
      ignore_errors: true
      register: r2
    - {look: {text: "{{ secret }}"}, register: r3}
    - {look: {text: "{{ secret }}"}, environment: {A: b}, register: r4}
    - {stranger: {text: "{{ secret }}"}, register: r5}
    - private_files: {directory: "{{ place }}", files: {a: "{{ secret }}"}}
      diff: true
      check_mode: true
      register: r6
    - community.postgresql.postgresql_query:
        login_db: a
        login_host: 127.0.0.1
        login_port: 1
        login_password: "{{ secret }}"
        query: select 1
      ignore_errors: true
      register: r7
    - amazon.aws.s3_bucket: {name: a-bucket, access_key: a, secret_key: "{{ secret }}", region: "-"}
      ignore_errors: true
      register: r8
    - ansible.builtin.copy:
        content: "{{ [r1, r2, r3, r4, r5, r6, r7, r8] | to_json }}"
        dest: "{{ place }}/{{ way }}.json"
"""
# Of a command that ran.
OF_THIS_TIME = {"start", "end", "delta", "exception"}
WAYS = ["WARM", "WARM", "WARM", "ORDINARY", "ORDINARY", "WARM", "WARM", "WARM"]


def test_modules_of_a_playbook(tmp_path: Path) -> None:
    """Both ways give the same results; each call says which way it took; no secret is said."""
    for name, text in (
        ("library/look.py", LOOK),
        ("library/stranger.py", "raise SystemExit(1)"),
        ("utils/extra.py", "WORD = 'shared'"),
        # The one beside the playbook comes before the one in the library.
        ("play/library/stranger.py", LOOK),
        ("play/play.yml", PLAYBOOK),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    (tmp_path / "place").mkdir()
    said = {way: play(tmp_path, way) for way in ("warm", "local")}
    results = {}
    for way, output in said.items():
        assert (tmp_path / f"place/{way}.json").exists(), output
        text = (tmp_path / f"place/{way}.json").read_text()
        results[way] = [
            {key: value for key, value in result.items() if key not in OF_THIS_TIME}
            for result in json.loads(text)
        ]
    assert results["warm"] == results["local"]
    assert [result["changed"] for result in results["warm"]][2:6] == [True] * 4
    assert results["warm"][2]["is_controller"] is False
    ways = re.findall(r"> (WARM|ORDINARY)", said["warm"])
    assert ways[: len(WAYS)] == WAYS
    assert "ORDINARY: ansible/legacy/stranger.py is not what is loaded" in said["warm"]
    assert "ORDINARY: another interpreter, account or environment" in said["warm"]
    leaks = [line for line in "".join(said.values()).splitlines() if SECRET in line]
    assert not leaks


def play(folder: Path, way: str) -> str:
    """Run the playbook and return what it said."""
    values = (f"way={way}", f"secret={SECRET}", f"place={folder}/place")
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-vvv", "-i", "localhost,"]
    done = subprocess.run(
        [*command, "play/play.yml", *(word for value in values for word in ("-e", value))],
        cwd=folder,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(PLUGINS.parent / "ansible.cfg"),
            "ANSIBLE_LIBRARY": f"{folder}/library:{PLUGINS}/modules",
            "ANSIBLE_MODULE_UTILS": f"{folder}/utils",
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        text=True,
        timeout=bound(20),
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "environment", "started"),
    [
        ([], {}, True),
        (["-e", "classroom_warm=false"], {}, False),
        ([], {"CLASSROOM_WARM": "false"}, False),
        (["-e", "classroom_warm=true"], {"CLASSROOM_WARM": "false"}, True),
    ],
)
def test_the_server_is_started_with_the_run_unless_switched_off(
    tmp_path: Path, given: list[str], environment: dict[str, str], started: bool
) -> None:
    task = f"{{ansible.builtin.debug: {{msg: \"{{{{ lookup('pipe', 'ls -R {tmp_path}') }}}}\"}}}}"
    (tmp_path / "play.yml").write_text(
        f"- {{hosts: localhost, gather_facts: false, tasks: [{task}]}}"
    )
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "play.yml", *given],
        cwd=tmp_path,
        env={
            **{key: value for key, value in os.environ.items() if key != "CLASSROOM_WARM"},
            "ANSIBLE_CONFIG": str(PLUGINS.parent / "ansible.cfg"),
            "ANSIBLE_LOCAL_TEMP": str(tmp_path / "private"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=bound(10),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("warm.log" in done.stdout) == started
