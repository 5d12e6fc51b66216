"""A step's process ends with that of its run, and no other process does."""

STEP = """
import multiprocessing, os, signal, sys, threading, time
from types import SimpleNamespace
from esm_sae_assets.orphans import end_with_run

def run_step(parent):
    message = f"Executing steps using multiprocess executor: parent process (pid: {parent})"
    log = [SimpleNamespace(message="another line"), SimpleNamespace(message=message)]
    end_with_run(SimpleNamespace(all_logs=lambda run_id, of_type: log), "a run")
    watches = "end_with_run" in [thread.name for thread in threading.enumerate()]
    print(watches, flush=True)
    if watches:
        time.sleep(600)

parent = os.getpid() if sys.argv[1] == "own" else 1
multiprocessing.get_context("fork").Process(target=run_step, args=[parent]).start()
signal.pause()
"""


def test_a_step_ends_with_its_run(start_python):
    run = start_python(STEP, "own")
    assert run.stdout.readline() == "True\n"
    run.kill()
    # Both held the pipe: its end is the end of both.
    assert run.stdout.read() == ""


def test_a_process_that_another_started_is_let_be(start_python):
    assert start_python(STEP, "another").stdout.readline() == "False\n"


def test_a_step_in_the_process_of_its_run_is_let_be(python):
    code = "import threading, esm_sae_assets.orphans as orphans\n"
    code += "orphans.end_with_run(None, 'a run')\nprint(threading.active_count())"
    assert python(code).stdout == "1\n"
