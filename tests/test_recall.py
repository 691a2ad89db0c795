"""Facts in plain English: what is asked stands in the prompt or in what was written, and the gold text says just that.

Oracle: a re-reader that knows the words of the lists, and nothing of how a prompt is made.
"""

import re
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from golden import composed
from helpers.tokenizers_made import KINDS, made

from scope.generation.prompts import encode, forced_tokens
from scope.tasks import Recall, RecallWritten, Sample
from scope.tasks.facts import COLOURS, IDLE, OWNERS, PLACES, WORDINGS
from scope.tasks.facts import KINDS as THINGS
from scope.util.errors import ConfigError, ImpossibleError, SettingError

SMALL = Recall(8, 1.0, "shuffled", 40, 0, 0, 400, prompts=3)
WRITTEN = RecallWritten(6, 1.0, "shuffled", 400, prompts=3)
KNOWN = (*OWNERS, *COLOURS, *THINGS, *PLACES)


def named(text: str) -> list[str]:
    """All names, colours, things, places and numbers of a text, in its order."""
    return [word for word in re.findall(r"[A-Za-z]+|\d+", text) if word in KNOWN or word.isdigit()]


def lines(text: str) -> list[tuple[int, str]]:
    found = [re.fullmatch(r"Item (\d+): (.*)", line) for line in text.split("\n")]
    return [(int(one[1]), one[2]) for one in found if one]


def answers(sample: Sample) -> list[tuple[int, str]]:
    assert sample.gold
    return lines(sample.gold.text)


def values(sample: Sample) -> list[str]:
    assert sample.gold
    return [sample.gold.text[begin:end] for begin, end in sample.gold.spans]


# the facts


def test_sentences_say_five_values_each_once_and_no_word_that_could_be_taken_for_one() -> None:
    for wording in WORDINGS:
        assert sorted(re.findall(r"\{(\w+)\}", wording)) == ["colour", "kind", "owner", "place", "price"]
    for text in (*WORDINGS, *IDLE):
        assert named(re.sub(r"\{\w+\}", "", text)) == []
    assert len(set(KNOWN)) == len(KNOWN)
    assert len({" ".join(wording.split()[:3]) for wording in WORDINGS}) == len(WORDINGS) == 40


@pytest.mark.parametrize(
    "task",
    [SMALL, replace(SMALL, facts=38, idle=2, distance=9), replace(SMALL, wordings=1), replace(SMALL, asked=0.5)],
    ids=str,
)
def test_an_answer_follows_from_the_line_of_the_prompt_that_has_its_number(task: Recall) -> None:
    for sample in task.samples():
        list_, shown = sample.prompt.split("\n\nHere is the list once more")
        listed, facts = lines(list_), dict(lines(list_))
        assert [number for number, _ in listed] == list(range(1, task.facts + 3))
        assert len(answers(sample)) == round(task.facts * task.asked)
        for number, said in answers(sample):
            assert number > 2  # the first two are said again in the prompt
            assert facts[number].startswith(said)
            assert named(said) == named(facts[number])
            assert len(named(said)) == 5
        assert values(sample) == [word for _, said in answers(sample) for word in named(said)]
        assert [facts[number].startswith(said) for number, said in lines(shown)] == [True, True]
        assert sample.prompt.endswith(f"{lines(shown)[1][1]}\n")


def test_no_two_facts_of_a_prompt_have_one_owner_price_or_thing_and_colours_and_places_go_round() -> None:
    for sample in replace(SMALL, facts=38, prompts=5).samples():
        facts = [named(text) for _, text in lines(sample.prompt.split("\n\nHere")[0])]
        assert all(len(fact) == 5 for fact in facts)
        for part in (OWNERS, [str(n) for n in range(100)]):
            used = [word for fact in facts for word in fact if word in part]
            assert len(set(used)) == len(used) == 40
        assert len({word for fact in facts for word in fact if word in THINGS}) == 40
        for part, most in ((COLOURS, 4), (PLACES, 2)):  # 40 over 12, and over 25
            counts = [sum(word in fact for fact in facts) for word in part]
            assert most - 1 <= min(counts) <= max(counts) == most


def test_each_value_counts_for_itself() -> None:
    (sample,) = replace(SMALL, facts=4, prompts=1).samples()
    assert sample.gold
    text = sample.gold.text
    begin, end = next(span for span in sample.gold.spans if text[slice(*span)] in COLOURS)
    other = next(colour for colour in COLOURS if colour != text[begin:end])
    wrong = f"{text[:begin]}{other}{text[end:]}"
    assert SMALL.measures(sample, wrong) == {"values": 19 / 20}
    assert SMALL.measures(sample, text.partition("\n")[0]) == {"values": 5 / 20}
    assert SMALL.measures(sample, "") == SMALL.measures(sample, "I cannot say.") == {"values": 0.0}
    assert SMALL.measures(sample, text) == {"values": 1.0}
    assert SMALL.measures(sample, text + text.replace("Item 3: ", "Item 3: Ben ")) == {
        "values": 1.0
    }  # the first counts
    everything = "\n".join(f"Item {number}: {' '.join(KNOWN)} 1 2 3" for number, _ in answers(sample))
    assert SMALL.measures(sample, everything)["values"] <= 1 / 20  # naming all words is no answer


