"""Windows of one's own texts. Oracles: the files themselves, and the tokenizer's own count of every part."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from helpers.tokenizers_made import KINDS, Given, made
from hypothesis import given, settings
from hypothesis import strategies as st

from scope.generation.prompts import encode, render
from scope.tasks import Sample, Text
from scope.tasks.text import windows
from scope.util.errors import ConfigError, SettingError

SMALL = Text(Given(), 30, 10, prompts=1000)
# A long run of spaces can fill a part, which then ends within it. Some Pythons have such runs in this text.
ENGLISH = re.sub(" {4,}", "    ", topics["assignment"])


def count(text: str, kind: str = "bytes") -> int:
    return len(made(kind)(text, add_special_tokens=False).input_ids)


def parts(samples: list[Sample], cluster: str) -> str:
    return "".join(s.prompt + s.gold.text for s in samples if s.cluster == cluster and s.gold)


# windows


@pytest.mark.parametrize("kind", KINDS)
def test_windows_follow_one_another_and_fill_their_tokens_between_words(kind: str) -> None:
    found = windows(made(kind), ENGLISH, (60, 20))
    joined = "".join(part for window in found for part in window)
    assert ENGLISH.startswith(joined)
    assert count(ENGLISH[len(joined) :], kind) < 80 + 2
    assert len(found) > 10
    end = 0
    for window in found:
        for part, most in zip(window, (60, 20), strict=True):
            end += len(part)
            assert re.match(r"\S\s", ENGLISH[end - 1 : end + 1])
            one_more_word = re.match(r"\s*\S+", ENGLISH[end:])
            assert count(part, kind) <= most
            assert one_more_word is None or most <= count(part + one_more_word[0], kind) + 1


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)  # the first makes the tokenizer
@given(
    text=st.lists(
        st.sampled_from(["word", " ", "  ", "\n", "supercalifragilistic", "漢字漢字漢字", "é", "1234567"])
    ).map("".join),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_windows_of_any_text_are_its_beginning_and_no_part_is_empty(
    kind: str, text: str, sizes: tuple[int, int]
) -> None:
    found = windows(made(kind), text, sizes)
    assert text.startswith("".join(part for window in found for part in window))
    assert all(part for window in found for part in window)


def test_a_window_that_is_just_filled_counts_and_one_that_lacks_a_token_does_not() -> None:
    text = " one" * 400
    (each,) = {count(" one" * n) / n for n in range(1, 5)}
    assert windows(made("bytes"), text[: 4 * 40], (int(30 * each), int(10 * each))) == [(" one" * 30, " one" * 10)]
    assert windows(made("bytes"), text[: 4 * 39], (int(30 * each), int(10 * each))) == []


# sources


def write_files(folder: Path) -> dict[str, str]:
    """A text of each kind, and what is no text."""
    rng = random.Random(3)
    texts = {name: " ".join(rng.choices(ENGLISH.split(), k=300)) for name in ("a.txt", "deep/b.md", "deep/c.txt")}
    (folder / "deep").mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
    rows = [{"body": " ".join(rng.choices(ENGLISH.split(), k=200))} for _ in range(2)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "picture.png").write_bytes(b"\x89PNG\xff")
    return texts | {f"rows.jsonl:{number}": row["body"] for number, row in enumerate(rows, start=1)}


def test_a_folder_gives_the_windows_of_all_its_texts_each_a_cluster(tmp_path: Path) -> None:
    texts = write_files(tmp_path)
    samples = replace(SMALL, source=str(tmp_path), column="body").samples()
    assert list(dict.fromkeys(sample.cluster for sample in samples)) == [str(tmp_path / name) for name in texts]
    for name, text in texts.items():
        joined = parts(samples, str(tmp_path / name))
        assert text.startswith(joined)
        assert count(text[len(joined) :]) < 42
    assert len({sample.name for sample in samples}) == len(samples)


def test_a_file_a_pattern_and_a_folder_name_their_files(tmp_path: Path) -> None:
    write_files(tmp_path)

    def files(source: str) -> set[str]:
        samples = replace(SMALL, source=source, column="body").samples()
        return {str(Path(sample.cluster).relative_to(tmp_path)) for sample in samples}

    assert files(f"{tmp_path}/deep") == {"deep/b.md", "deep/c.txt"}
    assert files(f"{tmp_path}/*.txt") == {"a.txt"}
    assert files(f"{tmp_path}/**/*.txt") == {"a.txt", "deep/c.txt"}
    assert files(f"{tmp_path}/deep/b.md") == {"deep/b.md"}
    assert files(f"{tmp_path}/rows.jsonl") == {"rows.jsonl:1", "rows.jsonl:2"}


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text(ENGLISH)
    assert {s.cluster for s in replace(SMALL, source=str(tmp_path / "a[1].txt")).samples()} == {
        str(tmp_path / "a[1].txt")
    }


def test_one_window_of_every_text_comes_before_the_second_of_any(tmp_path: Path) -> None:
    texts = write_files(tmp_path)
    samples = replace(SMALL, source=str(tmp_path), column="body").samples()
    first = [sample.cluster for sample in samples[: len(texts)]]
    assert len(set(first)) == len(texts)
    assert replace(SMALL, source=str(tmp_path), column="body", prompts=3).samples() == samples[:3]
    assert replace(SMALL, source=str(tmp_path), column="body", prompts=3, skip=2).samples() == samples[2:5]
    with pytest.raises(ConfigError, match=f"task.skip=1000: must be less than .*, {len(samples)}"):
        replace(SMALL, source=str(tmp_path), column="body", skip=1000).samples()


def test_without_a_source_it_is_the_english_that_python_carries() -> None:
    samples = Text(Given(), 300, 100, prompts=12).samples()
    assert len(samples) == 12 == len({sample.cluster for sample in samples})
    assert all(topics[sample.cluster].startswith(parts(samples, sample.cluster)) for sample in samples)


@pytest.mark.parametrize(
    ("source", "settings", "said"),
    [
        ("no.txt", {}, r"task.source=.*no.txt: there is no such file or folder"),
        ("*.md", {}, r"task.source=.*\*.md: there is no such file or folder"),
        ("picture.png", {}, r"task.source=.*picture.png: must be .txt, .md, .jsonl, a folder of such, or a pattern"),
        ("empty", {}, r"task.source=.*empty: holds no .txt, .md, .jsonl file"),
        ("bad.txt", {}, r"task.source=.*bad.txt: cannot be read: .*"),
        ("a.txt", {"prompt_tokens": 9000}, r"task.source=.*a.txt: no text of it has the 9010 tokens of one window: .*"),
        ("rows.jsonl", {}, r"task.source=.*rows.jsonl: row 1 has no column text; it has body"),
        ("numbers.jsonl", {"column": "n"}, r"task.source=.*numbers.jsonl: row 1: n must be a text"),
    ],
)
def test_a_source_that_gives_no_text_is_named_in_one_line(
    source: str, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    write_files(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "numbers.jsonl").write_text('{"n": 3}\n')
    with pytest.raises(ConfigError) as refused:
        replace(SMALL, source=str(tmp_path / source), **settings).samples()
    assert re.fullmatch(said, str(refused.value))


def test_sizes_that_cannot_be_are_refused() -> None:
    for name in ("prompt_tokens", "continuation_tokens", "prompts"):
        with pytest.raises(SettingError, match=f"Text.{name}=0: must be a whole number of at least 1"):
            replace(SMALL, **{name: 0})


# as a prompt


def test_no_chat_template_goes_around_a_text_and_its_tokens_are_its_own() -> None:
    tokenizer = Given().tokenizer()
    (sample, *_) = SMALL.samples()
    before = encode(tokenizer, sample, "auto", None, "refuse")
    tokenizer.chat_template = "{{ '<s>Say: ' + messages[0]['content'] }}"
    try:
        for layout in ("auto", "chat", "plain", "paper"):
            assert render(tokenizer, sample, layout) == sample.prompt
            assert encode(tokenizer, sample, layout, None, "refuse") == before
            spoken = Sample("p", sample.prompt, ())
            assert ("Say: " in render(tokenizer, spoken, layout)) == (layout in ("auto", "chat"))
    finally:
        tokenizer.chat_template = None
    assert list(before.tokens) == tokenizer(sample.prompt).input_ids


def test_another_text_is_another_run_and_its_place_is_not(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(ENGLISH)
    (tmp_path / "two.md").write_text(ENGLISH)
    (tmp_path / "three.txt").write_text(ENGLISH.replace("the", "a", 1))
    one, two, three = (
        replace(SMALL, source=str(tmp_path / name)).samples()[0].origin for name in ("one.txt", "two.md", "three.txt")
    )
    assert one == two != three
    assert replace(SMALL, source=str(tmp_path / "one.txt"), prompts=2).samples()[0].origin == one
