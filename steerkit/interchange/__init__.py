"""Other tools' formats, one file each: what is written for another program, read from one, and verified in one.

1. An export says exactly what the interventions say, or it refuses and names the field that the consumer cannot
   express. Nothing is approximated.
2. Layers keep their meaning: `l` is the output of decoder block `l`, counted from 0. What a format calls that
   place is known in the module of the format.
3. Verification runs the real consumer on what was written and compares its logits with our own engine's.
   A format is never trusted on the strength of its description.
"""
