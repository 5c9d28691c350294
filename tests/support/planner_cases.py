"""Jobs and cards drawn at random, and the solver's answer to one against the best of all settings."""

import random
from dataclasses import replace

from steadydancer.machine import gpus
from steadydancer.planning.estimate import phases, sample_phase
from steadydancer.planning.job import job_for, parts_of
from steadydancer.planning.model_sizes import model_of, plannable
from steadydancer.planning.plan import DOES_NOT_FIT
from steadydancer.planning.solve import Case, Rules, options, solve

GIB = 1 << 30


def random_case(rng: random.Random) -> tuple:
    """(job, card, model, parts) for the solver."""
    variant = rng.choice(plannable())
    size = (16 * rng.randint(10, 90), 16 * rng.randint(10, 90))
    given = {"branches": rng.randint(1, 3), "steps": rng.randint(1, 50)}
    job = job_for(variant, *size, 4 * rng.randint(0, 60) + 1, rng.random() < 0.3, **given)
    gib = rng.uniform(3, 48)
    card = replace(rng.choice(gpus.cards()), total=round((gib + 1) * GIB), free=round(gib * GIB))
    return job, card, model_of(variant, []), parts_of(variant)


def compare_with_trying_everything(rng: random.Random) -> str:
    """The solver's verdict on a random case. Raises AssertionError where other settings fit, or are faster."""
    job, card, model, parts = random_case(rng)
    rules = rng.choice([*[Rules()] * 6, Rules("none"), Rules("all"), Rules("all", together=True)])
    found = solve(job, card, model, parts, rules=rules)
    every = list(options(job, model, rules))
    others = {}  # the phases but sampling, by what they depend on
    best = None
    for settings in every:
        key = (settings.vae_tile, settings.text_encoder)
        if key not in others:
            others[key] = [p for p in phases(job, card, model, parts, settings, {}) if p.name != "sample"]
        tried = [*others[key], sample_phase(job, card, model, settings, {})]
        if rules.together:
            tried = phases(job, card, model, parts, settings, {})
        possible = Case(job, card, model, parts, {}).batches(settings)
        if possible and all(phase.where == "cpu" or phase.peak <= card.free for phase in tried):
            seconds = sum(phase.seconds for phase in tried)
            best = seconds if best is None else min(best, seconds)
    chance = rng.choice(every)
    if not rules.together:
        tried = {*others[chance.vae_tile, chance.text_encoder], sample_phase(job, card, model, chance, {})}
        assert tried == set(phases(job, card, model, parts, chance, {})), "nothing else depends on the others"
    assert (best is None) == (found.verdict == DOES_NOT_FIT), (job, card)
    if best is not None:
        assert found.seconds <= best * (1 + 1e-9), (job, card, found)
    return found.verdict
