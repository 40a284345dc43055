"""What a run says by default, and that -v says everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from modules import PLUGINS
from waiting import bound

SECRET = "Xk2vR8qLw0zN5tBd7yHs3mJf"
PLAYBOOK = """
- name: Do something
  hosts: localhost
  gather_facts: false
  vars: {ansible_connection: warm, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  tasks:
    - {name: Look, ansible.builtin.command: echo hello, changed_when: false}
    - {name: Skip, ansible.builtin.command: echo skipped, when: false}
    - {name: Change, ansible.builtin.command: echo changed}
    - {name: Change several, ansible.builtin.command: "echo {{ item }}", loop: [a, b]}
    - {name: Take long (a while), ansible.builtin.command: sleep 0.1, changed_when: false}
    - {name: Speak, ansible.builtin.debug: {msg: "first line\\nsecond line"}}
    - {name: Speak in a list, ansible.builtin.debug: {msg: [third, fourth]}}
    - {name: Say nothing, ansible.builtin.debug: {msg: ""}}
    - {name: Hide, ansible.builtin.command: "echo {{ secret }}", no_log: true}
    - {name: Ignore, ansible.builtin.command: "false", ignore_errors: true}
    - name: Wait
      ansible.builtin.shell: "echo x >> {{ place }}/tries; test $(wc -l < {{ place }}/tries) = 3"
      register: tried
      until: tried is success
      retries: 5
      delay: 0
      changed_when: false
    - name: Write
      ansible.builtin.copy: {content: "new line\\n", dest: "{{ place }}/written", mode: "0600"}
      diff: true
    - name: Try
      block:
        - {name: Fail inside, ansible.builtin.command: "false"}
      rescue:
        - {name: Go on, ansible.builtin.debug: {msg: it was rescued}}

- name: End
  hosts: localhost
  gather_facts: false
  vars: {ansible_connection: warm, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  tasks:
    - name: End by a refusal
      ansible.builtin.assert:
        that: end != 'assert'
        fail_msg: 'x "1" must be 2: -e x=2'
        quiet: true
    - name: End by a failure
      when: end == 'fail'
      block:
        - {name: Break, ansible.builtin.shell: "echo out; echo err >&2; exit 7", loop: [1]}
      rescue:
        - {name: Say why, ansible.builtin.fail: {msg: "it broke; next: mend it"}}
    - name: Break off
      ansible.builtin.shell: "echo out; echo err >&2; exit 7"
      loop: [ok, broken]
      failed_when: item == 'broken'
      changed_when: false
      when: end == 'break'
    - name: Break off hidden
      ansible.builtin.shell: "echo {{ secret }}; exit 7"
      no_log: true
      when: end == 'hidden'
"""
BEGINNING = """\
Do something
  changed  localhost  Change
  changed  localhost  Change several
  ...      Take long (a while)
  first line
  second line
  third
  fourth
  changed  localhost  Hide
  waiting  localhost  Wait
--- before
+++ after: written
@@ -0,0 +1 @@
+new line

  changed  localhost  Write
  it was rescued
End
"""


def play(folder: Path, end: str, *arguments: str) -> tuple[int, str]:
    """Run the playbook; return its exit code and what it said, temporary names left out."""
    (folder / "play.yml").write_text(PLAYBOOK)
    for name in ("tries", "written"):
        (folder / name).unlink(missing_ok=True)
    values = (f"end={end}", f"secret={SECRET}", f"place={folder}")
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,"),
            *("play.yml", *arguments, *(word for value in values for word in ("-e", value))),
        ],
        cwd=folder,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(PLUGINS.parent / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=bound(20),
        check=False,
    )
    assert SECRET not in done.stdout
    lines = done.stdout.splitlines()
    return done.returncode, "".join(
        "+++ after: written\n" if line.startswith("+++ after:") else f"{line}\n" for line in lines
    )


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("well", ""),
        ("assert", '\nx "1" must be 2: -e x=2\n'),
        ("fail", "\nit broke; next: mend it\n"),
        (
            "break",
            """
FAILED: localhost  Break off
non-zero return code
    cmd: echo out; echo err >&2; exit 7
    item: broken
    rc: 7
    stderr: err
    stdout: out
All of it: the same command with -v
""",
        ),
        (
            "hidden",
            """
FAILED: localhost  Break off hidden
the output has been hidden due to the fact that 'no_log: true' was specified for this result
All of it: the same command with -v
""",
        ),
    ],
)
def test_a_run_says_what_changed_and_what_to_do(tmp_path: Path, end: str, said: str) -> None:
    code, output = play(tmp_path, end)
    assert (code == 0) == (end == "well")
    assert output.startswith(BEGINNING + said + "\nlocalhost : ok=")
    for inner in ("[ERROR]", "assertion", "evaluated_to", "Origin:", "PLAY", "TASK", "invocation"):
        assert inner not in output


def test_check_says_what_would_be_changed(tmp_path: Path) -> None:
    _, output = play(tmp_path, "well", "--check")
    assert "  would    localhost  Write\n" in output
    assert "changed  localhost" not in output


def test_v_says_all_that_ansible_says(tmp_path: Path) -> None:
    _, output = play(tmp_path, "assert", "-v")
    for said in (
        "PLAY [Do something]",
        "TASK [Look]",
        "hello",
        "skipping: ",
        "PLAY RECAP",
        "[ERROR]",
    ):
        assert said in output
