"""Sweeps that survive: out of memory, failing samples, signals, shards, secrets, and configurations from strangers."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.library import TIMINGS, experiment
from helpers.quick import slow
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Console

from scope import records
from scope.cli.composing import RememberingLoader
from scope.generation.sampling import Sampling
from scope.prefill import SnapKV
from scope.records import RecordKeeping
from scope.records.merge import main as merge_main
from scope.records.merge import merge
from scope.runs.batches import attempts, share
from scope.runs.experiment import Experiment
from scope.runs.instances import settings_class
from scope.runs.run import SamplesFailedError, run
from scope.runs.tracking import NoTracking
from scope.tasks import Arithmetic
from scope.util.errors import ScopeError, SettingError
from scope.util.secrets import redact
from scope.util.stopping import Stopped, Stopping

ROOT = Path(__file__).parents[1]


def go(what: Experiment, output: Path, **keeping: Any) -> Path:
    return run(what, NoTracking(), output, Console(file=io.StringIO()), RecordKeeping(**keeping))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in records.read(folder)]


def test_shares_are_all_there_is_and_alike() -> None:
    for n in (1, 2, 3, 7):
        shares = [share(range(10), (i + 1, n)) for i in range(n)]
        assert sorted(item for one in shares for item in one) == list(range(10))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


Answers = Callable[[Sequence[str], int], Iterator[tuple[str, list[dict[str, Any]]]]]


def answering(most: int = 8, spoilt: str = "", fat: str = "") -> tuple[list[tuple[str, int]], Answers]:
    """Calls so far, and what answers in a batch of `rows` that takes one in as soon as one is done."""
    calls: list[tuple[str, int]] = []

    def answer(items: Sequence[str], rows: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        calls.append(("".join(items), rows))
        if rows > most:
            raise MemoryError
        waiting, under_way = list(items), []
        while waiting or under_way:
            while waiting and len(under_way) < rows:
                under_way.append(waiting.pop(0))
            if set(under_way) & set(spoilt):
                raise ValueError("spoilt")
            if set(under_way) & set(fat):
                raise torch.OutOfMemoryError("CUDA out of memory")
            one = under_way.pop()  # the last to be begun ends first
            yield one, [{"sample": one, "status": "ok"}]

    return calls, answer


def no(sample: str, status: str, reason: str) -> list[dict[str, Any]]:
    return [{"sample": sample, "status": status, "reason": reason}]


def made(answer: Answers, rows: int, items: str = "abcdefgh") -> dict[str, dict[str, Any]]:
    found = [line for _, lines in attempts(items, rows, answer, no) for line in lines]
    assert sorted(line["sample"] for line in found) == sorted(items)
    return {line["sample"]: line for line in found}


def test_a_batch_that_does_not_fit_is_halved_and_stays_small() -> None:
    calls, answer = answering(most=2)
    assert {line["status"] for line in made(answer, 8).values()} == {"ok"}
    assert calls == [("abcdefgh", 8), ("abcdefgh", 4), ("abcdefgh", 2)]


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_a_sample_that_fails_takes_no_other_with_it(rows: int) -> None:
    _, answer = answering(spoilt="c", fat="e")
    found = made(answer, rows)
    assert {s: line["status"] for s, line in found.items()} == {
        **dict.fromkeys("abdfgh", "ok"),
        "c": "failed",
        "e": "out of memory",
    }
    assert found["c"]["reason"] == "ValueError: spoilt"


def test_one_that_is_asked_to_stop_is_not_asked_again() -> None:
    def answer(items: Sequence[str], rows: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        yield items[0], []

    assert [item for item, _ in attempts("abc", 2, answer, no)] == ["a"]


def test_what_is_no_samples_fault_is_raised() -> None:
    def answer(items: Sequence[str], rows: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        raise ScopeError("disk full")
        yield

    with pytest.raises(ScopeError, match="disk full"):
        list(attempts("ab", 2, answer, no))


def test_a_failed_sample_is_recorded_counted_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what, true = experiment(), Arithmetic.measures

    def measures(self: Arithmetic, sample: Any, generation: str) -> Any:
        if sample.name.endswith("-1"):
            raise ValueError("no such answer")
        return true(self, sample, generation)

    monkeypatch.setattr(Arithmetic, "measures", measures)
    with pytest.raises(SamplesFailedError, match="1 of 3 samples failed") as raised:
        go(what, tmp_path)
    (failed,) = [line for line in records.read(raised.value.folder) if line["status"] != "ok"]
    assert failed["sample"].endswith("-1")
    assert failed["reason"] == "ValueError: no such answer"
    monkeypatch.setattr(Arithmetic, "measures", true)
    folder = go(what, tmp_path)
    assert [line["status"] for line in records.read(folder)] == ["ok"] * 3


def test_merged_shards_are_the_run_undivided(tmp_path: Path) -> None:
    what = experiment(task=Arithmetic(questions=4, max_new_tokens=60, prompts=5), sampling=Sampling(temperature=0.8))
    whole = go(what, tmp_path / "whole" / "x")
    go(what, tmp_path / "a" / "x", shard="1/2")
    assert merge_main(["merge", str(tmp_path / "a")]) == 1  # a shard is missing
    go(what, tmp_path / "b" / "x", shard="2/2")
    ((folder, samples, joined),) = merge([tmp_path / "a", tmp_path / "b"])
    assert (samples, joined.missing) == (5, [])
    assert folder == tmp_path / "a" / "x" / whole.name
    by_name = {line["sample"]: line for line in lines(folder)}
    assert by_name == {line["sample"]: line for line in lines(whole)}
    assert go(what, tmp_path / "a" / "x") == folder  # nothing is left to do
    assert json.loads((folder / "manifest.json").read_text())["samples"] == 5


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_shard_that_cannot_be(shard: str) -> None:
    with pytest.raises(SettingError, match="i/n"):
        RecordKeeping(shard=shard)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def interrupts_are_heard() -> Iterator[None]:
    """A shell starts what runs in the background with interrupts ignored, and a run keeps that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("first", SIGNALS)
