"""Compiles every kernel, as it is launched, for GPUs that need not be here, and prints what each takes of them.

Exits with 1 where one spills registers to memory (float32, which has no tensor cores, may), or needs more shared memory
than a program may have. Needs triton, no GPU: `python tests/kernels_compile.py` for all, some ten seconds for each GPU
and case, or `python tests/kernels_compile.py 90` for Hopper. The interpreter does not see what the compiler refuses.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scope.kernels.decode import Cached, Eligible, Token, Workspace, attend, free, write
from scope.kernels.votes import votes

SHARED = {80: 166912, 86: 101376, 90: 232448, 100: 232448, 120: 101376}  # bytes that one program may have
FEW = 64  # bytes of memory per thread beside its registers
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int32: "i32", torch.int64: "i64"}
CASES = [  # Hq, H, D, dtype
    (32, 8, 128, torch.bfloat16),
    (16, 1, 256, torch.bfloat16),
    (8, 8, 80, torch.float16),
    (8, 2, 64, torch.float32),
]


class Compiled:
    """In place of a kernel: compiles it for what it is launched with."""

    def __init__(self, kernel: Any, capability: int) -> None:
        self.kernel, self.capability = kernel, capability
        self.shared, self.stack = 0, 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.compile

    def compile(self, *args: Any, **named: Any) -> None:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        names = self.kernel.arg_names
        options = {name: value for name, value in named.items() if name not in names}
        given = dict(zip(names, args, strict=False)) | {name: named[name] for name in named if name in names}
        constants = {p.name: given[p.name] for p in self.kernel.params if p.is_constexpr}
        types, aligned = {}, {}
        for i, name in enumerate(names):
            value = given[name]
            if name in constants:
                types[name] = "constexpr"
            elif isinstance(value, Tensor):
                types[name] = "*" + TYPES[value.dtype]
                aligned[(i,)] = [["tt.divisibility", 16]]
            elif isinstance(value, float):
                types[name] = "fp32"
            else:
                types[name] = "i32"
                if value % 16 == 0 and not self.kernel.params[i].do_not_specialize:
                    aligned[(i,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature=types, constexprs=constants, attrs=aligned)
        made = triton.compile(source, target=GPUTarget("cuda", self.capability, 32), options=options)
        self.shared = max(self.shared, made.metadata.shared)
        self.stack = max(self.stack, stack(made.asm["cubin"]))


def stack(binary: bytes) -> int:
    """Bytes of memory that each thread has beside its registers."""
    import triton

    tool = Path(triton.__path__[0]) / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return max(int(word.split(":")[1]) for word in told.split() if word.startswith("STACK:"))


def launch(query_heads: int, heads: int, dim: int, dtype: torch.dtype) -> None:
    """A step, with a sliding window and without, a free and the votes, of zeros."""
    cached, marks = torch.zeros(2, 2, heads, 2561, dim, dtype=dtype), torch.zeros(2, 2, heads, 2561).int()
    query, token = torch.zeros(2, query_heads, dim, dtype=dtype), torch.zeros(2, heads, dim, dtype=dtype)
    clock = torch.zeros(2).int()
    eligible = Eligible(clock, clock, clock, clock)
    workspace = Workspace(2, query_heads, heads, 2561, dim, dtype, query.device)
    workspace.splits = 32
    held, freed = Cached(*cached, *marks), torch.zeros(2, heads, dtype=torch.int64)
    write(held, freed, Token(token, token, clock, clock.long()))
    attend(query, held, 0.1, workspace=workspace)
    attend(query, held, 0.1, minimum=clock, scored=False, workspace=workspace)
    free(workspace.received, marks[0], eligible, positions=marks[1], empties=True, out=freed)
    prompt = torch.zeros(2, 320, query_heads, dim, dtype=dtype).transpose(1, 2)
    for sliding_window in (None, 64):
        votes(prompt, prompt[:, :heads], 0.1, sliding_window=sliding_window)


def main(capabilities: Sequence[int]) -> int:
    from scope.kernels import decode_triton, votes_triton

    places = dict.fromkeys(("split", "finish", "free", "write"), decode_triton)
    places |= dict.fromkeys(("normalise", "collect"), votes_triton)
    originals = {name: getattr(module, name) for name, module in places.items()}
    short = 0
    for capability in capabilities:
        for case in CASES:
            for name, module in places.items():
                setattr(module, name, Compiled(originals[name], capability))
            launch(*case)
            for name, module in places.items():
                made = getattr(module, name)
                spills = made.stack > FEW and case[3] != torch.float32
                verdict = "short" if made.shared > SHARED[capability] or spills else "ok"
                short += verdict == "short"
                print(
                    f"sm_{capability} {case}: {name}: {made.shared} B shared, {made.stack} B stack: {verdict}",
                    flush=True,
                )
    return int(short > 0)


def capability(word: str) -> int:
    if word not in map(str, SHARED):
        raise argparse.ArgumentTypeError(f"{word}: must be one of {', '.join(map(str, SHARED))}")
    return int(word)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python tests/kernels_compile.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("capabilities", type=capability, nargs="*", help=f"of {', '.join(map(str, SHARED))}")
    given = parser.parse_args().capabilities
    if find_spec("triton") is None:
        parser.error("triton is not installed: pip install -e '.[kernels]'")
    sys.exit(main(given or tuple(SHARED)))
