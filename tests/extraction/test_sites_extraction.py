"""Vectors and probes of other sites: fitted on the states there, and saying so wherever they go."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.registry import ESTIMATORS
from steerkit.core.sites import SITES, SiteName
from steerkit.extraction.estimator import Estimator
from steerkit.extraction.extract import extract
from steerkit.extraction.pairs import ContrastPairs
from steerkit.extraction.probe_fit import fit_layers, fit_probe
from steerkit.extraction.projection import project_out, shared_directions
from steerkit.interventions.probe import load_probe
from steerkit.interventions.spec import parse
from steerkit.interventions.store import Store, from_json
from steerkit.interventions.vector import SteeringVector, load_vector
from steerkit.models import LanguageModel
from tests.command_line import steerkit
from tests.engines.sites import family, hybrid, states_at
from tests.extraction.test_extraction import ASKED, PAIRS


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ["gpt2", "gemma3_text"])
def test_the_mean_difference_at_a_site_equals_raw_hooks(name: str, site: SiteName) -> None:
    lm = family(name)
    vector = extract(lm, PAIRS, site=site, folds=2)
    sides = []
    for texts in ([p.positive for p in PAIRS], [p.negative for p in PAIRS]):
        encoded = [lm.renderer.encode_pair(p.prompt, text) for p, text in zip(PAIRS, texts, strict=True)]
        read = [states_at(lm, site, list(text.ids))[:, text.prompt_length :].mean(1) for text in encoded]
        sides.append(torch.stack(read).mean(0))
    torch.testing.assert_close(vector.direction, sides[0] - sides[1], rtol=1e-3, atol=1e-4)
    assert vector.metadata.site == vector.site == site
    assert (vector.metadata.alignment is None) is (site == "z")
    assert vector.metadata.heads == (4 if site == "z" else None)


def test_a_vector_says_its_site_in_its_file_its_spec_its_json_and_its_digest(tmp_path: Path) -> None:
    lm = family("llama")
    vectors = {
        site: extract(lm, PAIRS, site=site, folds=2).renamed("v") for site in ("resid_pre", "resid_post", "z")
    }
    assert len({vector.digest for vector in vectors.values()}) == 3
    for site, vector in vectors.items():
        again = load_vector(vector.save(tmp_path / f"{site}.safetensors"))
        assert (again.site, again.digest) == (site, vector.digest)
        steering = again.at(1, 0.5)
        assert parse(str(steering), vectors=again) == steering
        assert from_json(json.loads(json.dumps(steering.to_json())), Store(again)) == steering
    assert "site=" not in str(vectors["resid_post"].at(1))
    with pytest.raises(MisuseError, match="was read at site z"):
        parse("v@layer=1,site=mlp_out", vectors=vectors["z"])


def test_vectors_of_two_sites_are_not_added(tmp_path: Path) -> None:
    del tmp_path
    lm = family("llama")
    a, b = (extract(lm, PAIRS, site=site, folds=2) for site in ("resid_pre", "mlp_out"))
    with pytest.raises(MisuseError, match="steer with both instead"):
        a + b


def test_a_file_that_names_an_unknown_site_is_refused(tmp_path: Path) -> None:
    vector = extract(family("llama"), PAIRS, folds=2)
    object.__setattr__(vector.metadata, "site", "attn_scores")
    with pytest.raises(InputError, match="site"):
        load_vector(vector.save(tmp_path / "v.safetensors"))


def test_what_is_projected_out_is_of_the_same_site() -> None:
    lm = family("gemma3_text")
    vector, other = (extract(lm, PAIRS, site=site, folds=2) for site in ("z", "attn_out"))
    for what in ("mean", "content"):
        shared, name = shared_directions(what, vector, lm, PAIRS)
        rest = project_out(vector, shared, name)
        assert float((torch.einsum("ld,lkd->lk", rest.direction, shared)).abs().max()) < 1e-3
        assert rest.site == "z"
    with pytest.raises(MisuseError, match="at attn_out"):
        shared_directions(other, vector, lm, PAIRS)


@pytest.mark.parametrize("site", ["attn_out", "z"])
def test_a_probe_of_a_site_is_fitted_there(site: SiteName, tmp_path: Path) -> None:
    lm = family("llama")
    probe = fit_probe(lm, ASKED, site=site, folds=2)
    again = load_probe(probe.save(tmp_path / "p.safetensors"))
    assert again.site == site
    prompts = [lm.renderer.encode_prompt(example.prompt) for example in ASKED.examples]
    states = torch.stack([states_at(lm, site, ids)[:, -1] for ids in prompts]).numpy()
    torch.testing.assert_close(
        again.weight, fit_layers(states, ASKED.examples, 2).weight, rtol=1e-2, atol=1e-4
    )
    metadata = probe.metadata.model_copy(update={"site": "resid_post"})
    assert replace(probe, metadata=metadata).digest != probe.digest


def test_a_learned_vector_is_refused_at_another_site() -> None:
    with pytest.raises(MisuseError, match="vectors of resid_post alone, and not of z"):
        extract(family("llama"), PAIRS, "contrastive-energy", layers=1, site="z")


def test_an_estimator_that_takes_a_site_is_given_it() -> None:
    asked = []

    def whole(lm: LanguageModel, pairs: ContrastPairs, *, site: SiteName) -> SteeringVector:
        asked.append(site)
        return extract(lm, pairs, site=site, folds=2)

    ESTIMATORS.add("whole-at-a-site", Estimator("whole-at-a-site", whole, whole=True))
    try:
        assert extract(family("llama"), PAIRS, "whole-at-a-site", site="z").site == "z"
    finally:
        del ESTIMATORS._things["whole-at-a-site"]
    assert asked == ["z"]


def test_an_unknown_site_is_refused_before_anything_runs() -> None:
    with pytest.raises(
        MisuseError, match=r"unknown site 'attn'.*resid_pre, resid_post, attn_out, mlp_out, z"
    ):
        extract(family("llama"), PAIRS, site="attn")  # type: ignore[arg-type]


def test_where_some_layers_have_a_site_the_others_have_no_direction() -> None:
    lm = hybrid()
    vector = extract(lm, PAIRS, site="z", folds=2)
    assert [bool(row.any()) for row in vector.direction] == [False, False, False, True]
    assert vector.relative_dose(0, 1.0) is None
    assert vector.at(3).site == "z"
    with pytest.raises(MisuseError, match="no direction at layer 0, whose block has no z"):
        vector.at(0)


def test_extract_takes_a_site_on_the_command_line(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.safetensors"
    done = steerkit(
        "extract", "--model", tiny_folder, "--pairs", "abstention", "--site", "attn_out", "--out", out
    )
    assert done.code == 0, done.err
    assert load_vector(out).site == "attn_out"
    spoken = steerkit(
        "generate",
        "--model",
        tiny_folder,
        "--steer",
        f"{out}@layer=1,strength=2",
        "--max-new-tokens",
        4,
        "Why?",
    )
    assert spoken.code == 0, spoken.err
    refused = steerkit("extract", "--model", tiny_folder, "--site", "attention", "--out", out)
    assert refused.code == 2
