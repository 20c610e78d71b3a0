"""Steering for other programs: a merged checkpoint, a llama.cpp control vector, a file for lm-eval.

1. An export says exactly what the steering says, or it refuses and names the field that the consumer cannot
   express. Nothing is approximated.
2. Layers keep their meaning: `l` is the output of decoder block `l`, counted from 0. What a format calls that
   place is known in the module that writes the format.
3. `verification` runs the real consumer on what was written and compares its logits with our own engine's.
   A format is never trusted on the strength of its description.
"""
