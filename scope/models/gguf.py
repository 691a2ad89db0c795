"""GGUF files, which transformers reads: the file alone as a folder, and an ordinary folder made of it."""

import importlib.util
import json
import re
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from scope.util.errors import ImpossibleError, ScopeError
from scope.util.files import write_whole

NAME = "model.gguf"  # whatever the file is called elsewhere: a name is no part of a model
MAGIC = b"GGUF"
PART = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$", re.IGNORECASE)
OF_THE_WRITER = ("transformers_version", "is_local", "local_files_only")  # in JSON files, of no use to a reader


def is_gguf(file: Path) -> bool:
    """By its first bytes, since not every GGUF file is called so. Raises OSError for a file that cannot be read."""
    with file.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def require(what: str) -> None:
    """Raises ImpossibleError, beginning with `what`, where the packages that read GGUF files are not installed."""
    if not all(map(importlib.util.find_spec, ("gguf", "accelerate"))):
        raise ImpossibleError(f"{what}: needs gguf and accelerate: pip install -e '.[gguf]'")


@lru_cache(maxsize=8)
def alone(file: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder in which the file is NAME and nothing else lies, for as long as this process lives.

    transformers also reads a template or tokenizer that lies beside a GGUF file; here there is none, so that the
    file's own contents are the model.
    """
    folder = tempfile.TemporaryDirectory(prefix="scope-gguf-")
    (Path(folder.name) / NAME).symlink_to(file.resolve())
    return folder


def unpacked() -> dict[str, Any]:
    """Arguments of from_pretrained: every weight is made plain when it is read.

    Newer versions of transformers otherwise keep weights packed where the machine has kernels for them, which round
    differently, so that a model would not be the same everywhere.
    """
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def write_folder(file: Path, folder: Path) -> None:
    """Make an ordinary folder in float32: config, safetensors, tokenizer and chat template.

    Raises ScopeError for a file that transformers does not read.
    """
    import torch  # here, so that the command answers at once where there is nothing to do
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = alone(file).name
    try:
        model = AutoModelForCausalLM.from_pretrained(
            place, gguf_file=NAME, dtype=torch.float32, local_files_only=True, **unpacked()
        )
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=NAME, local_files_only=True)
        weights = model.state_dict()
        config = model.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # transformers saves no model that was read from GGUF; so another is made
        with torch.device("meta"):
            plain = type(model)(config)
        plain.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # what the libraries below make of a file is theirs to name
        raise ScopeError(f"{file.name}: cannot be read: {' '.join(str(error).split())}") from error
    for path in folder.glob("*config.json"):  # other versions of the libraries make the same folder
        settings = json.loads(path.read_bytes())
        kept = {key: value for key, value in settings.items() if key not in OF_THE_WRITER}
        write_whole(path, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
