"""Train the embedded model: `python -m experiments.tiny.train [--out FOLDER] [--set key=value ...]`.

Two single-threaded processes average their gradients, which on two cores is nearly twice as fast as one process with
two threads. Every batch is made from (seed, worker, step), so a killed run started again continues with the very same
data from its last checkpoint. The result is a folder that AutoModelForCausalLM and AutoTokenizer load.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from experiments.tiny import curriculum
from experiments.tiny.recipe import Recipe
from scope.tasks.language import BOS, EOS, PAD, VOCABULARY, Kind
from scope.util.files import write_whole

CHECKPOINT_EVERY, LOG_EVERY = 200, 25  # steps


def new_model(recipe: Recipe) -> Qwen3ForCausalLM:
    """A Qwen3 (queries and keys are normalised) with wide embeddings and a small final gain: see recipe.yaml."""
    shape = dict(recipe.model)
    embedding_std, final_gain, query_gain = (shape.pop(name) for name in ("embedding_std", "final_gain", "query_gain"))
    theta = shape.pop("rope_theta")
    ids = {name: VOCABULARY.index(token) for name, token in (("pad", PAD), ("bos", BOS), ("eos", EOS))}
    config = Qwen3Config(
        vocab_size=len(VOCABULARY),
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        attn_implementation="sdpa",
        **{f"{name}_token_id": i for name, i in ids.items()},
        **shape,
    )
    torch.manual_seed(recipe.seed)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_tokens" in name:
                weight.normal_(std=embedding_std)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.normal_(std=weight.shape[1] ** -0.5 / math.sqrt(2 * config.num_hidden_layers))
            elif weight.ndim == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)
            elif name.endswith("q_norm.weight"):
                weight.fill_(query_gain)
        model.model.norm.weight.fill_(final_gain)
    return model


def learning_rate(seen: float, step: int, recipe: Recipe) -> float:
    """Multiplier of both learning rates: a short warm-up, flat, then linear to zero."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps)
    return warmup * min(1.0, max(0.0, (1 - seen) / (1 - recipe.decay_from)))


class Accuracy:
    """Running accuracy of each kind of token, forgetting with a half-life of about 14 steps."""

    def __init__(self) -> None:
        self.hits, self.seen = torch.zeros(len(Kind)), torch.zeros(len(Kind))

    def state(self) -> dict[str, Tensor]:
        return {"hits": self.hits, "seen": self.seen}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.hits, self.seen = state["hits"], state["seen"]

    def add(self, hits: Tensor, seen: Tensor) -> None:
        present = seen > 0
        present[Kind.GIVEN] = False  # nothing is asked of the prompt
        self.hits[present] = 0.95 * self.hits[present] + (hits / seen.clamp(min=1))[present]
        self.seen[present] = 0.95 * self.seen[present] + 1

    def of(self, kind: Kind) -> float:
        return float(self.hits[kind] / self.seen[kind].clamp(min=1e-9))

    def passed(self, kinds: list[str], gate: float) -> bool:
        return all(self.seen[Kind[k]] > 14 and self.of(Kind[k]) > gate for k in kinds)


