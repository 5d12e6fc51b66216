"""An encoder of a few lines: what a user needs to write to register another one."""

import torch

from esm_sae.embedding import Vocabulary, register_encoder

RESIDUES = "ACDEFGHIKLMNPQRSTVWYX"


class ToyBackbone:
    """Each state is the token's own vector plus the mean vector of its sequence."""

    width, blocks, note, weights_sha256 = 4, 1, "a toy", "0" * 64
    vocabulary = Vocabulary({r: n + 3 for n, r in enumerate(RESIDUES)}, bos=0, eos=1, pad=2)

    def __init__(self, weights=None, device="cpu"):
        self.table = torch.sin(torch.arange(24.0 * self.width)).reshape(24, self.width).to(device)

    def states(self, tokens, *, layer, padded):
        states = self.table[tokens]
        if layer == 0:
            return states
        real = (tokens != self.vocabulary.pad)[..., None]
        return states + (states * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)


register_encoder("toy", ToyBackbone)
