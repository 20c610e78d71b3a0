"""The places of a model at which states are read and steered: a decoder block and a site in it.

Sites go by TransformerLens' names. `resid_pre` is the residual stream that enters the block, `resid_post` the one that
leaves it; `attn_out` and `mlp_out` are what attention and MLP add to it; `z` holds the attention heads' outputs side by
side, before the output projection.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

SiteName = Literal["resid_pre", "resid_post", "attn_out", "mlp_out", "z"]
SITES: tuple[SiteName, ...] = get_args(SiteName)
RESID_POST: SiteName = "resid_post"
Z: SiteName = "z"


class Place(NamedTuple):
    """A site of the decoder block `layer`, counted from 0."""

    layer: int
    site: SiteName = RESID_POST

    @property
    def last_block_before(self) -> int:
        """The last block whose output does not depend on what happens here, but for the place itself; -1: none."""
        return self.layer if self.site == RESID_POST else self.layer - 1

    def comes_before(self, other: Place) -> bool:
        """Whether the place's states are there before those of `other`, in every block alike; so for the same place."""
        within = self == other or self.site == "resid_pre" or other.site == RESID_POST
        return self.layer < other.layer or (self.layer == other.layer and within)

    def __str__(self) -> str:
        return f"{self.site} of layer {self.layer}"