# its settings


def test_order_share_idle_sentences_and_distance_are_what_they_say() -> None:
    def asked(**settings: Any) -> list[int]:
        (sample,) = replace(SMALL, facts=20, prompts=1, **settings).samples()
        order = re.search(r"in the order 1, 2, ([\d, ]+)\.\n", sample.prompt)
        assert order
        assert [int(number) for number in order[1].split(", ")] == [number for number, _ in answers(sample)]
        return [number for number, _ in answers(sample)]

    assert asked(order="listed") == list(range(3, 23))
    assert asked(order="reversed") == list(range(22, 2, -1))
    assert sorted(asked()) == list(range(3, 23)) != asked()
    assert asked(order="listed", asked=0.25) == sorted(asked(order="shuffled", asked=0.25))
    assert asked(order="listed", asked=0.25) != list(range(3, 8))  # distractors lie between
    assert len(asked(asked=0.001)) == 1
    bare, far, idle = (replace(SMALL, prompts=1, **more).samples()[0] for more in ({}, {"distance": 30}, {"idle": 3}))
    assert bare.gold == far.gold == idle.gold
    said = [sum(sample.prompt.count(sentence) for sentence in IDLE) for sample in (bare, far, idle)]
    assert said[:2] == [0, 30]
    assert 0 < said[2] <= 30
    last, asking = far.prompt.index("Item 10:"), far.prompt.index("Here is the list once more")
    assert all(last < far.prompt.index(sentence) < asking for sentence in IDLE if sentence in far.prompt)


@pytest.mark.parametrize("task", [SMALL, WRITTEN], ids=["recall", "recall_written"])
def test_samples_are_those_of_their_seed_and_split_however_many_are_taken(task: Recall | RecallWritten) -> None:
    samples = task.samples()
    assert samples == replace(task, prompts=3).samples() == replace(task, prompts=9).samples()[:3]
    others = [replace(task, seed=1), replace(task, split="search"), replace(task, split="choice")]
    texts = [sample.prompt for one in (task, *others) for sample in one.samples()]
    assert len(set(texts)) == len(texts) == 12
    names = [sample.name for one in (task, *others) for sample in one.samples()]
    assert len(set(names)) == 12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", [SMALL, WRITTEN], ids=["recall", "recall_written"])
def test_answer_tokens_hold_all_values_and_little_else(task: Recall | RecallWritten, kind: str) -> None:
    for sample in task.samples():
        assert sample.gold
        tokens, marked = forced_tokens(made(kind), sample.gold)
        offsets = made(kind)(sample.gold.text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        covered = [sample.gold.text[b:e] for (b, e), is_value in zip(offsets, marked, strict=True) if is_value]
        assert len(tokens) == len(marked)
        kept = re.sub(r"\W", "", "".join(covered))
        assert kept == "".join(values(sample))


# what is written first


def test_written_facts_stand_in_no_prompt_and_are_said_again_as_they_were_written() -> None:
    for sample in replace(WRITTEN, facts=30, asked=0.5).samples():
        assert sample.gold
        assert sample.questions == ()  # a generation of the model's own has other facts
        first, second = sample.gold.text.split("\n\nOnce more:\n")
        written, said = dict(lines(first)), lines(second)
        assert list(written) == list(range(3, 33))
        assert len(said) == 15
        for number, text in said:
            assert text == written[number]
            assert text not in sample.prompt
        order = re.search(r"of the items ([\d, ]+), in this order", sample.prompt)
        assert order
        assert order[1] == ", ".join(str(number) for number, _ in said)
        assert values(sample) == [word for _, text in said for word in named(text)]
        assert all(begin > len(first) for begin, _ in sample.gold.spans)


def test_a_generation_is_held_against_its_own_list() -> None:
    (sample,) = replace(WRITTEN, facts=2, order="listed", prompts=1).samples()
    mine = "Item 3: Ann sells figs.\nItem 4: Ian sells old tea.\n\nOnce more:\nItem 3: Ann sells figs.\n"
    assert WRITTEN.measures(sample, mine + "Item 4: Ian sells old tea.") == {"words": 1.0}
    assert WRITTEN.measures(sample, mine + "Item 4: Ian sells new tea.") == {"words": 6 / 7}
    assert WRITTEN.measures(sample, mine) == {"words": 3 / 7}
    assert WRITTEN.measures(sample, mine.partition("Once")[0]) == {"words": 0.0}
    assert WRITTEN.measures(sample, mine.partition("\n\n")[2]) == {"words": 0.0}
    assert WRITTEN.measures(sample, mine.replace("Item 4: Ian sells old tea.\n", "")) == {"words": 3 / 4}
    assert sample.gold
    assert WRITTEN.measures(sample, sample.gold.text) == {"words": 1.0}


# as settings


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"facts": 0}, "Recall.facts=0: must be a whole number of at least 1"),
        ({"facts": 39}, "Recall.facts=39: must be a whole number of at most 38"),
        ({"asked": 0}, "Recall.asked=0: must be a number above 0 and at most 1"),
        ({"asked": "all"}, "Recall.asked=all: must be a number above 0"),
        ({"asked": True}, "Recall.asked=true: must be a number above 0"),
        ({"order": "shufled"}, "Recall.order=shufled: must be one of listed, reversed, shuffled"),
        ({"wordings": 41}, "Recall.wordings=41: must be a whole number of at most 40"),
        ({"idle": -1}, "Recall.idle=-1: must be a whole number of at least 0"),
        ({"split": "test"}, "Recall.split=test: must be one of search, choice, report"),
        ({"max_new_tokens": 0}, "Recall.max_new_tokens=0: must be a whole number of at least 1"),
        ({"prompts": 0}, "Recall.prompts=0: must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(said)}"):
        replace(SMALL, **setting)


