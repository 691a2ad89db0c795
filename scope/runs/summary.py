"""A run's records in a few figures, for one line on the terminal and for tracking. Tables add intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from scope.runs.batches import OK
from scope.scoring import PRIMARY
from scope.util.speeds import written


def headline(lines: Sequence[Mapping[str, Any]]) -> str:
    """One line for a run: accuracy or other measures, share of the full cache, speed."""
    found = summary(lines)
    parts = [f"{name} {found[name]:.1%}" for name in _measures(lines)]
    if found["questions"]:
        parts.insert(0, f"{found['accuracy']:.1%} of {found['questions']} answers right in {_prompts(lines)}")
    if found["prompts_cut"]:
        parts.append(f"{found['prompts_cut']} of {found['samples']} prompts cut in the middle")
    parts += _replay_words(found)
    replayed = "kl" in found
    parts += [f"{found['cache_share']:.0%} of the full cache's bytes{' for its own text' * (not replayed)}"]
    parts += [f"{written(found['tokens_per_second'])} {'forced ' * replayed}tokens/s"]
    if any(line.get("engine") == "compile" for line in lines):
        parts[-1] += " with the compiling"
    return ", ".join(parts)


REPLAYED = ("kl", "agreement", "log_likelihood_lost", "answers_recalled", "answers_kl")  # means of a replay


def _replayed(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means of replays over the samples that have them; nothing for a run that generates."""
    values = {name: [line[name] for line in lines if line.get(name) is not None] for name in REPLAYED}
    return {name: sum(found) / len(found) for name, found in values.items() if found}


def _replay_words(found: Mapping[str, float]) -> list[str]:
    said = {
        "kl": "KL {:.4f} nats a token",
        "agreement": "{:.1%} the same top token",
        "answers_recalled": "{:.1%} of answer tokens recalled",
    }
    return [words.format(abs(found[name])) for name, words in said.items() if name in found]


def _prompts(lines: Sequence[Mapping[str, Any]]) -> str:
    count = len({line.get("prompt", line["sample"]) for line in lines})
    return f"{count} prompt{'s' * (count != 1)}"


def _measures(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of each measure over the samples that have it."""
    values: dict[str, list[float]] = {}
    for line in lines:
        for name, value in line.get("measures", {}).items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Figures of a run, from the records of answered samples. Shares are 0..1; speed is in tokens per second."""
    scores = [question["scores"][PRIMARY] for line in lines for question in line["questions"]]
    decode: dict[str, float] = {}  # seconds of each batch, until its last row ended
    for line in lines:
        decode[line["batch"]] = max(decode.get(line["batch"], 0.0), line["batch_seconds"])
    tokens = sum(line["generated_tokens"] for line in lines)
    return {
        "samples": len(lines),
        "questions": len(scores),
        "accuracy": sum(a["correct"] for a in scores) / max(1, len(scores)),
        "missing": sum(a["found"] is None for a in scores) / max(1, len(scores)),
        "cache_share": sum(r["cache_bytes"] for r in lines) / max(1, sum(r["full_cache_bytes"] for r in lines)),
        "tokens_per_second": tokens / (sum(decode.values()) or 1.0),
        "prompts_cut": sum(line.get("prompt_cut_tokens", 0) > 0 for line in lines),
        **_measures(lines),
        **_replayed(lines),
    }


def running(done: Sequence[Mapping[str, Any]], last: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a tracker is told after each answer: figures of the run so far, and the speed of the last answer."""
    speeds = [line["tokens_per_second"] or 0.0 for line in last if line["status"] == OK]
    return summary(done) | {"sample_tokens_per_second": sum(speeds) / max(1, len(speeds))}


def sample_row(line: Mapping[str, Any]) -> dict[str, Any]:
    """A record as one row of the tracker's table of samples."""
    right = sum(question["scores"][PRIMARY]["correct"] for question in line["questions"])
    row: dict[str, Any] = {k: v for k, v in line.items() if isinstance(v, str | int | float) and k != "generation"}
    row |= line.get("measures", {})
    return row | {"right": right, "asked": len(line["questions"]), "generation": line["generation"]}
