"""`python -m scope.calibrate`, and runs that read what it keeps. Oracle: the library's own `calibrate` on the same
tokens; damaged files."""

import json
from pathlib import Path

import pytest
from helpers.command import SMALLEST, Scope
from safetensors.torch import save_file

from scope.calibrate import EntropiesOfModel, OfModel, calibrate, keep
from scope.calibrate.kept import place_of
from scope.cli.calibrate import main
from scope.cli.door import composed
from scope.generation.models import ModelSource, load
from scope.policy.layer_entropies import LayerEntropies
from scope.policy.query_statistics import QueryStatistics
from scope.tasks import Arithmetic
from scope.util.errors import ConfigError

EMBEDDED = ModelSource(threads=1, layout="plain")
COMMAND = "python -m scope.calibrate model=embedded"
SHORT = ["model=embedded", "task=arithmetic", "task.prompts=2", "task.questions=3"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("option", ["decoding=triattention", "method=entropy"])
def test_without_statistics_one_line_names_the_command(option: str, scope: Scope) -> None:
    said = scope(option, "limit=1", code=2)
    assert said.out == ""
    assert said.err == f"error: {option}: needs statistics of the model, once: {COMMAND}\n"


def test_a_file_without_entropies_serves_the_queries_only() -> None:
    """Such files were written before entropies were measured."""
    queries = calibrate(load(EMBEDDED).model, [[5, 6, 7]]).queries
    place_of(EMBEDDED).parent.mkdir(parents=True)
    tensors = {"means": queries.means, "magnitudes": queries.magnitudes}
    save_file(tensors, place_of(EMBEDDED), {"sha256": queries.sha256})
    assert OfModel(EMBEDDED).sha256 == queries.sha256
    with pytest.raises(ConfigError, match=rf"^method=entropy: needs statistics of the model, once: {COMMAND}$"):
        EntropiesOfModel(EMBEDDED)


def test_the_command_names_a_model_of_ones_own_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=rf"python -m scope\.calibrate model=hf model\.path={tmp_path}$"):
        OfModel(ModelSource(str(tmp_path)))


def test_the_command_keeps_what_the_library_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SHORT) == 0
    said = capsys.readouterr().out
    loaded = load(EMBEDDED)
    samples = Arithmetic(questions=3, prompts=2).samples()
    texts = [loaded.tokenizer(sample.prompt).input_ids for sample in samples]
    expected = calibrate(loaded.model, texts)
    read = f"2 texts, {sum(map(len, texts))} tokens"
    nats = ", ".join(map(str, expected.entropies.nats))
    assert said.startswith(f"{read}; SHA-256 of the query statistics: {expected.queries.sha256}\n")
    assert f"\nentropy of the attention in each layer, in nats: {nats}\n" in said
    assert said.endswith(f"written: {place_of(EMBEDDED)}\n")
    kept = OfModel(EMBEDDED)
    assert kept.means.equal(expected.queries.means)
    assert kept.magnitudes.equal(expected.queries.magnitudes)
    assert kept.sha256 == expected.queries.sha256
    assert EntropiesOfModel(EMBEDDED).nats == expected.entropies.nats


@pytest.mark.parametrize("words", [("method=full", "decoding=triattention", "decoding.every=8"), ("method=entropy",)])
def test_other_statistics_make_another_run(words: tuple[str, ...], scope: Scope) -> None:
    def identity() -> str:
        return composed(words)[0].experiment.identity()

    loaded = load(EMBEDDED)
    one, two = (calibrate(loaded.model, [[5, 6, 7, last]]) for last in (8, 9))
    keep(EMBEDDED, one)
    first = identity()
    keep(EMBEDDED, two)
    assert identity() != first
    keep(EMBEDDED, one)
    assert identity() == first
    assert scope(*words, *SMALLEST).err == ""


def changed(whole: bytes) -> bytes:
    """One bit of every tensor of a file is another."""
    length = int.from_bytes(whole[:8], "little")
    altered = bytearray(whole)
    for name, about in json.loads(whole[8 : 8 + length]).items():
        if name != "__metadata__":
            altered[8 + length + about["data_offsets"][0]] ^= 1
    return bytes(altered)


@pytest.mark.parametrize("fault", ["cut", "changed", "other"])
def test_a_damaged_file_is_named(fault: str) -> None:
    found = calibrate(load(EMBEDDED).model, [[5, 6, 7]])
    path = keep(EMBEDDED, found)
    whole = path.read_bytes()
    if fault == "cut":
        path.write_bytes(whole[:-5])
    elif fault == "changed":
        path.write_bytes(changed(whole))
    else:
        path.write_bytes(b"not of this kind")
    for kind in (OfModel, EntropiesOfModel):
        with pytest.raises(ConfigError, match=rf"\.safetensors: is damaged: .+: {COMMAND} makes it anew"):
            kind(EMBEDDED)


def test_a_hash_stands_for_the_tensors_in_what_is_recorded() -> None:
    keep(EMBEDDED, calibrate(load(EMBEDDED).model, [[5, 6, 7]]))
    experiment = composed(["decoding=triattention"])[0].experiment
    described = experiment.settings(limits=False)["decoding"]["statistics"]
    assert described == {"type": QueryStatistics.recorded_as, "sha256": OfModel(EMBEDDED).sha256}


def test_the_entropies_are_recorded() -> None:
    found = calibrate(load(EMBEDDED).model, [[5, 6, 7]])
    keep(EMBEDDED, found)
    described = composed(["method=entropy"])[0].experiment.settings(limits=False)["method"]["statistics"]
    assert described == {"type": LayerEntropies.recorded_as, "nats": found.entropies.nats}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=nothing"], "model=nothing: must be one of"),
        (["model=embedded", "tsk=1"], "tsk: no such key"),
        (["model=hf", "model.path=/no/such"], "model.path=/no/such"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    words: list[str], said: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
    assert not list(cache.rglob("*.safetensors"))