@pytest.mark.parametrize("task", ["recall", "recall_written"])
def test_a_configuration_makes_it_and_its_length_lets_the_gold_text_end(task: str) -> None:
    experiment = composed(f"task={task}", "task.prompts=2")
    for sample in experiment.task.samples():
        assert sample.gold
        assert len(sample.gold.text) / 3 < experiment.task.max_new_tokens  # English has over 3 characters a token
    one, another = (composed(f"task={task}", f"task.split={split}").identity() for split in ("search", "report"))
    assert one != another
    assert composed(f"task={task}", "task.prompts=5").identity() == composed(f"task={task}").identity()


# in several turns


def test_turns_ask_for_all_facts_once_each_in_its_turn() -> None:
    task = replace(SMALL, turns=3)
    for sample, whole in zip(task.samples(), SMALL.samples(), strict=True):
        assert sample.gold
        assert [numbers_of(turn) for turn in sample.turns] == [
            [number for number, _ in answers(whole)[3:6]],
            [number for number, _ in answers(whole)[6:]],
        ]
        assert numbers_of(sample.prompt)[2:] == [number for number, _ in answers(whole)[:3]]
        assert answers(sample) == answers(whole)
        assert values(sample) == values(whole)


def numbers_of(asking: str) -> list[int]:
    """The numbers that the last sentence about an order names."""
    return [int(number) for number in re.findall(r"\d+", re.findall(r"in the order ([\d, ]+)\.", asking)[-1])]


def test_each_turn_has_a_measure_of_its_own() -> None:
    task = replace(SMALL, turns=3)
    sample = task.samples()[0]
    said = [f"Item {number}: {line}" for number, line in answers(sample)]
    assert task.measures(sample, "\n".join(said)) == {"values": 1.0, "values_1": 1.0, "values_2": 1.0, "values_3": 1.0}
    assert task.measures(sample, "\n\n".join(said[:4])) == {
        "values": 0.5,
        "values_1": 1.0,
        "values_2": pytest.approx(1 / 3),
        "values_3": 0.0,
    }


def test_a_configuration_says_what_turns_are_and_a_replay_takes_none() -> None:
    asked = ("task=recall", "task.turns=3", "task.prompts=1")
    plain, protect, flow = (composed(*asked, *more) for more in ((), ("cache.turns=protect",), ("cache.turns=flow",)))
    assert (plain.policy.turns, flow.policy.turns) == ("protect", "flow")
    assert plain.identity() == protect.identity() != flow.identity()
    assert (
        composed("task=recall", "task.turns=1", "cache.turns=protect").identity() == composed("task=recall").identity()
    )
    with pytest.raises(ImpossibleError, match=r"^measure=replay: .* this task asks again: task\.turns=1$"):
        composed(*asked, "measure=replay").identity()
    with pytest.raises(ConfigError, match=r"cache.turns=keep: must be one of protect, flow"):
        composed(*asked, "cache.turns=keep")


def test_turns_become_tokens_of_their_own_and_leave_less_of_the_context() -> None:
    tokenizer = made("bytes")
    sample = replace(SMALL, turns=3).samples()[0]
    prompt = encode(tokenizer, sample, "plain", None, "refuse")
    assert [tokenizer.decode(list(turn)) for turn in prompt.turns] == list(sample.turns)
    assert prompt.hash != encode(tokenizer, replace(sample, turns=()), "plain", None, "refuse").hash
    experiment = composed("task=recall", "task.turns=3", "task.max_new_tokens=50")
    needed = len(prompt.tokens) + sum(len(turn) + 50 for turn in prompt.turns)
    assert experiment.encoded(tokenizer, sample, needed, date(2026, 1, 1)).tokens == prompt.tokens
    with pytest.raises(ImpossibleError, match="does not fit the model's context"):
        experiment.encoded(tokenizer, sample, needed - 1, date(2026, 1, 1))
