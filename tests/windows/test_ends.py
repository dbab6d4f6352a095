"""However a script ends, its workers end."""

import socket
import subprocess
import sys

import pytest

LIMIT_S = 60

BEGIN = """
import os, signal, socket, sys, threading, time, _thread
from pympipool import Executor

def hold(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"!")
        while True:
            time.sleep(600)

def ask():
    print("ready", flush=True)

if __name__ == "__main__":
    exe = Executor(max_workers=2, block_allocation=BLOCK, backend="mpi")
    calls = [exe.submit(hold, PORT) for _ in range(2)]
"""

ENDS = {
    "killed": "    sys.stdin.read()",
    "os._exit": "    sys.stdin.readline(); os._exit(3)",
    "Ctrl-C": """
    def interrupt():
        sys.stdin.readline()
        if hasattr(signal, "pthread_kill"):  # a signal that wakes the main thread, as Ctrl-C does
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        else:
            _thread.interrupt_main()
    threading.Thread(target=interrupt, daemon=True).start()
    with exe:
        calls[0].result()
""",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("is_block", [True, False], ids=["block", "one process per call"])
def test_no_worker_outlives_the_script(end, is_block, tmp_path, monkeypatch):
    """Each worker holds a connection to this test, which ends with it."""
    monkeypatch.setenv("PYMPIPOOL_START_METHOD", "spawn")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT_S)
        port = listener.getsockname()[1]
        script = tmp_path / "script.py"
        script.write_text(f"BLOCK, PORT = {is_block}, {port}\n{BEGIN}{ENDS[end]}")
        process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE)
        try:
            workers = [listener.accept()[0] for _ in range(2)]
            for worker in workers:
                worker.settimeout(LIMIT_S)
                assert worker.recv(1) == b"!"
            if end == "killed":
                process.kill()
            else:
                process.stdin.write(b"end\n")
                process.stdin.flush()
            for worker in workers:
                assert has_ended(worker)
                worker.close()
            assert process.wait(LIMIT_S) != 0
        finally:
            process.kill()
            process.stdin.close()


def has_ended(worker):
    try:
        return worker.recv(1) == b""
    except ConnectionResetError:  # it was killed
        return True
