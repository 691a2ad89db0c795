"""The model `scope` of lm-evaluation-harness: its requests go through a compressed cache.

Generations are those of our engine. Log-likelihoods are forced through the cache: the context is the prompt, and the
continuation is forced. `scope.generation.likelihood` says why a plain forward would not do.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import simple_parse_args_string
from tqdm import tqdm

from scope import __version__, records
from scope.cache import Policy, sizes
from scope.generation.engine import devices_of
from scope.generation.likelihood import Likelihood, likelihoods, of_reference
from scope.generation.models import context, load
from scope.generation.options import Options
from scope.generation.prompts import in_template, tokenized
from scope.generation.replay import ReplayOptions, reference
from scope.generation.rows import Generated, Prompt
from scope.generation.stream import stream
from scope.lm_eval.account import Account
from scope.lm_eval.generating import Asked, names
from scope.lm_eval.rolling import Part, parts
from scope.lm_eval.settings import Settings
from scope.util.errors import ConfigError, ImpossibleError, before_it_runs
from scope.util.memory import rows_that_fit

UNSAID = 2048  # tokens of a context, where a configuration does not say: as lm-eval's `hf` takes it
_logger = logging.getLogger("lm_eval.scope")
Tokens = tuple[int, ...]
Answer = tuple[float, bool]  # log-likelihood in nats, and whether greedy decoding would give the continuation


class ScopeLM(TemplateLM):  # type: ignore[misc]  # without the extra, mypy knows nothing of it
    """A model with a compressed cache, as lm-eval sees models.

    ScopeLM.create_from_arg_string("pretrained=embedded,method=snapkv,decoding=slide,budget.prefill=0.5")

    Results come in the order of the requests. A prompt that is too long loses its beginning, as with lm-eval's `hf`.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError for settings that cannot be, and for a model that cannot be loaded."""
        super().__init__()
        self._settings = settings
        with before_it_runs():
            self._run = settings.experiment()
            self._run.model.require()
            loaded = load(self._run.model)
            self._engine = self._run.engine.on(devices_of(loaded.model))
        self._model, self.tokenizer = loaded.model, loaded.tokenizer
        self._accounts: dict[str, Account] = defaultdict(Account)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> "ScopeLM":
        """arg_string: `key=value,key=value`. Else as `create_from_arg_obj`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "ScopeLM":
        """arg_dict: lm-eval's `--model_args`. additional_config: batch_size, max_batch_size and device, of its options.

        Raises ConfigError as `Settings.of` and the class do.
        """
        return cls(Settings.of(arg_dict, additional_config or {}))

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before the first of a text that has no context."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def max_length(self) -> int:
        """Tokens of a prompt and its continuation together."""
        return self._settings.max_length or context(self._model.config) or UNSAID

    @property
    def max_gen_toks(self) -> int:
        return self._settings.max_gen_toks

    @property
    def tokenizer_name(self) -> str:
        """By which lm-eval keeps the requests that a chat template has made."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        """The tokens of a text; None: with the beginning of sequence, if the tokenizer puts one."""
        return tokenized(self.tokenizer, string, add_special_tokens is not False)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as the model reads it. Raises ConfigError for a tokenizer without a template, or one that fails."""
        if not self.tokenizer.chat_template:
            raise ConfigError("--apply_chat_template: the tokenizer has no chat template")
        given = self._run.model.template_input(date.today())
        try:
            return in_template(self.tokenizer, chat_history, given, not add_generation_prompt)[0]
        except ImpossibleError:
            turns = [turn for turn in chat_history if turn["role"] != "system"]
            if len(turns) == len(chat_history):
                raise
        _logger.warning("the chat template fails with a system message: it is left out")
        return in_template(self.tokenizer, turns, given, not add_generation_prompt)[0]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The generation of each request up to its stop strings. Raises ConfigError for what cannot be followed."""
        texts, account = [""] * len(requests), self._accounts["generate_until"]
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for place, made in self._written(requests, account):
                texts[place] = made.text
                account.add(made)
                self.cache_hook.add_partial("generate_until", requests[place].args, made.text)
                bar.update()
        _logger.info("generate_until: %s", account)
        return texts

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each text in nats: that of its prompt, and that of what is forced after it."""
        pieces: list[tuple[int, Part]] = []
        for place, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            made = parts(tokens, self.prefix_token_id, self.max_length, self._settings.window)
            pieces += [(place, part) for part in made]
        totals, left = [0.0] * len(requests), [sum(place == p for p, _ in pieces) for place in range(len(requests))]

        def add(piece: int, answer: Answer) -> None:
            place, part = pieces[piece]
            totals[place] += answer[0] + self._said_of_prompt(part)
            left[place] -= 1
            if not left[place]:
                self.cache_hook.add_partial("loglikelihood_rolling", requests[place].args, totals[place])

        pairs = [((*part.context, *part.prompt), part.forced) for _, part in pieces]
        self._force("loglikelihood_rolling", pairs, add, disable_tqdm)
        return totals

    def _said_of_prompt(self, part: Part) -> float:
        """The log-likelihood of the part's prompt in nats."""
        if not part.prompt:
            return 0.0
        read = reference(self._model, [part.context], [part.prompt])
        return float(of_reference(self._model, read)[0][0].sum())

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[Answer]:
        """What `loglikelihood` hands on: for each request its texts, and the tokens of context and continuation."""
        answers: list[Answer] = [(0.0, False)] * len(requests)
        pairs = [self._fitted(context, continuation) for _, context, continuation in requests]

        def add(place: int, answer: Answer) -> None:
            answers[place] = answer
            self.cache_hook.add_partial("loglikelihood", requests[place][0], answer)

        self._force("loglikelihood", pairs, add, disable_tqdm)
        return answers

    def _force(
        self, kind: str, pairs: Sequence[tuple[Tokens, Tokens]], add: Callable[[int, Answer], None], quiet: bool
    ) -> None:
        """Force the second of each pair after the first, and tell `add` of each. kind: of request."""
        account = self._accounts[kind]
        with tqdm(total=len(pairs), disable=quiet, desc=f"Running {kind} requests") as bar:
            for place, made in self._forced(pairs):
                account.add(made)
                add(place, (float(made.log_likelihood.sum()), bool(made.recalls.all())))
                bar.update()
        _logger.info("%s: %s", kind, account)

    def _forced(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> Iterator[tuple[int, Likelihood]]:
        if not pairs:
            return iter(())
        prompts, texts = zip(*pairs, strict=True)
        rows = self._rows(self._run.policy, max(map(len, prompts)), max(map(len, texts)), len(pairs))
        options = ReplayOptions(rows, self._run.engine.prefill_chunk)
        return likelihoods(self._model, prompts, texts, self._run.policy, options)

    def _fitted(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[Tokens, Tokens]:
        """A context without its beginning, if it does not fit. The last token of a continuation takes no place."""
        room = self.max_length + 1 - len(continuation)
        if room < 1:
            said = f"a continuation has {len(continuation)} tokens, and the model's context {self.max_length}"
            raise ImpossibleError(f"loglikelihood: {said}")
        self._accounts["loglikelihood"].cut += len(context) > room
        return tuple(context[-room:]), tuple(continuation)

    def _written(self, requests: Sequence[Instance], account: Account) -> Iterator[tuple[int, Generated]]:
        """Each request's generation with its place, as it ends. Those that are asked for alike are written together."""
        eos, groups = str(self.tokenizer.decode(self.eot_token_id)), defaultdict(list)
        for place, (request, name) in enumerate(zip(requests, names(requests), strict=True)):
            text, given = request.args
            asked = Asked.of(given, self._run.sampling, self.max_gen_toks, eos)
            tokens = self.tok_encode(text) or [self.prefix_token_id]
            room = self.max_length - asked.most
            if room < 1:
                allowed = f"below {self.max_length}, of which a prompt takes some"
                raise ImpossibleError(f"gen_kwargs: max_gen_toks={asked.most}: must be {allowed}")
            account.cut += len(tokens) > room
            groups[asked.most, asked.sampling].append((place, Prompt(name, tokens[-room:], asked.stop)))
        for (most, sampling), waiting in groups.items():
            waiting.sort(key=lambda pair: -len(pair[1].tokens))
            policy = self._settings.experiment(most).policy
            rows = self._rows(policy, len(waiting[0][1].tokens), most, len(waiting))
            engine = self._run.engine
            options = Options(self._engine, rows, engine.prefill_rows, engine.prefill_chunk)
            prompts = [prompt for _, prompt in waiting]
            for index, made in stream(self._model, self.tokenizer, prompts, policy, most, sampling, options):
                yield waiting[index][0], made

    def _rows(self, policy: Policy, prompt: int, text: int, waiting: int) -> int:
        """How many rows go together. prompt, text: tokens of the longest."""
        engine, config, dtype = self._run.engine, self._model.config, self._run.dtype
        if isinstance(engine.batch_size, int):
            return engine.batch_size
        row = sizes.cache_bytes(config, policy, dtype, prompt, text)
        beside = sizes.prefill_bytes(config, policy, dtype, prompt + text, prompt + text)
        beside += sizes.cache_bytes(config, policy, dtype, prompt, 1)  # of a prompt that is to take a row
        return min(rows_that_fit(row, beside, self._model.device), self._settings.max_batch_size or waiting, waiting)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside its results: versions, the policy with its budgets, and what the caches held."""
        run = self._run
        return {
            "scope_version": __version__,
            "scope_commit": records.surroundings()["commit"],
            "model_num_parameters": self._model.num_parameters(),
            "model_dtype": run.dtype,
            "model_sha": run.model.fingerprint(),
            "method": records.describe(run.method),
            "decoding": records.describe(run.decoding),
            "budget": run.config["budget"],
            "cache": {"granularity": run.granularity, "precision": run.precision},
            "window": self._settings.window,
            "held": {kind: account.told() for kind, account in self._accounts.items()},
        }
