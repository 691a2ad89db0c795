"""What has to be known of a run beside its figures, in words: what is missing, cut, idle or cannot be compared."""

from collections.abc import Iterator, Sequence

from analysis.records import Run
from analysis.scores import right_answers
from analysis.statistics import SAME, paired_differences


def notes(run: Run, baseline: Run | None, same_evictions: Sequence[Run], scorers: Sequence[str]) -> Iterator[str]:
    """The notes of a run, most important first.

    baseline: the uncompressed run that it is compared with. same_evictions: runs with another budget that evicted as
    many slots at every step. scorers: the names of those that any run of the table has.
    """
    yield from _incomplete(run)
    if run.compresses_prefill:
        yield from _idle("prefill", [s.prefill_evicted for s in run.samples])
    if run.compresses_decoding:
        yield from _idle("decoding", [s.decode_evicted for s in run.samples])
    if lacking := [name for name in scorers if any(s.marks_by(name) is None for s in run.samples)]:
        yield f"not scored in full: python -m scope.scoring FOLDER --write gives the {' and '.join(lacking)} score"
    for other in same_evictions:
        yield f"same evictions as with budget {' and '.join(other.budget_words)}"
    if baseline is not None:
        yield from _unpaired(run, baseline)


def _incomplete(run: Run) -> Iterator[str]:
    answered = len(run.samples)
    recorded = answered + len(run.failed)
    if recorded < run.planned:
        yield f"partial: {recorded} of {run.planned}"
    if run.failed:
        yield f"failed: {len(run.failed)} of {recorded}"
    yield from run.notes
    if cut := sum(sample.finish == "length" for sample in run.samples):
        yield f"stopped at max_new_tokens: {cut} of {answered} prompts"
    if answered == 1:
        yield "one prompt: no interval"
    elif answered and len({sample.cluster for sample in run.samples}) == 1 and run.samples[0].replay:
        yield "one text: no interval"


def _idle(part: str, evicted: Sequence[int]) -> Iterator[str]:
    """evicted: slots that this part evicted, for each sample."""
    if idle := sum(count == 0 for count in evicted):
        everywhere = idle == len(evicted)
        yield f"{part}: nothing to evict" + ("" if everywhere else f" in {idle} of {len(evicted)} prompts")


def _unpaired(run: Run, baseline: Run) -> Iterator[str]:
    """Where the points lost are not over all prompts, or have no interval."""
    lost = paired_differences(right_answers(baseline.samples), right_answers(run.samples))
    asked = sum(bool(sample.correct) for sample in run.samples)
    if len(lost) < asked:
        yield f"points lost over {len(lost)} of {asked} prompts"
    if len(lost) > 1 and max(lost) - min(lost) < SAME:
        same = "no prompt's score differs" if abs(lost[0]) < SAME else "every prompt's score differs by as much"
        yield f"points lost: {same}, no interval"
