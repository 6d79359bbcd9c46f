"""Run a command inside the lab: `python enter.py PID COMMAND...`, PID being the lab's pid 1.

The command gets the lab's network, processes and mounts, and keeps folder and environment. Signals
sent to us reach it; it dies with us, also when we are killed with -9; its exit status becomes ours.
So whoever starts us may treat us as the command itself.
"""

import ctypes
import os
import select
import signal
import sys
from pathlib import Path

NAMESPACES = ("net", "ipc", "pid", "mnt")
PR_SET_PDEATHSIG = 1
SENT_BY_A_PERSON = 0x80
"""`si_code` of a signal from the terminal: the command gets that one by itself."""

FORWARDED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1}


def main(pid: int, command: list[str]) -> None:
    """Never returns."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = Path.cwd()
    for descriptor in [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in NAMESPACES]:
        if libc.setns(descriptor, 0) != 0:
            raise OSError(ctypes.get_errno(), "cannot enter the lab")
        os.close(descriptor)
    os.chdir(folder)
    watched = FORWARDED | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if select.select([ours], [], [], 0)[0]:  # closed: we were killed before the line above
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _become(command)
    _end_like(_status_of(child, watched))


def _become(command: list[str]) -> None:
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        os._exit(127)


def _status_of(child: int, watched: set[signal.Signals]) -> int:
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found == child:
            return status
        received = signal.sigwaitinfo(watched)
        if received.si_signo != signal.SIGCHLD and received.si_code != SENT_BY_A_PERSON:
            os.kill(child, received.si_signo)


def _end_like(status: int) -> None:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
