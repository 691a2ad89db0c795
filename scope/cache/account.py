"""How many slots one row of one layer held after each step. Equal steps in a row are stored as one entry."""


class Account:
    """The slots of one row and layer over time: time 0 is after the prefill, time n after n decode steps."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._runs: list[list[int]] = []  # [slots freed by a step, how many steps in a row]
        self._turns: list[list[int]] = []  # [the time of a later turn, the slots that it added]
        self._steps = 0

    def step(self, freed: int) -> None:
        """A decode step has added one slot and freed so many."""
        self._steps += 1
        if self._runs and self._runs[-1][0] == freed:
            self._runs[-1][1] += 1
        else:
            self._runs.append([freed, 1])

    def turn(self, added: int) -> None:
        """A later turn has added so many slots, below 0 if it freed more. They count from the last step's time on."""
        self._turns.append([self._steps, added])

    def history(self, steps: int) -> list[int]:
        """Slots held at each of the times 0 to `steps`."""
        held = [self._kept]
        for freed, count in self._runs:
            for _ in range(min(count, steps + 1 - len(held))):
                held.append(held[-1] + 1 - freed)
        for time, added in self._turns:
            held = [n + added * (at >= time) for at, n in enumerate(held)]
        return held

    def slots(self, steps: int) -> int:
        """Slots held at the time `steps`."""
        return self.history(steps)[-1]

    def peak(self, steps: int) -> int:
        """The most slots held at once up to the time `steps`: in a step one is added before others are freed."""
        times = self.history(steps)
        return max([self._kept, times[-1], *(held + 1 for held in times[:-1])])
