"""How many slots one row of one layer held, and when: kept as runs of equal steps, so that it stays small."""


class Account:
    """Counts after the prefill (`steps` 0) and after each decode step, each of which adds one and frees `freed`."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._runs: list[list[int]] = []  # [slots freed by a step, how many steps in a row]

    def step(self, freed: int) -> None:
        if self._runs and self._runs[-1][0] == freed:
            self._runs[-1][1] += 1
        else:
            self._runs.append([freed, 1])

    def history(self, steps: int) -> list[int]:
        """Slots held at the times 0 .. steps."""
        held = [self._kept]
        for freed, count in self._runs:
            for _ in range(min(count, steps + 1 - len(held))):
                held.append(held[-1] + 1 - freed)
        return held

    def slots(self, steps: int) -> int:
        return self.history(steps)[-1]

    def peak(self, steps: int) -> int:
        """The most slots needed at once up to then: a token comes before another goes."""
        return max([self._kept, *(held + 1 for held in self.history(steps)[:-1])])
