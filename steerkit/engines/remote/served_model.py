"""A model that something else runs: its tokenizer, its rendering and its identity, without its weights.

The engines that hand requests to vLLM render prompts and count tokens here, with the very code of the transformers
engine, so that a prompt is the same tokens wherever it runs.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.core.prompts import EncodedText, Renderer, TemplateOption
from steerkit.core.sites import SiteName
from steerkit.engines.base import Completion, Decoding, Finish, Request, ScoreRequest
from steerkit.engines.stops import first_cut
from steerkit.interventions.layer_tensors import stream_width
from steerkit.interventions.prompt_edit import edited_prompt
from steerkit.interventions.store import tensors_of
from steerkit.models.bundled import bundled_folder
from steerkit.models.catalogue import BUNDLED
from steerkit.models.checkpoint import checkpoint_fingerprint, local_folder
from steerkit.models.markers import ThinkingMarkers, find_markers
from steerkit.models.pretrained import longest_context
from steerkit.models.thinking import Tracker


class ServedModel:
    """What a client has to know of a model. `reference` is a bundled name, a folder or a hub id in the local cache.

    `markers` are the texts between which the model thinks; by default those of its chat template and tokenizer.
    `template_options` go to its chat template.

    Raises MisuseError where there is no such model, InputError where its files are damaged.
    """

    def __init__(
        self,
        reference: str,
        progress: Callable[[str], None] = lambda _line: None,
        *,
        markers: ThinkingMarkers | None = None,
        template_options: Mapping[str, TemplateOption] | None = None,
    ) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.name = reference
        if reference in BUNDLED:
            self.folder = bundled_folder(BUNDLED[reference], progress)
        else:
            self.folder = local_folder(reference)
            if Path(reference).is_dir():
                self.name = self.folder.resolve().name
        try:
            config = AutoConfig.from_pretrained(self.folder, local_files_only=True).get_text_config()
            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except Exception as error:  # every kind of damage ends here; what it was stands in message and cause
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{self.folder} holds no model and tokenizer of transformers: {reason}"
            ) from error
        self.renderer = Renderer(self.tokenizer, template_options)
        found = find_markers(self.tokenizer)
        self.markers = markers or found.markers
        if markers is None and found.doubt:
            warnings.warn(f"{self.name}: {found.doubt}", stacklevel=2)
        self.n_layers: int = config.num_hidden_layers
        self.d_model: int = config.hidden_size
        self.context_length = longest_context(config, self.tokenizer)
        self._checked: set[tuple[str, str]] = set()

    def width(self, site: SiteName) -> int:
        """Width of the states at a site of the residual stream; see `stream_width`."""
        return stream_width(self, site)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The fingerprint that vectors carry; see `checkpoint_fingerprint`."""
        return checkpoint_fingerprint(str(self.folder))

    @property
    def quantised_from(self) -> str:
        """Not known: what is served is known by its files, and a vector's fingerprint has to be theirs."""
        return ""

    @functools.cached_property
    def generation_config(self) -> Any:
        """The GenerationConfig of transformers in the model's folder; one that sets nothing where there is none."""
        from transformers import GenerationConfig

        if (self.folder / "generation_config.json").is_file():
            return GenerationConfig.from_pretrained(self.folder)
        return GenerationConfig()

    @functools.cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion, as the transformers engine has them."""
        declared = self.generation_config.eos_token_id
        ids = declared if isinstance(declared, list) else [declared]
        return tuple(sorted({i for i in (*ids, self.tokenizer.eos_token_id) if i is not None}))

    @functools.cached_property
    def thinking(self) -> Tracker:
        """Follows thinking through tokens, between the model's markers."""
        return Tracker(self.renderer, self.markers)

    def encode(self, request: Request, reads: int) -> tuple[int, ...]:
        """Return the token ids of the prompt under the request's edits.

        Raises MisuseError where prompt and completion are longer than the `reads` tokens that the model is served for.
        """
        prompt, system = edited_prompt(request.prompt, request.system, request.interventions)
        ids = request.prompt_ids or tuple(self.renderer.encode_prompt(prompt, system))
        needed = len(ids) + tokens_to_ask(request)
        if needed > reads:
            raise MisuseError(
                f"prompt and completion need {needed} tokens, but {self.name} is served for {reads}: shorten the "
                "prompt, lower max_new_tokens, or raise vLLM's max_model_len"
            )
        return ids

    def encode_scored(self, request: ScoreRequest) -> EncodedText:
        """Return the tokens of a text to be scored, its prompt under the request's edits."""
        if request.encoded is not None:
            return request.encoded
        prompt, system = edited_prompt(request.prompt, request.system, request.interventions)
        if not request.continuation and request.readers:
            ids = tuple(self.renderer.encode_prompt(prompt, system))
            return EncodedText(ids, len(ids))
        text = self.renderer.encode_pair(prompt, request.continuation, system)
        if not text.prompt_length:
            raise MisuseError("the prompt shares no token with its continuation: give a longer prompt")
        return text

    def check(self, request: Request | ScoreRequest, *, exact: bool) -> None:
        """Raise ModelMismatchError for a vector or probe of another model."""
        read = (part for reader in request.readers for part in reader.tensors)
        for vector in (*tensors_of(request.interventions), *read):
            key = (vector.digest, vector.metadata.fingerprint)
            if key not in self._checked:
                vector.check(self, exact=exact)
                self._checked.add(key)

    def completion(
        self, request: Request, prompt_ids: Sequence[int], generated: Sequence[int], finish: Finish
    ) -> Completion:
        """Return what an engine answers. `generated` may end with the token, or hold the text, that stopped it.

        It may be longer than was asked for by the token that `tokens_to_ask` adds.
        """
        ends, text = (*self.stop_ids, *request.decoding.stop_token_ids), None
        if len(generated) > request.decoding.max_new_tokens:
            generated, finish = generated[: request.decoding.max_new_tokens], "length"
        if finish == "stop" and generated and generated[-1] in ends:
            generated = generated[:-1]
        if (cut := first_cut(self.renderer, generated, request.decoding.stop)) is not None:
            generated, text, finish = generated[: cut.tokens], cut.text, "stop"
        reading = self.thinking.read(prompt_ids, generated, text)
        return Completion(
            request=request,
            text=reading.text,
            token_ids=tuple(generated),
            finish=finish,
            prompt_tokens=len(prompt_ids),
            thinking_tokens=reading.thinking_tokens,
            markers=self.markers,
            spans=reading.spans,
        )


