"""LanguageModel: a bare transformers model, its tokenizer, and what steerkit knows about them."""

from __future__ import annotations

import copy
import functools
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steerkit.core.errors import MisuseError, ModelInUseError
from steerkit.core.prompts import Prompt, Renderer, TemplateOption
from steerkit.core.registry import VIEWS
from steerkit.core.sites import RESID_POST, Place, SiteName
from steerkit.models.blocks import adapter_of, decoder_of, entry_device, find_blocks, probe_ids, streams
from steerkit.models.fingerprint import fingerprint, is_quantised, kept_digest
from steerkit.models.markers import FoundMarkers, ThinkingMarkers, find_markers
from steerkit.models.pretrained import longest_context
from steerkit.models.sites import Site, SiteMap, seen_at
from steerkit.models.state import State, acts_in_training
from steerkit.models.thinking import Tracker

if TYPE_CHECKING:
    from steerkit.engines.base import Completion
    from steerkit.interventions.base import Intervention

# Parts of the names that configs give to lengths at which attention or its positions become others.
LENGTHS = ("window", "chunk", "topk", "original_max_position", "floor_scale")


def check_loaded(model: object) -> None:
    """Raise MisuseError, saying what to write, unless `model` is a loaded one: a name or a bare model is not."""
    if isinstance(model, LanguageModel):
        return
    if isinstance(model, str | os.PathLike):
        raise MisuseError(
            f"{os.fspath(model)!r} names a model: load it first, and give lm = sk.load_model({os.fspath(model)!r})"
        )
    if hasattr(model, "config"):
        raise MisuseError(
            "a transformers model is given: write lm = sk.load_model(model, tokenizer), and give that"
        )
    raise MisuseError(f"a loaded model is one that sk.load_model returns, got {type(model).__name__}")


