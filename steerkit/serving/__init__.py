"""An OpenAI-compatible server over the packed engine: each request under its own steering, all in one batch.

1. A request is steered as it asks or it is refused, with a 4xx in OpenAI's error form that names the field; a field
   that is not known is refused too. Nothing runs of a request that is refused.
2. Steerings and readers are given as vLLM's plugin takes them, in `vllm_xargs`, or beside it; what they may name and
   how large they may be is the same code (`steerkit.engines.remote`). Vectors come from one folder.
3. What waits is bounded (429), and so is what one request may ask for (`limits`), how long its body may take, and how
   long a client may leave its answer unread. The rows of a client that has gone leave the batch.
4. One thread runs the model (`scheduler`). Prompts are rendered and vectors read in another, beside the event loop.
"""
