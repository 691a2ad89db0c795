"""What is measured of a sample in a replay: per forced token, the compressed cache beside the full one."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import fsum, isfinite
from typing import Any

from torch import Tensor

from scope.cache import sizes
from scope.generation.models import Loaded
from scope.generation.prompts import Encoded, pieces
from scope.generation.replay import Reference, Replayed, ReplayOptions, reference, replay
from scope.runs.answers import held, names
from scope.runs.batches import FAILED, OK, Begun, Lines
from scope.runs.experiment import Experiment, Request
from scope.runs.forced import Forced
from scope.util.memory import rows_that_fit
from scope.util.progress import Progress
from scope.util.stopping import Stopping

KEPT_BYTES = 2**30  # of references, for the other runs of this process
DIGITS = 6  # significant ones of each number that is kept of a token


@dataclass(frozen=True)
class Replays:
    """Makes the records of requests by replay. `scope.runs.run` decides which requests, and keeps the records.

    prompts: of all requests of the experiment, by `Request.index`. forced: the text of each, by the same index.
    """

    experiment: Experiment
    loaded: Loaded
    prompts: Sequence[Encoded]
    forced: Mapping[int, Forced]

    def notes(self) -> list[str]:
        """What a user should know before it starts, a line each."""
        kind = self.experiment.engine.kind
        unused = kind not in ("auto", "eager")
        return [f"note: engine.kind={kind} changes nothing: a replay takes its steps eagerly"] * unused

    def rows(self, requests: Sequence[Request]) -> int:
        """How many of these requests are replayed at the same time. Raises ScopeError where not even one fits."""
        engine, policy, dtype = self.experiment.engine, self.experiment.policy, self.experiment.dtype
        if isinstance(engine.batch_size, int):
            return min(engine.batch_size, len(requests))
        config, device = self.loaded.model.config, self.loaded.model.device
        most = self.experiment.task.max_new_tokens
        longest = max(len(self.prompts[request.index].tokens) for request in requests)
        row = sizes.cache_bytes(config, policy, dtype, longest, most)
        prefill = sizes.prefill_bytes(config, policy, dtype, longest + most, longest + most)
        return min(rows_that_fit(row, prefill, device), len(requests))

    def make(
        self, requests: Sequence[Request], rows: int, progress: Progress, stopping: Stopping
    ) -> Iterator[tuple[Request, Lines]]:
        """Each request with its record, batch by batch. No batch is started once the run has to stop."""
        self.loaded.reads.begin(tuple(prompt.hash for prompt in self.prompts))
        for start in range(0, len(requests), rows):
            if stopping.asked:
                return
            together = requests[start : start + rows]
            for request in together:
                if not self.forced[request.index].tokens:
                    yield request, self.failed(request, FAILED, "its text has no token to force")
            if some := [request for request in together if self.forced[request.index].tokens]:
                yield from self._batch(some, progress)

    def _batch(self, requests: Sequence[Request], progress: Progress) -> Iterator[tuple[Request, Lines]]:
        began = Begun()
        forced = [self.forced[request.index].tokens for request in requests]
        of_batch, told = sum(map(len, forced)), 0

        def count(done: int, layers: int) -> None:  # a token is done when all layers have taken its step
            nonlocal told
            progress.step(of_batch * done // layers - told)
            told = of_batch * done // layers

        assert self.experiment.replay is not None
        options = ReplayOptions(
            prefill_chunk=self.experiment.engine.prefill_chunk, block=self.experiment.replay.block, progress=count
        )
        prompts = [self.prompts[request.index].tokens for request in requests]
        against = self._reference(prompts, forced)
        made = replay(self.loaded.model, prompts, forced, self.experiment.policy, options, against)
        batch = began.fields(len(requests), "eager", self.loaded.model.device.type, made[0].steps_seconds)
        for request, row in zip(requests, made, strict=True):
            yield request, [self.line(request, row, batch)]

    def _reference(self, prompts: Sequence[tuple[int, ...]], forced: Sequence[tuple[int, ...]]) -> Reference:
        """The full cache's side of these rows, of which those are kept that a run of this process has made."""
        model, kept = self.loaded.model, self.loaded.references
        rows = list(zip(prompts, forced, strict=True))
        if new := [row for row in dict.fromkeys(rows) if row not in kept]:
            made = reference(model, [prompt for prompt, _ in new], [tokens for _, tokens in new])
            kept.update(zip(new, made.hidden, strict=True))
        hidden = tuple(kept[row] for row in rows)
        found = Reference(tuple(prompts), tuple(forced), hidden, weakref.ref(model), self.loaded.reads)
        if sum(hidden.nbytes for hidden in kept.values()) > KEPT_BYTES:
            kept.clear()
        return found

    def line(self, request: Request, made: Replayed, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The record of one replay. batch: the fields that tell of its batch."""
        prompt, forced = self.prompts[request.index], self.forced[request.index]
        tokens = per_token(made, forced, partial(pieces, self.loaded.tokenizer))
        if any(
            not isfinite(number) for name in ("kl", "log_likelihood", "full_log_likelihood") for number in tokens[name]
        ):
            return self.failed(request, FAILED, "the model's log-likelihoods are not finite")[0]
        return {
            **names(request),
            "cluster": request.sample.cluster,
            "prompt_hash": prompt.hash,
            "prompt_cut_tokens": prompt.cut,
            "forced_hash": forced.hash,
            **batch,
            "status": OK,
            "prompt_tokens": len(prompt.tokens),
            "generated_tokens": len(forced.tokens),
            "finish": "length" if forced.cut else "forced",
            "generation": "",
            "questions": [],
            "prefill_seconds": round(made.prefill_seconds, 4),
            "decode_seconds": round(made.steps_seconds, 4),
            "tokens_per_second": None,
            **held(made),
            **means(tokens),
            "replay": tokens,
        }

    def failed(self, request: Request, status: str, reason: str) -> Lines:
        """The record of a request that failed."""
        about = {"prompt_hash": self.prompts[request.index].hash, "status": status, "reason": reason}
        return [names(request) | about]


def per_token(made: Replayed, forced: Forced, texts: Callable[[Sequence[int]], list[str]]) -> dict[str, Any]:
    """What is kept of each forced token: its number in the vocabulary, nats, and texts of 0 and 1 for yes and no.

    Also the text of the token, and of the most likely token of each cache. texts: gives the texts of tokens.
    """
    return {
        "tokens": list(forced.tokens),
        "texts": texts(forced.tokens),
        "top": texts(made.top.tolist()),
        "full_top": texts(made.full_top.tolist()),
        "kl": _numbers(made.kl),
        "log_likelihood": _numbers(made.log_likelihood),
        "full_log_likelihood": _numbers(made.full_log_likelihood),
        "agrees": _flags(made.agrees.tolist()),
        "recalls": _flags(made.recalls.tolist()),
        "full_recalls": _flags(made.full_recalls.tolist()),
        "answers": _flags(forced.answers),
    }


def means(tokens: Mapping[str, Any]) -> dict[str, Any]:
    """Averages over all forced tokens but the first, which no policy changes; null over none.

    tokens: as of `per_token`. `answer_tokens` counts the answer tokens among them.
    """
    later = range(1, len(tokens["kl"]))
    answers = [t for t in later if tokens["answers"][t] == "1"]
    lost = [full - own for full, own in zip(tokens["full_log_likelihood"], tokens["log_likelihood"], strict=True)]
    agrees, recalls = ([flag == "1" for flag in tokens[name]] for name in ("agrees", "recalls"))
    return {
        "kl": _mean(tokens["kl"], later),
        "agreement": _mean(agrees, later),
        "log_likelihood_lost": _mean(lost, later),
        "answer_tokens": len(answers),
        "answers_recalled": _mean(recalls, answers),
        "answers_kl": _mean(tokens["kl"], answers),
    }


def _mean(values: Sequence[float], at: Sequence[int]) -> float | None:
    return float(f"{fsum(values[t] for t in at) / len(at):.{DIGITS}g}") if at else None


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]


def _flags(values: Sequence[bool]) -> str:
    return "".join("1" if value else "0" for value in values)
