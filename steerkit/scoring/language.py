"""Is the reply in the language of the prompt? Steering may tip a model into another one.

The language of either is identified by py3langid (Lui and Baldwin 2012, "langid.py"), offline. Short texts are hard to
tell: a reply of fewer than `LEAST_WORDS` words has no score, and another language counts only where it is surely one
(from the probability `SURE` on), so the metric finds a model that switches, not a word that was borrowed.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from steerkit.scoring.metrics import Metric, Scores, scorer
from steerkit.scoring.reply import reply_of

if TYPE_CHECKING:
    from steerkit.engines.base import Completion
    from steerkit.suites.items import SuiteItem

LEAST_WORDS = 4
SURE = 0.95
_WORD = re.compile(r"[^\W\d_]{2,}")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

METRICS = (Metric("language_kept", "in the prompt's language", "higher", "language"),)


@scorer("language", metrics=METRICS)
def language(item: SuiteItem, completion: Completion) -> Scores:
    """Say whether the reply is in the prompt's language; None where it is too short to tell."""
    return {"language_kept": same_language(item.prompt, reply_of(completion))}


def same_language(prompt: str, reply: str) -> bool | None:
    """Return whether a reply is in the language of a prompt, or None where either is too short to tell."""
    if not (_tellable(prompt) and _tellable(reply)):
        return None
    expected, _ = _identify(prompt)
    found, probability = _identify(reply)
    return found == expected or probability < SURE


def _tellable(text: str) -> bool:
    return len(_WORD.findall(text)) >= LEAST_WORDS or len(_UNSPACED.findall(text)) >= LEAST_WORDS


def _identify(text: str) -> tuple[str, float]:
    code, probability = _identifier().classify(text)
    return str(code), float(probability)


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # reads its model

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