def test_a_signal_waits_for_the_batch_and_a_second_does_not(first: signal.Signals, second: signal.Signals) -> None:
    before = [signal.getsignal(sign) for sign in SIGNALS]
    with Stopping() as stopping:
        stopping.check()
        os.kill(os.getpid(), first)
        with pytest.raises(Stopped) as stopped:
            stopping.check()
        assert stopped.value.signal == first
        with pytest.raises(KeyboardInterrupt) as at_once:
            os.kill(os.getpid(), second)
        assert at_once.value.signal == second
    assert [signal.getsignal(sign) for sign in SIGNALS] == before


def test_a_signal_that_somebody_else_listens_to_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Stopping() as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopping.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_does_not_end_the_answers_under_way() -> None:
    program = """
import os, signal, sys
from scope.util.stopping import Stopping
with Stopping() as stopping:
    os.kill(os.getpid(), signal.SIGHUP)
    assert stopping.asked
    print("progress", file=sys.stderr, flush=True)
"""
    with open("/dev/full", "w") as gone:
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=gone, timeout=60)
    assert done.returncode == 0


class Signalling(NoTracking):
    """Sends this process a signal after some answers."""

    def __init__(self, *after: tuple[int, signal.Signals]) -> None:
        self.after = list(after)

    def log(self, metrics: Any) -> None:
        while self.after and metrics["samples"] == self.after[0][0]:
            os.kill(os.getpid(), self.after.pop(0)[1])


@pytest.mark.parametrize(("first", "second"), [slow(15, 15), (15, 2), slow(2, 15), (1, 1)])
@pytest.mark.slow
def test_a_second_signal_loses_nothing_that_is_recorded(tmp_path: Path, first: int, second: int) -> None:
    what = experiment(task=Arithmetic(questions=4, max_new_tokens=100, prompts=6))
    whole = go(what, tmp_path / "whole")
    signals = Signalling((2, signal.Signals(first)), (3, signal.Signals(second)))  # the second with a row under way
    said = io.StringIO()
    with pytest.raises(Stopped) as stopped:
        run(what, signals, tmp_path / "cut", Console(file=said, width=200))
    assert stopped.value.signal == second
    assert stopped.value.done is None
    (folder,) = (tmp_path / "cut").iterdir()
    assert len(records.read(folder)) == 3
    assert "stopped, with the longest prompts first: 3 of 6 samples" in said.getvalue()
    assert {line["sample"]: line for line in lines(go(what, tmp_path / "cut"))} == {
        line["sample"]: line for line in lines(whole)
    }


def test_a_run_that_is_stopped_after_its_last_answer_is_done(tmp_path: Path) -> None:
    said = io.StringIO()
    with pytest.raises(Stopped) as stopped:  # so that what runs it begins no other
        run(experiment(), Signalling((3, signal.SIGTERM)), tmp_path, Console(file=said, width=200))
    assert stopped.value.signal == signal.SIGTERM
    assert stopped.value.done is not None
    assert len(records.read(stopped.value.done)) == 3
    assert "answers right in 3 prompts" in said.getvalue()
    assert "stopped" not in said.getvalue()


