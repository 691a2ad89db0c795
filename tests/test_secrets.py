"""Secrets: told by name, shape, place and value, and masked wherever something is written."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.command import SMALLEST, in_a_process

from scope.util.secrets import command_line, redact

ROOT = Path(__file__).parents[1]
COMMIT = "0f3a5b7c9d1e2f4a6b8c0d2e4f6a8b0c2d4e6f8a"


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without logins; -> the home folder."""
    for name in [name for name in os.environ if any(part in name for part in ("TOKEN", "KEY", "HF_", "NETRC", "XDG"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


VARIABLES = (
    "HF_TOKEN WANDB_API_KEY GITHUB_PAT DB_PASS PRIVATE_KEY OPENAI_KEY MY_SECRET PGPASSWORD AWS_SECRET_ACCESS_KEY "
    "SSH_PASSPHRASE MYSQL_PWD github_pat openaiKey GOOGLE_CREDENTIALS SERVICE_AUTH SIGNING_KEY APP_PAT_2 STRIPE_APIKEY "
    "SESSION_COOKIE CI_JWT ANTHROPIC_AUTH_TOKEN"
)


@pytest.mark.parametrize("name", VARIABLES.split())
def test_what_a_variable_named_like_a_secret_holds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "Zq4-unheard/of+Value")
    text = "said 'Zq4-unheard/of+Value' at http://x/Zq4-unheard%2Fof%2BValue"
    assert redact(text) == "said '***' at http://x/***"
    assert redact({"a": ["x Zq4-unheard/of+Value"]}) == {"a": ["x ***"]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSH_AUTH_SOCK", "/run/user/1000/keyring"),
        ("TOKENIZERS_PARALLELISM", "falsehoods"),
        ("MY_PASS", "true"),
        ("MY_PASS", "password1"),
        ("MY_TOKEN", "disabled"),
        ("LOGIN_TOKEN", "20260101"),
        ("KEYBOARD_LAYOUT", "qwertz-swiss"),
        ("COMPASS", "north-north-west"),
        ("GOOGLE_APPLICATION_CREDENTIALS", str(ROOT / "main.py")),
        ("MONKEY", "chimpanzee-1"),
    ],
)
def test_what_is_no_secret(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redact(f"a text with {value} in it") == f"a text with {value} in it"


def test_a_weak_password_is_masked_where_it_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASS", "streaming")
    assert redact("streamingllm, x=streaming 'streaming'") == "streamingllm, x=*** '***'"


def test_a_key_of_several_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    value = "begin\nfirst+line/of=it\nsecond\nend"
    monkeypatch.setenv("DEPLOY_PRIVATE_KEY", value)
    assert redact(value) == redact(" ".join(value.split())) == "***"
    assert redact(json.dumps({"a": value})) == '{"a": "***"}'
    pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\ndef\n-----END OPENSSH PRIVATE KEY-----"
    assert redact(f"x {pem} y") == "x *** y"
    assert redact("-----BEGIN RSA PRIVATE KEY----- abc de") == "***"  # cut off
    assert redact("-----BEGIN PUBLIC KEY----- abc") == "-----BEGIN PUBLIC KEY----- abc"


LETTERS = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF"
SHAPES = [
    f"hf_{LETTERS}",
    f"sk-{LETTERS}",
    f"sk-proj-{LETTERS}-{LETTERS}",
    f"sk-ant-api03-{LETTERS}-AA",
    f"ghp_{LETTERS}",
    f"gho_{LETTERS}",
    f"github_pat_11AAAAAAA0_{LETTERS}",
    "glpat-aB3dE6gH9jK2mN5pQ8sT",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "xoxb-123456789012-abcdefABCDEF",
    "xoxp-123456789012-abcdefABCDEF",
    f"AIza{LETTERS}abc",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    f"npm_{LETTERS}abcd",
    f"pypi-{LETTERS}{LETTERS}",
    f"sk_live_{LETTERS}",
    f"gsk_{LETTERS}",
    f"dckr_pat_{LETTERS}",
]


@pytest.mark.parametrize("secret", SHAPES)
@pytest.mark.parametrize("text", ["{}", "model.revision={}", "at '{}', and", "https://x/{}/y", '{{"a": "{}"}}'])
def test_tokens_of_services_are_known_by_their_shape(secret: str, text: str) -> None:
    assert redact(text.format(secret)) == text.format("***")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        ("-H 'Authorization: token abcdef'", "-H 'Authorization: token ***'"),
        ("sent Bearer abc.def-123456 on", "sent Bearer *** on"),
        ("https://me:pass@host/x", "https://***@host/x"),
        ("https://x/y?a=1&token=abc&b=2", "https://x/y?a=1&token=***&b=2"),
        ("https://x/y?api_key=abc", "https://x/y?api_key=***"),
        ("https://x/y?key=abc#z", "https://x/y?key=***"),
        ("+model.token=abc model.path=x", "+model.token=*** model.path=x"),
        ("tracking.password=abc,def seed=1", "tracking.password=*** seed=1"),
        ("++a.api-key='a b' seed=1", "++a.api-key=*** seed=1"),
        ("a.token=abc: must be x", "a.token=***: must be x"),
        ("model={token:abc,path:x}", "model={token:***,path:x}"),
        ('{"x": 1, "password": "a b"}', '{"x": 1, "password": ***}'),
        ("https://hooks.slack.com/services/T0/B0/xyz", "https://hooks.slack.com/services/***"),
    ],
)
def test_secrets_in_text(text: str, masked: str) -> None:
    assert redact(text) == masked
    assert redact(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        f"commit {COMMIT} of main",
        f"model.revision={COMMIT}",
        "model.path=meta-llama/Llama-3.1-8B-Instruct",
        "model.path=THUDM/glm-4-9b-chat-1m-hf",
        "task.max_new_tokens=9000 sampling.min_new_tokens=1",
        "write key=value, or key=value,value with -m",
        "password: must be given",
        "the tokens of a prompt; token=3 of 9".replace("token=3", "tokens=3"),
        "a bearer of news, Bearer tokens, Basic sweepers",
        "task-specific-model-with-a-long-name sk-learn",
        "eyJ is how such a token begins",
        "hf_transfer and hf_hub_download",
        "prompts: <|eot_id|> eos_token=</s> sort_key=name answer_key=B",
    ],
)
def test_what_looks_a_little_like_a_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_settings_named_like_secrets_are_masked_whole() -> None:
    given = {
        "token": "abc",
        "model": {"hf_token": "x", "password": 12345678, "apiKey": "k", "api-key": "k", "key": "v", "private_key": "p"},
        "list": [{"client_secret": "s"}, ("PAT", "kept")],
    }
    said = json.dumps(redact(given))
    assert said.count("***") == 8
    kept: dict[str, Any] = {
        "max_new_tokens": 9,
        "eos_token": "</s>",
        "eos_token_id": 2,
        "answer": "answerKey",
        "answerKey": "string",
        "key": 3,
        "pass": True,
        "token": None,
        "secret": "",
        "prompt_tokens": [1, 2],
        "commit": COMMIT,
        "identity": COMMIT + COMMIT[:24],
        "rate": 0.5,
    }
    assert redact(kept) == kept


