"""Does the consumer do what our engine does? Its own logits on the exported file, beside ours.

The quantities are those that tell: a merged checkpoint and lm-eval compute in our number format, so their numbers
must equal ours. Of llama.cpp the *shift* that the steering causes must agree with ours. A shift at the wrong layer
looks much like one at the right layer, so it is also compared with our shifts one layer below and above, which must
fit worse. What is run, and what is judged, is said in each format's own file.
"""
