"""Workers of training runs forked from one process that has torch and DeepSpeed imported: a run starts in one second instead of ten.

    python warm_workers.py serve SOCKET                   forks the processes of each run that is asked for
    python warm_workers.py ask SOCKET PROCESSES RUN       starts a run, prints what it prints, ends with its status

Every run still has processes, a rendezvous and a group of its own, as torchrun would make them. Tests of the launcher, of kills and of the
commands use torchrun itself.
"""

import json
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path

END = b"\0end "
RANKS = ("RANK", "LOCAL_RANK")


def serve(path: str) -> None:
    """Answers until it is killed; each run is looked after by a fork."""
    import deepspeed  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    import training.loop
    import training.tasks.make
    import training.worker  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                look_after(connection)
            connection.close()


def look_after(connection: socket.socket) -> None:
    """The run's processes have ended, or were killed because one failed or nobody listens any more; the status is sent."""
    asked = json.loads(connection.makefile("r").readline())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [start(rank, asked, port, connection) for rank in range(asked["processes"])]
    status = 0
    while ranks and status == 0:
        if select.select([connection], [], [], 0.02)[0] and connection.recv(1) == b"":
            status = 1
        for pid in list(ranks):
            ended, how = os.waitpid(pid, os.WNOHANG)
            if ended:
                ranks.remove(pid)
                status = status or os.waitstatus_to_exitcode(how)
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    try:
        connection.sendall(END + str(status & 0xFF).encode())
    finally:
        os._exit(0)


def start(rank: int, asked: dict, port: int, connection: socket.socket) -> int:
    """The process of a rank; gives its id."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        for number in (1, 2):
            os.dup2(connection.fileno(), number)
        world = str(asked["processes"])
        os.environ.update(asked["environment"])
        os.environ.update(dict.fromkeys(RANKS, str(rank)) | dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), world))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))

        from training import worker

        worker.main(Path(asked["run"]))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ask(path: str, processes: str, run: str) -> int:
    """The run has ended with the status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        asked = {"processes": int(processes), "run": run, "environment": dict(os.environ)}
        connection.sendall(json.dumps(asked).encode() + b"\n")
        tail = b""
        while data := connection.recv(1 << 16):
            tail += data
            whole, end, status = tail.partition(END)
            keep = b"" if end else whole[-len(END) :]  # the mark may come in two parts
            os.write(1, whole[: len(whole) - len(keep)])
            tail = keep if not end else END + status
    return int(tail.removeprefix(END) or 1)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    sys.exit(ask(*sys.argv[2:]))
