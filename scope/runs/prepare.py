"""What is settled before a run writes anything: its prompts, its manifest, and that it can run at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from scope.cache import Policy
from scope.generation import models
from scope.generation.engine import devices_of
from scope.generation.models import Loaded
from scope.generation.processors import described, require_possible
from scope.generation.prompts import Encoded
from scope.generation.rows import Prompt
from scope.generation.stream import generate
from scope.runs.experiment import Experiment, Request
from scope.runs.forced import Forced
from scope.runs.forecast import require_fit
from scope.runs.place import Place
from scope.scoring import ScorerError, score, scorers
from scope.util.errors import ImpossibleError, ScopeError
from scope.util.files import require_place


@dataclass(frozen=True)
class Prepared:
    """A run that can start.

    prompts: of all requests of the experiment, by `Request.index`. forced: by the same index, the texts of a replay;
    None where the model writes its own.
    """

    experiment: Experiment
    place: Place
    asked: Sequence[Request]
    prompts: Sequence[Encoded]
    manifest: Mapping[str, Any]
    forced: Mapping[int, Forced] | None = None


def prepare(
    experiment: Experiment, place: Place, before: Mapping[str, Any] | None, asked: Sequence[Request]
) -> Prepared:
    """Encode the prompts and check the run. Writes nothing.

    before: the manifest, as `place.begun()` gives it. asked: the requests of this run or shard.

    Raises ScopeError for anything that cannot run: a prompt that does not fit, a scorer that fails, a folder that
    cannot be made, a sample that was answered for another prompt.
    """
    by = scorers(experiment.scoring)
    if asked:  # a scorer that fails does so here, on an empty text, and not after hours of generation
        try:
            score(asked[0].sample.questions, "", None, by)
        except ScorerError as error:
            raise error.at("an empty text") from error
    require_place(place.output)
    day = template_day(before)
    config, tokenizer = models.load_shape(experiment.model)
    prompts = encode_all(experiment, config, tokenizer, day)
    if before:
        place.require_same_prompts(asked, prompts)
    manifest = {
        "identity": place.identity,
        "experiment": place.output.name,
        "run": place.name,
        "seed": experiment.sampling.seed,
        "labels": dict(experiment.labels),
        "settings": experiment.settings(limits=False),
        "code": dict(place.code),
        "template_date": template_date(prompts, experiment, day, before),
        "scoring": {name: scorer.about for name, scorer in zip(experiment.scoring, by.values(), strict=True)},
        "scoring_code": experiment.scoring_code(),
        "samples": len(asked),
        **({"shard": place.keeping.shard} if place.keeping.shard else {}),
    }
    if not place.folder.exists():  # what cannot run leaves no folder behind
        manifest |= try_model(experiment, prompts)
    if experiment.trace:
        experiment.trace.require(config.get_text_config(decoder=True).num_hidden_layers)
        experiment.trace.require_one_answer(prompts)
        traced = experiment.requests()[: experiment.trace.prompts]
        experiment.trace.require_no_loss(place.folder, (request.name for request in traced))
    return Prepared(experiment, place, asked, prompts, manifest)


def try_model(experiment: Experiment, prompts: Sequence[Encoded]) -> dict[str, Any]:
    """Load the model and check that engine, method and processors work with it. -> entries of the manifest.

    Raises ScopeError where one of them does not.
    """
    loaded = models.load(experiment.model)
    experiment.engine.on(devices_of(loaded.model))
    rehearse(experiment, loaded, prompts)
    asked_for = loaded.model.generation_config
    if experiment.sampling.processors == "model":
        require_possible(asked_for)
    told = described(asked_for, experiment.sampling.temperature > 0)
    return {"generation_config": told} if told else {}


def template_day(before: Mapping[str, Any] | None) -> date:
    """The day that a run's chat template takes for today: the one on which it was begun. before: its manifest."""
    try:
        return date.fromisoformat(str((before or {}).get("template_date")))
    except ValueError:
        return date.today()


def template_date(
    prompts: Sequence[Encoded], experiment: Experiment, day: date, before: Mapping[str, Any] | None
) -> str | None:
    """What the manifest says of the day that the prompts' template was told; None where it never asked."""
    if any(prompt.dated for prompt in prompts):
        return experiment.model.template_date or day.isoformat()
    return before.get("template_date") if before else None


def encode_all(
    experiment: Experiment, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, day: date
) -> list[Encoded]:
    """Each prompt's tokens, in order; equal prompts of several draws share theirs. day: on which the run was begun.

    Raises ConfigError for a prompt that does not fit the model's context, or not the budget.
    """
    room = experiment.prompt_room(config)
    made: list[Encoded] = []
    for request in experiment.requests():
        if request.draw:
            made.append(made[-1])
        else:
            made.append(experiment.encoded(tokenizer, request.sample, room, day))
    require_fit(experiment, config, [len(prompt.tokens) for prompt in made])
    return made


def rehearse(experiment: Experiment, loaded: Loaded, prompts: Sequence[Encoded]) -> None:
    """Have a method that looks into the model compress the shortest prompt that it has to compress.

    Raises ImpossibleError where it fails at this model.
    """
    method = experiment.method
    longer = [tuple(prompt.tokens) for prompt in prompts if len(prompt.tokens) > method.slots(len(prompt.tokens))]
    if not method.layer_inputs or not longer:
        return
    shortest = Prompt("", min(longer, key=len))
    policy = Policy(method, granularity=experiment.granularity)
    try:
        generate(loaded.model, loaded.tokenizer, [shortest], policy, 1)
    except ScopeError as error:
        raise ImpossibleError(f"method={experiment.labels.get('method', '')}: {error}") from error