def tokens_to_ask(request: Request) -> int:
    """Return how many tokens vLLM is asked for: with readers one more, as it reads those alone that it goes on from."""
    return request.decoding.max_new_tokens + bool(request.readers)


def log_probabilities(scores: Iterable[float]) -> tuple[float, ...]:
    """Return what vLLM says of given tokens, in nats. Raises SteerkitError where those are no log-probabilities."""
    taken = tuple(scores)
    if max(taken, default=0.0) > 1e-3:  # rounding aside, none is above 0
        raise SteerkitError(
            "vLLM gives logits instead of log-probabilities: start it without --logprobs-mode"
        )
    return taken


def sampling(model: ServedModel, request: Request, prompt_ids: Sequence[int]) -> dict[str, Any]:
    """Return a request's decoding in the words of vLLM's sampling parameters, which are those of its HTTP requests too.

    All of it is said, as a server fills in what is left out from the model's generation_config.json.
    """
    decoding = request.decoding
    fields: dict[str, Any] = {
        "max_tokens": tokens_to_ask(request),
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "top_k": decoding.top_k,
        "min_p": decoding.min_p,
        "repetition_penalty": decoding.repetition_penalty,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": [*model.stop_ids, *decoding.stop_token_ids],
    }
    if decoding.temperature > 0:
        fields["seed"] = row_seed(decoding, prompt_ids, request.sample)
    if decoding.stop:  # which vLLM looks for in what it shows, so special tokens are shown
        fields |= {"stop": list(decoding.stop), "skip_special_tokens": False}
    return fields


def row_seed(decoding: Decoding, prompt_ids: Sequence[int], sample: int) -> int:
    """Return one sampled row's seed, of seed, prompt and sample alone, so that a grid's cells draw the same numbers."""
    key = f"{decoding.seed}/{sample}/{','.join(map(str, prompt_ids))}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