def open_log(path: Path, step: int) -> TextIO:
    """The log, open for appending after that step: what a killed run wrote beyond its checkpoint is written again."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    write_whole(path, "".join(kept))
    return path.open("a")


def work(rank: int, recipe: Recipe, out: Path) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{(out / 'rendezvous').resolve()}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=recipe.workers)
    model = new_model(recipe)
    parameters = list(model.parameters())
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed_tokens" in name]
    muon = torch.optim.Muon(matrices, lr=recipe.muon_lr, momentum=0.95, weight_decay=0.02)
    adam = torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
    weight = torch.ones(len(Kind))
    weight[Kind.GIVEN], weight[Kind.REFERENCE], weight[Kind.TURNED] = 0.0, recipe.reference_weight, recipe.turned_weight

    step, seen, at, minutes = 0, 0, 0, 0.0
    accuracy = Accuracy()
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        step, seen, at, minutes = state["step"], state["seen"], state["stage"], state["minutes"]
        accuracy.restore(state["accuracy"])
    began = time.monotonic() - 60 * minutes
    console = Console(stderr=True)
    log = open_log(out / "log.jsonl", step) if rank == 0 else None

    while seen < recipe.tokens:
        stage = recipe.stages[at]
        shared = random.Random(f"{recipe.seed} {step}")  # every worker: the same kind and number of questions
        kind = shared.choices(list(stage.mix), list(stage.mix.values()))[0]
        low, high = stage.document_questions if kind == "document" else stage.copy_questions
        questions = shared.randint(low, high)
        rng = random.Random(f"{recipe.seed} {step} {rank}")
        ids, kinds = curriculum.batch(rng, kind, questions, stage, stage.tokens // recipe.workers)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        targets, target_kinds = ids[:, 1:].flatten(), kinds[:, 1:].flatten()
        losses = F.cross_entropy(logits, targets, reduction="none") * weight[target_kinds]
        loss = losses.sum() / weight[target_kinds].sum()
        loss.backward()

        right = (logits.argmax(-1) == targets).float()
        counts = [right.new_tensor([loss.detach(), ids.numel()])]
        counts += [torch.bincount(target_kinds, w, len(Kind)).float() for w in (right, torch.ones_like(right))]
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([*(g.flatten() for g in gradients), *counts])
        dist.all_reduce(flat)
        sizes = [g.numel() for g in gradients]
        *averaged, total, hits, asked_count = flat.split([*sizes, 2, len(Kind), len(Kind)])
        for gradient, mean in zip(gradients, averaged, strict=True):
            gradient.copy_(mean.view_as(gradient) / recipe.workers)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        rate = learning_rate(seen / recipe.tokens, step, recipe)
        for optimizer, base in ((muon, recipe.muon_lr), (adam, recipe.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = base * rate
            optimizer.step()
        model.zero_grad(set_to_none=True)

        accuracy.add(hits, asked_count)
        seen += int(total[1])
        step += 1
        moved = seen > stage.latest * recipe.tokens or (bool(stage.until) and accuracy.passed(stage.until, recipe.gate))
        if moved and at + 1 < len(recipe.stages):
            at, accuracy = at + 1, Accuracy()
        if rank == 0 and log is not None:
            minutes = (time.monotonic() - began) / 60
            if step % LOG_EVERY == 0:
                by_kind = {k.name.lower(): round(accuracy.of(k), 4) for k in Kind if accuracy.seen[k] > 0}
                mean_loss = round(float(total[0]) / recipe.workers, 4)
                line = {"step": step, "tokens": seen, "minutes": round(minutes, 2), "stage": recipe.stages[at].name}
                log.write(json.dumps(line | {"loss": mean_loss, "rate": round(rate, 3), "accuracy": by_kind}) + "\n")
                log.flush()
                left = minutes * (recipe.tokens / seen - 1)
                console.print(f"{line['stage']:9} {seen / 1e6:5.1f}M tokens  {left:4.0f} min left  {by_kind}")
            if step % CHECKPOINT_EVERY == 0:
                state = {"model": model.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict()}
                state |= {"accuracy": accuracy.state(), "step": step, "seen": seen, "stage": at, "minutes": minutes}
                torch.save(state, checkpoint.with_suffix(".new"))
                checkpoint.with_suffix(".new").replace(checkpoint)
    if rank == 0:
        torch.save(model.state_dict(), out / "final.pt")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tiny.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/tiny"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="override recipe.yaml")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rendezvous").unlink(missing_ok=True)
    recipe = Recipe.read(args.set)
    mp.spawn(work, args=(recipe, args.out), nprocs=recipe.workers)


if __name__ == "__main__":
    main()