def test_a_run_with_a_failed_sample_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = Arithmetic.measures

    def measures(self: Arithmetic, sample: Any, generation: str) -> Any:
        if sample.name.endswith("-1"):
            raise ValueError("no such answer")
        return true(self, sample, generation)

    monkeypatch.setattr(Arithmetic, "measures", measures)
    with pytest.raises(Stopped) as stopped:
        run(experiment(), Signalling((2, signal.SIGTERM)), tmp_path, Console(file=io.StringIO()))
    assert stopped.value.done is None


@pytest.mark.parametrize(("sign", "alone", "sweep"), [(signal.SIGINT, 0, 130), (signal.SIGTERM, 0, 143)])
def test_the_command_says_that_it_is_done_and_a_sweep_stops(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    sign: signal.Signals,
    alone: int,
    sweep: int,
) -> None:
    from scope.cli.run import cli

    monkeypatch.setattr(NoTracking, "log", lambda self, metrics: os.kill(os.getpid(), sign))
    small = ["task.prompts=1", "task.questions=4", "task.max_new_tokens=20", "model.threads=1", f"output={tmp_path}"]
    for code, words in ((alone, []), (sweep, ["-m", "method=random,h2o"])):
        monkeypatch.setattr(sys, "argv", ["main.py", *words, *small])
        assert cli() == code
        said = capfd.readouterr()
        assert "answers right in 1 prompt" in said.out
        assert ("written:" in said.out) == (code == 0)
        assert ("this goes on where it was" in said.err) == (code != 0)
    assert len(list(tmp_path.glob("default/*/manifest.json"))) == 2  # the sweep's second job was not begun


@pytest.mark.slow
def test_a_second_sigterm_ends_the_process_at_once(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "main.py"), f"output={tmp_path / 'out'}", "engine.batch_size=1"]
    command += ["task.prompts=200", "task.questions=24", "method=full", "decoding=none"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    deadline = time.monotonic() + 60
    while not [1 for p in tmp_path.glob("out/*/*/records.jsonl") if p.stat().st_size] and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    while "finishing the answers under way" not in process.stderr.readline():
        pass
    (path,) = tmp_path.glob("out/*/*/records.jsonl")
    before = path.read_bytes()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "this goes on where it was: python main.py" in said
    assert "Traceback" not in said
    assert path.read_bytes() == before  # the answer under way was not waited for


@pytest.mark.slow
def test_ctrl_c_finishes_the_batch_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "main.py"),
        f"output={tmp_path / 'out'}",
        "engine.batch_size=1",
        "task.prompts=200",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while not [1 for p in tmp_path.glob("out/*/*/records.jsonl") if p.stat().st_size] and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "finishing the answers under way" in said
    assert "this goes on where it was: python main.py" in said
    assert "Traceback" not in said
    (path,) = tmp_path.glob("out/*/*/records.jsonl")
    assert path.read_bytes().endswith(b"\n")
    assert not list(path.parent.glob("records.damaged"))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "scope.records.folder.os.system",
        "scope.records.surroundings.subprocess.run",
        "scope.util.files.write_whole",
        "scope",
        "",
        "toy.X",
    ],
)
def test_a_configuration_names_settings_classes_of_scope_only(target: str) -> None:
    assert settings_class(target) is None
    assert settings_class("scope.prefill.SnapKV") is SnapKV


def test_secrets_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    assert redact("error at https://me:pass@host/x with hf_abcdefghijkl") == "error at https://***@host/x with ***"
    folder = go(experiment(config={"name": "hf_abcdefghijkl"}), tmp_path)
    assert not [p for p in folder.rglob("*") if p.is_file() and b"hf_abcdefghijkl" in p.read_bytes()]


def test_a_crafted_name_stays_in_the_output_folder(tmp_path: Path) -> None:
    what = experiment(labels={"model": "../../up", "task": "/etc", "method": "..", "decoding": "é" * 300})
    folder = go(what, tmp_path / "out")
    assert folder.resolve().parent == (tmp_path / "out").resolve()


