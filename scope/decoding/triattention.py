"""triattention: keep the keys that the model's mean query will point at (WeianMao/triattention)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from scope.decoding.periodic import Periodic
from scope.policy import scores
from scope.policy.attention import Attention, beyond
from scope.policy.query_statistics import QueryStatistics
from scope.util.errors import ScopeError, SettingError, check_count


@dataclass(frozen=True)
class TriAttention(Periodic):
    """Every `every` steps keep the `recent` last slots and the others that the mean query will attend to most.

        S = mean over o of sum_f |q_f| |k_f| cos((t + o) w_f + arg q_f - arg k_f) + sum_f (m_f - |q_f|) |k_f|

    f is a pair of coordinates that rotates by w_f a position; q_f, as a complex number, is the mean query of a head
    before its rotation, m_f its mean length, and k_f a stored key, which is rotated. t is the next position. The
    offsets o are 1, 2, 4, ... up to `horizon`. S is standardised (z-score) for each query head: over the decoded slots,
    or over all slots if the prompt is not protected; the recent slots count. Then the maximum over the query heads that
    share a key/value head is taken. No query of the text is read.

    statistics: q and m of the model, which `python -m scope.calibrate` makes once.
    horizon: 1 or more.
    Source: the authors' code, github.com/WeianMao/triattention, with one set of slots for each layer and head. A
    constant that the model puts on rotated vectors (YaRN) is left out: the z-score cancels it.
    Departures: the authors keep no recent slots (recent = 1 comes closest), and count `every` from the text's first
    token and not from the generation's.
    Raises SettingError or CombinationError for invalid settings.
    """

    protect: str = "prompt"
    statistics: QueryStatistics | None = None
    horizon: int = 65536

    rotary: ClassVar[bool] = True
    skips_protected: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "horizon", low=1)
        if not isinstance(self.statistics, QueryStatistics):
            raise SettingError(self, "statistics", self.statistics, "what scope.calibrate makes of the model")

    def score(self, attention: Attention) -> Tensor:
        behind = beyond(attention)  # if the prompt is not protected, `front` is 0
        found = scores.standardised(self._promise(behind), self.region(behind)[:, :, None])
        return F.pad(found.amax(2), (attention.front, 0))

    def _promise(self, attention: Attention) -> Tensor:
        """-> [B, H, G, S]: S of each slot, for each query head."""
        rotary, heads = attention.rotary, attention.keys.shape[1]
        assert rotary is not None
        assert self.statistics is not None
        means, magnitudes = self.statistics.of(attention.layer, attention.keys.device)
        given, wanted = list(means.shape), [attention.queries.shape[1], rotary.width]
        if given != wanted:
            raise ScopeError(f"TriAttention.statistics: are of another model: {given} a layer, here {wanted}")
        offsets = 2 ** torch.arange(self.horizon.bit_length(), device=means.device)
        batch = len(attention.now)
        coming = rotary.turned(means.expand(batch, -1, -1), attention.now[..., 0] + 1, offsets)  # [B, Hq, 2F]
        keys = attention.keys[..., : rotary.width].float()
        along = coming.view(batch, heads, -1, rotary.width) @ keys.transpose(-1, -2)
        spread = (magnitudes - rotary.lengths(means)).view(heads, -1, rotary.width // 2)
        return along + spread @ rotary.lengths(keys).transpose(-1, -2)
