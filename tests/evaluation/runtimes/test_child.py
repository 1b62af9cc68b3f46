"""What becomes of a process that works, refuses, crashes or hangs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from common import heed_interruptions

from qconvert.errors import PlanError, QconvertError
from qconvert.evaluation.runtimes.child import ask


def ask_for(what: str, **rest) -> dict:
    return ask("child_work", {"do": what}, "the runtime cannot run x.gguf", **rest)


def is_alive(pid: int) -> bool:
    """A zombie that nobody waited for has ended too."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> bool:
    for _ in range(100):
        if not is_alive(pid):
            return True
        time.sleep(0.1)
    return False


def test_a_result_comes_back_whatever_the_process_prints_and_its_events_in_order():
    events: list[dict] = []
    found = ask_for("print", heard=events.append)
    assert found["seen"] == {"do": "print"}
    assert events == [{"step": "one"}, {"step": "two"}]


def test_an_error_of_ours_comes_back_as_itself():
    with pytest.raises(PlanError, match="it does not fit") as caught:
        ask_for("refuse")
    assert caught.value.hint == "take another"


def test_a_fault_is_one_line():
    with pytest.raises(QconvertError) as caught:
        ask_for("stumble")
    assert caught.value.message == "the runtime cannot run x.gguf: ZeroDivisionError: a fault"


def test_a_crash_is_told_with_its_signal_and_its_last_words():
    with pytest.raises(QconvertError) as caught:
        ask_for("crash")
    assert caught.value.message == (
        "the runtime cannot run x.gguf: its process was ended by SIGSEGV: "
        "GGML_ASSERT(rows > 0) failed"
    )


def test_a_process_that_leaves_without_a_word_is_told():
    with pytest.raises(QconvertError, match="its process ended with code 7"):
        ask_for("exit")


def test_a_process_that_hangs_is_ended():
    events: list[dict] = []
    with pytest.raises(QconvertError, match=r"nothing happened for 0\.5 seconds"):
        ask_for("sleep", heard=events.append, patience=0.5)
    # It had the time to begin, or was ended while it started.
    assert all(wait_until_gone(event["pid"]) for event in events)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_asked(how):
    program = (
        "from qconvert.evaluation.runtimes.child import ask\n"
        "ask('child_work', {'do': 'sleep'}, 'x', lambda event: print(event['pid'], flush=True))"
    )
    asking = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=heed_interruptions,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        pid = int(asking.stdout.readline())
        assert is_alive(pid)
        asking.send_signal(how)
        asking.wait(timeout=20)
        assert wait_until_gone(pid)
    finally:
        asking.kill()
        asking.wait()
        asking.stdout.close()