ODD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
KEYS = (
    "engine.batch_size shard name budget.prefill method rerun records.on_mismatch seed limit output task "
    "task.questions sampling sampling.temperature model.device model.path fidelity.granularity trace trace.layers "
    "hydra.sweep.dir hydra.sweeper.pairs hydra/launcher hydra.launcher.n_jobs"
)
VALUES = (
    "null true 7 -1 1e400 nan [] {} [1,2] {a:1} 1,2 range(3) choice(a,b) glob(*) ??? ${seed} ${nothing} ${oc.env:HOME} "
    "' \" ../up @x \\"
)
WORDS = st.builds(
    "{}{}={}".format,
    st.sampled_from(["", "", "+", "++", "~"]),
    st.sampled_from(KEYS.split()) | ODD,
    st.sampled_from(VALUES.split()) | ODD,
).filter(lambda word: not word.startswith("-"))  # that is an option, and argparse's


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sweep=st.booleans(), word=WORDS)
def test_no_override_ends_in_a_traceback_or_leaves_anything(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sweep: bool, word: str
) -> None:
    from scope.cli.run import cli

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    words = [f"output={tmp_path / 'out'}", "plan=true", "model.threads=1", word]
    monkeypatch.setattr(sys, "argv", ["main.py", *["-m"] * sweep, *words])
    monkeypatch.chdir(tmp_path)
    try:
        code = cli()
    except SystemExit as stop:
        code = stop.code
    said = capfd.readouterr()
    assert code in (0, 2), said
    assert "Traceback" not in said.err
    if code:
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_sweep_composes_what_hydra_does_whatever_was_composed_before() -> None:
    jobs = [
        [],
        ["method=h2o", "budget.decode=7", "hydra.sweep.dir=elsewhere"],
        ["experiment=demo", "+hydra.sweeper.params.seed='1,2'"],
        ["experiment=demo", "hydra.sweeper.params.method=full"],
        ["experiment=demo"],
        ["experiment=table1_4k", "task.columns={question: q}"],
        ["experiment=table1_4k"],
        ["method=h2o", "~trace"],
        ["fidelity=released", "+hydra.job.env_set.A=1"],
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().config_loader()
        ours = RememberingLoader(hydra.config_search_path)
        for job in [*jobs, *reversed(jobs)]:
            one, other = (loader.load_configuration("config", job, RunMode.RUN) for loader in (hydra, ours))
            assert OmegaConf.to_yaml(one) == OmegaConf.to_yaml(other)


SLURM = {  # as much of Slurm as a job array needs, its jobs one after the other
    "sbatch": """
cp "${@: -1}" "$0.script"
read first last < <(sed -n 's/^#SBATCH --array=\\([0-9]*\\)-\\([0-9]*\\).*/\\1 \\2/p' "$0.script")
export SLURM_ARRAY_JOB_ID=77 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
export SLURM_JOB_NODELIST=here
for i in $(seq "$first" "$last"); do SLURM_JOB_ID=77_$i SLURM_ARRAY_TASK_ID=$i bash "$0.script"; done > "$0.log" 2>&1 &
echo Submitted batch job 77
""",
    "srun": """
while [[ $1 == --* ]]; do [[ $1 == --unbuffered ]] || shift; shift; done
"$@"
""",
    "sacct": "printf 'JobID|State|NodeList\\n77_0|RUNNING|here\\n'",
    "scancel": "true",
}


@pytest.mark.filterwarnings("ignore:\\s*'hydra/launcher")  # as main.py does
def test_the_slurm_preset_asks_for_a_gpu_a_job_and_time_to_stop(tmp_path: Path) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", ["hydra/launcher=submitit_slurm", f"output={tmp_path}"], return_hydra_config=True)
    asked = composed.hydra.launcher
    assert (asked.nodes, asked.tasks_per_node, asked.gpus_per_node) == (1, 1, 1)
    assert asked.cpus_per_task >= 1
    assert asked.mem_gb >= 16  # the weights of 8 billion parameters pass through it
    assert 0 < asked.signal_delay_s < 60 * asked.timeout_min
    assert asked.max_num_timeout > 0
    assert asked.submitit_folder == f"{tmp_path}/default/.submitit/%j"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm", "ray"])
def test_every_launcher_gives_the_same_records(tmp_path: Path, launcher: str) -> None:
    pytest.importorskip(
        f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher", reason=f"{launcher} is not installed"
    )
    for name, script in SLURM.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{script}")
        (tmp_path / "bin" / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    settings = ["method=snapkv,h2o", "decoding=slide,adaptive", "task.questions=4", "task.prompts=4"]
    settings += ["engine.batch_size=2"]
    settings += ["task.max_new_tokens=60", "budget.prefill=40", "budget.decode=32", "budget.recent=16", "name=x"]
    found = []
    for chosen in ("basic", launcher):
        command = [sys.executable, str(ROOT / "main.py"), "-m", f"hydra/launcher={chosen}", *settings]
        command.append(f"output={tmp_path / chosen}")
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr + done.stdout
        assert "Warning" not in done.stderr
        found.append({path.parent.name: lines(path.parent) for path in tmp_path.glob(f"{chosen}/x/*/records.jsonl")})
    assert found[0] == found[1]
    assert len(found[0]) == 4
    if launcher == "submitit_slurm":
        asked = (tmp_path / "bin" / "sbatch.script").read_text()
        for option in ("--array=0-3", "--gpus-per-node=1", "--time=240", "--signal=USR2@120"):
            assert f"#SBATCH {option}" in asked, asked
