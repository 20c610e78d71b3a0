"""Is the thinking worth anything? Tests of what a run's chains of thought do for its answers.

Every completion of a run is taken apart into a chain of steps and an answer (`chains`). The chain is then cut
short, replaced, reworded or spoilt (`interventions`), given back to the model under the very interventions that the
completion was made with (`continuation`), and the answers are compared (`examination`, `measures`). What comes of it
are scores of the run, kept beside its records (`measurement`).

Two rules hold throughout:

1. An answer is always asked for in the same way: chain, closing marker where there is one, "The answer is", and a
   few greedy tokens. So is the answer that the others are compared with, the one after the whole chain.
2. What is given to the model as the beginning of a completion is part of the completion, for every scope and gate:
   see `steerkit.chains.continuation`.

Early termination, filler, paraphrase and added mistakes: Lanham et al. 2023, arXiv 2307.13702, for one model and
instance at a time as in Lobo et al. 2025, arXiv 2411.15382. Information gain: arXiv 2506.02126.
"""
