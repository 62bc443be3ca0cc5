"""The public API: what a sieve finds by itself, recipes, settings, and the names of version 0.1."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import finesieve as fs
from finesieve import methods
from finesieve.errors import SettingError
from finesieve.scoring.task_of import default_head
from tests.conftest import Bag, TableScorer, ids_of, make_batches, train


def test_the_package_has_about_a_dozen_names_and_loads_them_when_asked() -> None:
    assert len(fs.__all__) <= 15
    assert set(fs.__all__) <= set(dir(fs))
    for name in fs.__all__:
        assert getattr(fs, name) is not None
    code = "import sys, finesieve; print('torch' in sys.modules, finesieve.__version__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", fs.__version__]
    with pytest.raises(AttributeError, match="no attribute 'Seive'"):
        _ = fs.Seive  # type: ignore[attr-defined]


# ---- what is found


def test_a_sieve_of_a_model_is_the_sieve_of_its_scorer() -> None:
    def run(**kind: Any) -> Any:
        model = Bag(dropout=0.0)
        sieve = fs.Sieve(
            model if "head" in kind or not kind else None,
            fs.Manual({2: 0.1, 3: 0.3}, predictor_bits=12, cost_ratio=0.2),
            total=400,
            options=fs.SieveOptions(pool=50, group=2),
            **{k: v(model) if k == "scorer" else v for k, v in kind.items()},
        )
        seen = train(sieve, make_batches(400), model, torch.optim.SGD(model.parameters(), lr=0.1))
        return ids_of(seen), [p.detach().clone() for p in model.parameters()]

    found = run()
    assert len(found[0]) < 400
    for kind in ({"head": fs.heads.SingleLabel()}, {"scorer": fs.scores.Classification}):
        ids, parameters = run(**kind)
        assert ids == found[0]
        assert all(map(torch.equal, parameters, found[1]))


@pytest.mark.parametrize(
    ("name", "config", "head"),
    [
        ("BertForSequenceClassification", {}, fs.heads.SingleLabel),
        ("BertForSequenceClassification", {"num_labels": 1}, fs.heads.Regression),
        (
            "BertForSequenceClassification",
            {"problem_type": "multi_label_classification"},
            fs.heads.MultiLabel,
        ),
        ("BertForTokenClassification", {}, fs.heads.Tokens),
        ("BertForMultipleChoice", {}, fs.heads.Choice),
    ],
)
def test_the_task_is_found_from_the_models_class(name: str, config: Any, head: type) -> None:
    transformers = pytest.importorskip("transformers")
    from tests.integrations.transformers.kit import SMALL

    net = getattr(transformers, name)(transformers.BertConfig(**SMALL, **config))
    assert type(default_head(net)) is head
    body = transformers.BertModel(transformers.BertConfig(**SMALL))
    with pytest.raises(fs.ConfigError, match="BertModel tells no task: give head"):
        fs.Sieve(body, total=400)


def test_what_tells_the_task_twice_or_not_at_all_is_refused() -> None:
    model = Bag()
    with pytest.raises(fs.ConfigError, match="head= and scorer= both"):
        fs.Sieve(model, head=fs.heads.SingleLabel(), scorer=TableScorer())
    mixed = fs.SieveOptions(autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    with pytest.raises(fs.ConfigError, match="autocast: the scoring pass that finesieve makes"):
        fs.Sieve(scorer=TableScorer(), options=mixed)
    with pytest.raises(fs.ConfigError, match="model is a str; expected a torch"):
        fs.Sieve("bert")
    with pytest.raises(fs.ConfigError, match="give the sieve the model"):
        fs.Sieve(method="paper")


# ---- recipes


ALL = [
    recipe
    for recipe in (getattr(methods, name) for name in methods.__all__)
    if isinstance(recipe, type)
    and issubclass(recipe, methods.Recipe)
    and recipe is not methods.Recipe
]


def made(recipe: type) -> Any:
    first = {"Budget": [0.3], "Manual": [{2: 0.1}]}
    return recipe(*first.get(recipe.__name__, []))


@pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.__name__)
def test_a_recipe_builds_gates_anew_each_time(recipe: type) -> None:
    one = made(recipe)
    a, b = one.build(0), one.build(0)
    assert a.name == b.name
    for part in ("forward", "backward", "stages", "opening"):
        assert getattr(a, part) is not getattr(b, part)
    assert copy.deepcopy(one) == one == pickle.loads(pickle.dumps(one))
    with pytest.raises(AttributeError):
        one.seed = 1
    doc = recipe.__doc__ or ""
    assert all(field.name in doc for field in fields(recipe)), "each setting is documented"


def test_every_method_by_name_has_a_recipe_and_the_other_way_round() -> None:
    built = {methods.named(name).build().name for name in methods.REGISTRY}
    assert built == set(methods.REGISTRY) == {made(recipe).build().name for recipe in ALL}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: fs.Adaptive(lest=0.3), "Adaptive has no setting 'lest'.*did you mean 'least'"),
        (lambda: methods.named("finesieve", bugdet=0.2), "finesieve has no.*did you mean 'budget'"),
        (lambda: methods.named("paper", warmpu=0.1), "did you mean 'warmup'"),
        (lambda: fs.Full(share=0.1), "Full has no setting 'share'; it has none"),
        (lambda: fs.RandomSubset(seed=1), "the seed is set for the whole run"),
        (lambda: fs.Sieve(Bag(), totl=4), "no setting 'totl'.*did you mean 'total'"),
        (lambda: fs.Sieve(Bag(), grop=4), "no setting 'grop'.*did you mean 'group'"),
    ],
)
def test_misspelt_settings_are_type_errors_with_the_nearest_name(make: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match) as caught:
        make()
    assert isinstance(caught.value, SettingError)
    assert isinstance(caught.value, fs.ConfigError)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: fs.Budget(1.5), "budget is 1.5"),
        (lambda: fs.Adaptive(patience=2.5), "patience of Adaptive is 2.5; expected a whole number"),
        (lambda: fs.Adaptive(least=float("nan")), "expected a finite number"),
        (lambda: fs.Manual([2]), r"expected e.g. \{2: 0.05"),
        (lambda: fs.RandomSubset(0), "share is 0"),
        (
            lambda: fs.SieveOptions(pool=0, group=-1, lengths=[0]),
            "pool is 0.*group is -1.*lengths is",
        ),
        (
            lambda: fs.Sieve(Bag(), fs.Adaptive),
            "the class Adaptive; expected a recipe such as Adaptive",
        ),
        (lambda: fs.Sieve(Bag(), 0.2), r"is a float .*Budget\(0\.2\)"),
        (lambda: fs.Sieve(Bag(), total=0), "total is 0"),
    ],
)
def test_values_out_of_range_are_found_at_once(make: Any, match: str) -> None:
    with pytest.raises(fs.ConfigError, match=match):
        make()


def test_one_recipe_serves_many_sieves_and_nothing_is_shared() -> None:
    recipe = fs.Manual({2: 0.0}, train=0.3, cost_ratio=0.2)

    def ids(sieve: fs.Sieve) -> list[int]:
        return ids_of(list(sieve(make_batches(400))))

    first, second = (fs.Sieve(method=recipe, scorer=TableScorer(), total=400) for _ in range(2))
    once = ids(first)
    assert ids(second) == once  # the first one's draws have not moved the second one's
    other = fs.Sieve(method=recipe, scorer=TableScorer(), total=400, seed=1)
    assert ids(other) != once


# ---- verbs


def test_a_schedule_needs_no_number_of_steps_and_ends_at_its_end() -> None:
    model, batches = Bag(dropout=0.0), make_batches(400)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sieve = fs.Sieve(model, fs.RandomSubset(0.3), total=400)
    schedule = sieve.schedule(torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 50))
    rates = []
    for batch in sieve(batches):
        given = fs.inputs(batch)
        labels = given.pop("labels")
        losses = F.cross_entropy(model(**given), labels, reduction="none")
        sieve.loss(losses, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    assert len(rates) < 25
    assert rates == sorted(rates, reverse=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(fs.ConfigError, match="needs its length"):
        fs.Sieve(model, "full").schedule(schedule)


def test_detached_it_filters_no_more() -> None:
    sieve = fs.Sieve(Bag(), fs.Manual({2: 0.0}, train=0.2, cost_ratio=0.2), total=800)
    batches = make_batches(400)
    assert len(ids_of(list(sieve(batches)))) < 250
    assert 0 < sieve.figures()["sieve_trained"] < 0.7
    sieve.detach()
    assert all(a is b for a, b in zip(sieve(batches), batches, strict=True))
    losses = torch.arange(8.0)
    assert sieve.loss(losses, batches[0]) == losses.mean()


# ---- names of version 0.1


def test_old_names_warn_and_do_the_same() -> None:
    batches = make_batches(400)

    def ids(sieve: fs.Sieve) -> list[int]:
        return ids_of(list(sieve(batches)))

    new = fs.Sieve(
        Bag(), fs.Manual({2: 0.0}, cost_ratio=0.2), total=400, options=fs.SieveOptions(pool=50)
    )
    with pytest.warns(DeprecationWarning, match=r"methods\.build goes .* use .*named"):
        method = methods.build("finesieve", 0, starts={2: 0.0}, cost_ratio=0.2)
    with pytest.warns(DeprecationWarning, match=r"Sieve\(") as said:
        old = fs.Sieve(fs.scores.Classification(Bag()), method, total=400, pool=50)
    assert sorted(str(w.message).split(" goes")[0] for w in said) == [
        "Sieve(pool=...)",
        "Sieve(scorer)",
    ]
    assert ids(old) == ids(new)
    losses, batch = torch.ones(8), next(iter(fs.Sieve(method="full")(batches)))
    with pytest.warns(DeprecationWarning, match=r"Sieve\.reduce goes"):
        assert new.reduce(losses, batch) == new.loss(losses, batch)


@pytest.mark.parametrize(
    "name",
    [
        "paper",
        "authors",
        "full",
        "random",
        "quantile",
        "selective_backprop",
        "top_loss",
        "loss_sampling",
        "infobatch",
        "rho_loss",
        "finesieve",
    ],
)
def test_old_functions_of_methods(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"methods.{name} goes with version 0.3"):
        function = getattr(methods, name)
    assert function(seed=3).name == name.replace("_", "-")


def test_settings_of_json_are_as_good_as_pythons() -> None:
    by_text = methods.named("finesieve", starts={"2": 0.1, "3": 0.2}).build()
    assert by_text.stages.starts == {2: 0.1, 3: 0.2}
    assert isinstance(methods.named("finesieve", budget=0.3), fs.Budget)
    with pytest.raises(fs.ConfigError, match="budget sets shares"):
        methods.named("finesieve", budget=0.3, train=0.1)
    assert np.isclose(methods.named("random", share=0.25).share, 0.25)


def test_settings_may_be_numpys_numbers() -> None:
    """As a search over settings gives them; what is kept and saved is Python's own."""
    recipe = fs.Adaptive(least=np.float32(0.25), patience=np.int64(512))
    options = fs.SieveOptions(pool=np.int64(64), group=np.int32(2), lengths=[np.int64(8)])
    assert [type(x) for x in (recipe.least, recipe.patience, options.pool, options.group)] == [
        float,
        int,
        int,
        int,
    ]
    assert fs.Sieve(Bag(), recipe, seed=np.int64(3), options=options).method.name == "finesieve"
    with pytest.raises(fs.ConfigError, match="expected a share"):
        fs.Adaptive(least=np.float32(1.5))
    for wrong in (None, 0.5, "1", True):
        with pytest.raises(fs.ConfigError, match=f"seed is {wrong!r}; expected a whole number"):
            fs.Sieve(Bag(), seed=wrong)  # type: ignore[arg-type]


def test_numbers_of_examples_may_be_numpys() -> None:
    """As a sum over an array gives them; a saved state holds Python's own."""
    sieve = fs.Sieve(Bag(), total=np.int64(96), head_start=np.int32(0))
    assert sum(1 for _ in sieve(make_batches(96))) == 12
    buffer = io.BytesIO()
    torch.save(sieve.state_dict(), buffer)
    buffer.seek(0)
    again = fs.Sieve(Bag(), total=96, head_start=0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    assert again.progress == 1.0
    for wrong in (96.0, np.float64(96.0), "96"):
        with pytest.raises(fs.ConfigError, match="expected a number of examples, a whole one"):
            fs.Sieve(Bag(), total=wrong)  # type: ignore[arg-type]