def test_masking_twice_changes_nothing_more() -> None:
    given = {"token": "abc", "text": f"{SHAPES[0]} https://u:p@h/?key=1 a.secret=b", "plain": ["x"]}
    assert redact(redact(given)) == redact(given)


def test_what_files_of_a_login_hold(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nobody / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {COMMIT}\n")
    (nobody / ".netrc").chmod(0o600)
    hub = nobody / ".cache" / "huggingface"
    hub.mkdir(parents=True)
    (hub / "token").write_text("the-hubs-own-token\n")
    (hub / "stored_tokens").write_text("[work]\nhf_token = another-of-the-hub%s\n")
    assert redact(f"{COMMIT} the-hubs-own-token another-of-the-hub%s user") == "*** *** *** user"
    monkeypatch.setenv("HF_TOKEN_PATH", str(nobody / "elsewhere"))
    (nobody / "elsewhere").write_text("a-token-elsewhere")
    assert redact("a-token-elsewhere the-hubs-own-token") == "*** the-hubs-own-token"


def test_a_file_that_is_no_login_is_passed_over(nobody: Path) -> None:
    (nobody / ".netrc").write_text("machine\n\nnonsense ' \"")
    (nobody / ".cache" / "huggingface" / "token").mkdir(parents=True)
    assert redact("as it was") == "as it was"


def test_a_command_line_says_what_to_put_in_again() -> None:
    assert command_line(["python", "main.py", "a=b c"]) == "python main.py 'a=b c'"
    assert command_line(["python", f"x={SHAPES[0]}"]) == "python 'x=***'  # ***: a secret, to be put in again"


def leaks(folder: Path, *secrets: str) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(s.encode() in path.read_bytes() or s in path.name for s in secrets)]


@pytest.mark.slow
def test_a_run_leaves_no_secret_anywhere(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    secret, named = f"hf_{LETTERS}", "unheard-of-value"
    words = ["tracking=wandb", f"model.thinking=[{secret},end]", f"+hydra.job.env_set.A={named}"]
    work = tmp_path / "work"
    work.mkdir()
    done = in_a_process(work, *words, *SMALLEST, WANDB_API_KEY="a1" * 20, MY_PAT=named)
    assert done.returncode == 0, done.stderr
    (run,) = work.glob("outputs/*/*/config.yaml")
    assert yaml.safe_load(run.read_text())["model"]["thinking"] == ["***", "end"]
    assert list(run.parent.glob("wandb/offline-run-*/run-*.wandb"))
    assert leaks(work, secret, named, "a1" * 20) == []
    assert secret not in done.stdout + done.stderr
    again = in_a_process(work, *words, *SMALLEST)
    assert "was finished already" in again.stdout  # what is masked tells no run from another


@pytest.mark.slow
def test_a_preset_that_reads_the_environment_shows_nothing(tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "nice.yaml").write_text(
        "# @package _global_\nmodel:\n  thinking: ['x-${oc.env:MY_PAT}-${oc.env:PLAIN}', end]\n"
    )
    work = tmp_path / "work"
    work.mkdir()
    words = [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "experiment=nice", *SMALLEST]
    done = in_a_process(work, *words, MY_PAT="unheard-of-value", PLAIN=f"ghp_{LETTERS}")
    assert done.returncode == 0, done.stderr
    assert leaks(work, "unheard-of-value", LETTERS) == []


@pytest.mark.slow
def test_what_is_printed_of_a_sweep_and_of_a_refusal_has_no_secret(tmp_path: Path) -> None:
    secret = f"glpat-{LETTERS}"
    nowhere = tmp_path / secret
    words = [f"model.path={nowhere},embedded", "budget.recent=16,99", f"+hydra.job.env_set.A_TOKEN={secret}x"]
    done = in_a_process(tmp_path, "-m", *words, *SMALLEST[:-1])
    assert done.returncode == 1
    said = done.stdout + done.stderr
    for line in ("repeat it alone: python main.py", "skipped ", "REFUSED "):
        assert line in said
    assert "# ***: a secret, to be put in again" in said
    assert LETTERS not in said
    refused = in_a_process(tmp_path, f"model.dtype={secret}")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: model.dtype=***: must be one of")
