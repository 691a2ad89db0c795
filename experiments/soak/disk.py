"""Disks that fill, refuse, tear lines and flip bits."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.soak.sweep import Answers, Found, Loss, NotTried, answers, compare, finish, must_finish, said
from scope.util.files import write_whole


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Path, Answers], Found]:
    """The finished sweep with every run's records changed."""

    def run(folder: Path, whole: Answers) -> Found:
        must_finish(folder)
        for path in folder.glob("soak/*/records.jsonl"):
            write_whole(path, change(path.read_bytes()))
        spoilt = len(whole) - len(answers(folder))
        must_finish(folder)
        compare(folder, whole)
        return Found(
            f"{spoilt} of {len(whole)} samples were recognised as damaged and answered again", {"spoilt": spoilt}
        )

    return run


def tear(data: bytes) -> bytes:
    """The last line without its end."""
    return data[:-20]


def flip(data: bytes) -> bytes:
    """One bit in the middle of the second line."""
    first, second, *rest = data.split(b"\n")
    at = len(second) // 2
    return b"\n".join([first, second[:at] + bytes([second[at] ^ 4]) + second[at + 1 :], *rest])


def full(folder: Path, whole: Answers) -> Found:
    with tmpfs(folder, "48k"):
        code = finish(folder)
        before = answers(folder)
        remount(folder, "size=8m")
        if code != 1 or any(before[key] != whole[key] for key in before):
            raise Loss(f"{folder}: exit code {code}")
        said(folder, "No space left on device")
        must_finish(folder)
        compare(folder, whole)
    then = "the others after there was space"
    return Found(
        f"exit 1 and a clear line; {len(before)} of {len(whole)} samples intact, {then}", {"kept": len(before)}
    )


def read_only(folder: Path, whole: Answers) -> Found:
    with tmpfs(folder, "8m"):
        finish(folder, "limit=3")
        remount(folder, "ro")
        code = finish(folder)
        remount(folder, "rw")
        if code != 1:
            raise Loss(f"{folder}: exit code {code}")
        said(folder, "Read-only file system")
        before = len(answers(folder))
        must_finish(folder)
        compare(folder, whole)
    return Found(
        f"exit 1 and a clear line; {before} samples intact, the others after it could be written again",
        {"kept": before},
    )


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[None]:
    """A disk of that size. Raises NotTried where this user may not have one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        raise NotTried("only root may mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
