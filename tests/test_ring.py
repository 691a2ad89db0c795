"""The ring of a row's last queries. Oracle: a list for each row, of which the last are looked at."""

import pytest
import torch

from scope.cache.ring import Ring

SIZE, HEADS, DIM = 3, 2, 2
Told = list[tuple[int, float]]  # (position, what its query is made of), in their order


def queries(told: list[Told]) -> torch.Tensor:
    """[B, Hq, n, D]: each query a constant, which says whose it is."""
    numbers = torch.tensor([[number for _, number in row] for row in told])
    return numbers[:, None, :, None].expand(-1, HEADS, -1, DIM).clone()


def positions(told: list[Told]) -> torch.Tensor:
    return torch.tensor([[position for position, _ in row] for row in told])


def prompt(row: int, length: int) -> Told:
    return [(at, 100.0 * row + at) for at in range(length)]


def made(told: list[Told]) -> Ring:
    """As after a prompt; rows are as long as each other."""
    return Ring(queries(told), positions(told), SIZE)


def step(ring: Ring, told: list[Told]) -> None:
    """A decode step: every row asks once more."""
    for row in told:
        row.append((row[-1][0] + 1, row[-1][1] + 1))
    newest = [[row[-1]] for row in told]
    ring.add(queries(newest), positions(newest)[:, 0])


def held(ring: Ring) -> list[Told]:
    at = ring.queries[:, 0, :, 0]
    rows = zip(ring.positions.tolist(), at.tolist(), strict=True)
    return [sorted((p, q) for p, q in zip(*row, strict=True) if p >= 0) for row in rows]


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_the_last_queries_of_each_row_are_held(length: int) -> None:
    told = [prompt(row, length) for row in range(2)]
    ring = made(told)
    for _ in range(8):
        assert held(ring) == [row[-SIZE:] for row in told]
        step(ring, told)


@pytest.mark.parametrize("before", range(5))
@pytest.mark.parametrize("other_before", range(3))
def test_a_row_that_takes_anothers_place_keeps_its_own_order(before: int, other_before: int) -> None:
    """However far either ring has turned, the queries that go next are the oldest of each row."""
    told, others = [prompt(row, 4) for row in range(3)], [prompt(row, 5) for row in (7, 8)]
    ring, other = made(told), made(others)
    for _ in range(before):
        step(ring, told)
    for _ in range(other_before):
        step(other, others)
    ring.replace([2, 0], other)
    told[2], told[0] = ([*row] for row in others)
    for _ in range(2 * SIZE):
        assert held(ring) == [row[-SIZE:] for row in told]
        step(ring, told)