class LanguageModel:
    """A causal language model ready to be read and steered; the transformers model itself is not changed.

    `hf` is the user's transformers model, `tokenizer` its tokenizer, `decoder` the same model without its
    LM head, `blocks` its decoder blocks in order, `markers` the texts that open and close its thinking (settable).
    On construction the blocks are found, and confirmed by a nudge; see `models.blocks`.
    """

    def __init__(
        self, hf: Any, tokenizer: Any, name: str, template_options: Mapping[str, TemplateOption] | None = None
    ) -> None:
        self.hf: Any = hf  # a transformers causal language model; the package is not typed
        self.tokenizer = tokenizer
        self.name = name
        self._seen: tuple[object, list[tuple[torch.device, torch.dtype, int]]] | None = None
        self._inside: dict[SiteName, tuple[object, dict[int, Tensor]]] = {}
        if hf.config.is_encoder_decoder:
            raise MisuseError(f"{type(hf).__name__} is an encoder–decoder, and only decoders are steered")
        self.decoder: nn.Module = decoder_of(hf)
        self._modules: tuple[nn.Module, ...] = ()
        self._trains: set[int] = set()
        self._know_modules()
        self.check_mode()
        self._state = State.of(hf)
        self._loaded = hf, tokenizer
        adapter = adapter_of(hf)
        self.blocks = find_blocks(hf, self.decoder, adapter)
        self.sites = SiteMap(hf, self.blocks, adapter)
        self.config = hf.config.get_text_config()
        self.n_layers = len(self.blocks)
        self.d_model = self._streams[0][2]
        self.fingerprint = fingerprint(hf, self.n_layers, self.d_model)
        self.renderer = Renderer(tokenizer, template_options)
        self._tokens = len(tokenizer)
        self._markers: ThinkingMarkers | None = None
        self._lock = threading.Lock()  # held only while the two below change
        self._owner: int | None = None
        self._open = 0  # steering contexts of the owner that are open
        self._suspended = 0

    @property
    def device(self) -> torch.device:
        """Where token ids go, and what is read of the model comes together."""
        return entry_device(self.hf)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the residual stream, as block 0 hands it on."""
        return self._streams[0][1]

    @property
    def _streams(self) -> list[tuple[torch.device, torch.dtype, int]]:
        """Device, number format and width of the state behind each block; seen anew where the user moved the model."""
        if self._seen is None or self._seen[0] != self._held:
            self._seen = self._held, streams(self.hf, self.decoder, self.blocks)
        return self._seen[1]

    @functools.cached_property
    def kept_digest(self) -> str:
        """The digest that the model has in common with its quantised forms; see `models.fingerprint`."""
        return kept_digest(self.hf)

    @functools.cached_property
    def quantised_from(self) -> str:
        """The same of a quantised model; empty for one that is not."""
        return self.kept_digest if is_quantised(self.hf) else ""

    @property
    def _held(self) -> object:
        """Where and in what number format the weights are: what was seen of the states holds as long as this does."""
        weight = next(self.hf.parameters())
        return weight.device, weight.dtype

    def like(self, layer: int, site: SiteName = RESID_POST) -> Tensor:
        """Return an empty tensor `[0, width]` where the states at a site of block `layer` are, in their number format.

        Raises MisuseError where the block has no such site, SteerkitError where it cannot be read or steered safely.
        """
        if site == RESID_POST:
            device, dtype, width = self._streams[layer]
            return torch.empty(0, width, device=device, dtype=dtype)
        self.sites.at(Place(layer, site))  # refuses
        return self._likes(site)[layer]

    def width(self, site: SiteName) -> int:
        """Return the width of the states at a site, once it is known that they can be read and steered there.

        Raises as `like` does, and MisuseError where blocks differ.
        """
        if site == RESID_POST:
            return self.d_model
        widths = sorted({like.shape[-1] for like in self._likes(site).values()})
        if len(widths) > 1:
            raise MisuseError(
                f"{self.name}: {site!r} is {' or '.join(map(str, widths))} wide, by layer, and a vector has one width: "
                "take attn_out"
            )
        return widths[0]

    def _likes(self, site: SiteName) -> dict[int, Tensor]:
        """What `like` returns at each layer that has a site; seen anew where the user moved the model."""
        if site not in self._inside or self._inside[site][0] != self._held:
            sites = {layer: self.sites.at(Place(layer, site)) for layer in self.sites.layers(site)}
            ids, what = probe_ids(self.hf), f"{self.name}: site {site!r}"
            with self.unsteered(), torch.inference_mode():
                run = functools.partial(self.decoder, input_ids=ids, use_cache=False)
                self._inside[site] = self._held, seen_at(what, sites, self.blocks, run, ids.shape[1])
        return self._inside[site][1]

    @property
    def context_length(self) -> int:
        """The most tokens that the model was made to read; 2³¹ − 1 where neither config nor tokenizer says."""
        return longest_context(self.config, self.tokenizer)

    @functools.cached_property
    def windows(self) -> tuple[int, ...]:
        """Lengths, ascending, that the config names and beyond which a token may see, or be placed, otherwise."""
        return tuple(sorted(set(_windows(self.config.to_dict()))))

    @functools.cached_property
    def n_tokens(self) -> int:
        """How many tokens both the tokenizer and the model have."""
        embeddings: Tensor = self.hf.get_input_embeddings().weight
        return min(len(self.tokenizer), embeddings.shape[0])

    @property
    def pad_id(self) -> int:
        """A token to fill ragged batches with; it is always masked."""
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((i for i in ids if i is not None), 0)

    @property
    def generation_config(self) -> Any:
        """How its makers mean it to be sampled: the GenerationConfig of transformers."""
        return self.hf.generation_config

    @functools.cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion."""
        declared = self.hf.generation_config.eos_token_id
        ids = declared if isinstance(declared, list) else [declared]
        return tuple(sorted({i for i in (*ids, self.tokenizer.eos_token_id) if i is not None}))

    @functools.cached_property
    def found_markers(self) -> FoundMarkers:
        """What chat template and tokenizer say of the model's thinking; see `steerkit.models.markers`."""
        found = find_markers(self.tokenizer)
        if found.doubt:
            warnings.warn(f"{self.name}: {found.doubt}", stacklevel=3)
        return found

    @property
    def markers(self) -> ThinkingMarkers:
        """The texts that open and close a thinking block: those that were set, else those that were found."""
        return self._markers or self.found_markers.markers

    @markers.setter
    def markers(self, markers: ThinkingMarkers | None) -> None:
        self._markers = markers
        self.__dict__.pop("thinking", None)

    @property
    def calls_tools(self) -> bool:
        """Whether its calls of tools can be told; no scope but `tool` steers them then."""
        return self.found_markers.calls_tools

    @functools.cached_property
    def thinking(self) -> Tracker:
        """Follows thinking through tokens, between the model's markers."""
        return Tracker(self.renderer, self.markers)

    @functools.cached_property
    def line_breaks(self) -> Tensor:
        """How each token's text ends, `[vocabulary]` on the model's device.

        0 without a newline, 1 with one behind other text, 2 the token is one newline, 3 with an empty line. One 0
        behind the vocabulary stands for a position whose token is not known, -1.
        """
        texts = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
        breaks = torch.zeros(max(len(texts), self.config.vocab_size) + 1, dtype=torch.long)
        for i, text in enumerate(texts):
            if text.endswith("\n"):
                breaks[i] = 3 if text.endswith("\n\n") else 2 if text == "\n" else 1
        return breaks.to(self.device)

    @functools.cached_property
    def bridge(self) -> Any:
        """The full TransformerBridge over the same weights.

        It stands on a twin that shares every parameter, because booting a bridge replaces the modules of the
        model it is given for good.
        """
        from transformer_lens.model_bridge import TransformerBridge

        shared = {id(tensor): tensor for tensor in (*self.hf.parameters(), *self.hf.buffers())}
        twin = copy.deepcopy(self.hf, shared)
        tokenizer = copy.deepcopy(self.tokenizer)
        if not tokenizer.init_kwargs.get("name_or_path"):  # made in memory: the bridge must not reload it
            tokenizer.init_kwargs |= {"name_or_path": "", "add_bos_token": True}
        return TransformerBridge.boot_transformers(
            self.name, hf_model=twin, tokenizer=tokenizer, device=str(self.device)
        )

    def site(self, hook_name: str) -> Site:
        """Return the bare model's module behind a TransformerLens hook name."""
        return self.sites.resolve(hook_name)

    @contextmanager
    def steered_by_this_thread(self) -> Iterator[None]:
        """Claim the model for a steering context; a second thread gets ModelInUseError. Nests in one thread.

        Raises MisuseError if the model is in training mode.
        """
        self.check_mode()
        with self._lock:
            if self._owner not in (None, threading.get_ident()):
                raise ModelInUseError(
                    f"{self.name} is being steered by another thread: steer one copy of the model per thread, or "
                    "wait until that thread is done"
                )
            self._owner = threading.get_ident()
            self._open += 1
        try:
            yield
        finally:
            with self._lock:  # counted, because generators may close in any order, and in any thread
                self._open -= 1
                if not self._open:
                    self._owner = None

    def check_mode(self) -> None:
        """Raise MisuseError if the model is in training mode, into which it may have been put since it was loaded."""
        found = next((m for m in self._modules if m.training and id(m) not in self._trains), None)
        if found is not None:
            what = "" if found is self.hf else f" (its {type(found).__name__})"
            raise MisuseError(
                f"the model is in training mode{what}, where dropout would blur every reading: call .eval()"
            )

    def _know_modules(self) -> None:
        """Know all modules; those of the user's own making that were in training mode when first seen may be in it."""
        known = set(map(id, self._modules)) | {id(self.hf), id(self.decoder)}
        self._modules = tuple(self.hf.modules())
        new = (m for m in self._modules if m.training and id(m) not in known and not acts_in_training(m))
        self._trains.update(map(id, new))

    def check_state(self) -> None:
        """Raise MisuseError if the model is no longer what was loaded, or is in training mode; asked at each use.

        Adapters switched, merged or added, weights written to, resized or quantised and tokens added make another
        model, of which fingerprint, vectors and runs know nothing. Another device is none of it, and another number
        format is warned of, once. See `models.state`.
        """
        self._know_modules()
        self.check_mode()
        now = State.of(self.hf)
        change = self._state.change_to(now)
        if change is None and self.tokenizer is not self._loaded[1]:
            change = "its tokenizer is another"
        if change is None and self.hf is not self._loaded[0]:
            change = "its transformers model is another"
        if change is None and len(self.tokenizer) != self._tokens:
            change = f"its tokenizer had {self._tokens} tokens, and has {len(self.tokenizer)}"
        if change is not None:
            raise MisuseError(
                f"{self.name} is not the model that was loaded: {change}; load it again, as "
                "sk.load_model(lm.hf, lm.tokenizer), and make its vectors anew"
            )
        if new := self._state.added(now):
            warnings.warn(
                f"{self.name} has {len(new)} weights that it was loaded without ({new[0]}), of which its fingerprint "
                "says nothing: load it again, as sk.load_model(lm.hf, lm.tokenizer)",
                stacklevel=3,
            )
        elif (was := self._state.dtypes()) != now.dtypes():
            warnings.warn(
                f"{self.name} was loaded in {', '.join(was)} and is in {', '.join(now.dtypes())} now: what it says from"
                " here on is rounded otherwise; load it in the number format that you want",
                stacklevel=3,
            )
        self._state = now

    def check_owner(self) -> None:
        """Raise ModelInUseError if another thread's steering would reach the calling thread's forward pass."""
        if self._owner is not None and self._owner != threading.get_ident():
            raise ModelInUseError(
                f"{self.name} is being steered by another thread, and this forward pass would be steered with it: "
                "run it in the thread that opened the steering"
            )

    @contextmanager
    def unsteered(self) -> Iterator[None]:
        """Run forward passes inside the block as if nothing were steered; what is open stays open."""
        self.check_owner()
        self._suspended += 1
        try:
            yield
        finally:
            self._suspended -= 1

    @property
    def is_suspended(self) -> bool:
        """Whether an `unsteered` block is open: hooks of open steerings then let states pass as they are."""
        return self._suspended > 0

    @property
    def is_steered(self) -> bool:
        """Whether a steering context is open on this model."""
        return self._owner is not None

    def generate(
        self,
        prompts: Prompt | Iterable[Prompt],
        interventions: Intervention | Sequence[Intervention] = (),
        **options: Any,
    ) -> list[Completion]:
        """Complete prompts, steered by `interventions`, and read with `read=…`; see `steerkit.generate`."""
        from steerkit.engines.generate import generate  # a lazy call up: it is read as one sentence

        return generate(self, prompts, interventions, **options)

    def _repr_html_(self) -> str:
        return str(VIEWS["model"](self))

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {self.n_layers} layers, width {self.d_model}, {self.device})"


def _windows(config: Any) -> Iterator[int]:
    """Whole numbers above 1 in a config, at any depth, whose names are those of such lengths."""
    parts = config.items() if isinstance(config, dict) else enumerate(config)
    for name, value in parts:
        if isinstance(value, dict | list | tuple):
            yield from _windows(value)
        elif type(value) is int and value > 1 and any(word in str(name) for word in LENGTHS):
            yield value
