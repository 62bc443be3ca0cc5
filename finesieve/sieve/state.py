"""What a saved state holds, how it is written and taken up, and what both runs must have in common.

It is made of tensors, numbers, strings, lists and dicts. Saved between two batches, a run resumes
to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from finesieve.batches.carry import inputs, ride
from finesieve.batches.codec import Codec
from finesieve.batches.padding import Column
from finesieve.batches.rows import Rows, rows_from_state, rows_state
from finesieve.batches.waiting import GROUP
from finesieve.errors import StateError
from finesieve.gates.protocol import State
from finesieve.methods.method import Method
from finesieve.scoring.head_start import HeadStart
from finesieve.sieve.beginning import Beginning
from finesieve.sieve.flow import Counters, Flow
from finesieve.sieve.loop import Loop
from finesieve.sieve.options import SieveOptions
from finesieve.stages.prices import POOL

_VERSION = 11


def identity(method: Method, options: SieveOptions, total: int | None) -> dict[str, Any]:
    """Returns what two runs must have in common for one to take up the other's state."""
    return {
        "version": _VERSION,
        "method": method.name,
        "forward": described(method.forward),
        "backward": described(method.backward),
        "opening": described(method.opening),
        "stages": described(method.stages),
        "pool": options.pool or POOL,
        "group": options.group or GROUP,
        "total": total,
    }


def described(thing: Any, _above: tuple[Any, ...] = ()) -> str:
    """Returns the class and the public settings of a gate, predictor or policy, parts included.

    A part that holds one of the objects that it is a part of is described by its class alone.
    """
    if any(thing is other for other in _above):
        return type(thing).__name__
    parts, above = [], (*_above, thing)
    for name, value in sorted(vars(thing).items()):
        if name.startswith("_"):
            continue
        if isinstance(value, (bool, int, float, str, tuple, dict, type(None))):
            parts.append(f"{name}={value!r}")
        elif hasattr(value, "__dict__"):
            parts.append(f"{name}={described(value, above)}")
    return f"{type(thing).__name__}({', '.join(parts)})"


def check_same(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raises `StateError` naming the first setting in which a saved state differs from this sieve.

    The stream may have grown: a run is resumed with more epochs.
    """
    if theirs.get("version") != ours.get("version"):
        raise StateError(
            f"the saved state has version {theirs.get('version')}, this finesieve reads version "
            f"{ours.get('version')}: finish the run with the finesieve that saved it, or begin anew"
        )
    for key, value in ours.items():
        saved = theirs.get(key)
        if key == "total" and isinstance(saved, int) and isinstance(value, int):
            if saved > value:
                raise StateError(
                    f"the saved state is of a stream of total={saved} examples, this one has "
                    f"{value}: total counts the examples of all passes (epochs times the data's); "
                    "a run that is resumed may be longer, with more epochs, and not shorter"
                )
        elif saved != value:
            raise StateError(
                f"the saved state has {key}={saved!r}, this sieve {value!r}: build "
                "it with the settings that the state was saved with"
            )


def _parts(flow: Flow) -> dict[str, Any]:
    """Returns what has a state of its own, by its name in the saved one."""
    return {
        "forward": flow.method.forward,
        "backward": flow.method.backward,
        "opening": flow.method.opening,
        "codec": flow.codec,
        "scoring": flow.scoring,
        "ledger": flow.ledger,
        "meter": flow.meter,
        "learning": flow.learning,
        "transitions": flow.transitions,
        "second_look": flow.second_look,
    }


def written(
    flow: Flow, beginning: Beginning, loop: Loop, ahead: Iterable[Any], texts: bool = True
) -> State:
    """Returns the state of a run, without what it must have in common with another.

    Args:
        ahead: batches that a host has taken and not trained on.
        texts: whether the examples that wait are in it.
    """
    rows = (*(_taken(flow.codec, batch) for batch in ahead), *loop.ahead)
    state = {
        "batch_size": flow.batch_size,
        "loaders": flow.loaders,
        "head_start": None if beginning.found is None else beginning.found.as_dict(),
        **{name: part.state_dict() for name, part in _parts(flow).items()},
        "pool": [rows_state(r) for r in flow.pool],
        "holding": flow.holding.state_dict(),
        "ahead": [rows_state(r) for r in rows],
        "filler": None if flow.filler is None else rows_state(flow.filler),
        "counters": asdict(flow.counters),
        "place": loop.place.state(),
    }
    return state if texts else _without_texts(state)


def _without_texts(state: State) -> State:
    """Returns the state without anything that was made of a text: what waits is left out, and
    booked as dropped and passed, so that the books and the learning rate go on rightly."""
    state = dict(state)
    holding, ledger = dict(state["holding"]), dict(state["ledger"])
    waiting = [*holding["held"], *holding["ready"]]
    for station, count in (
        ("examples", lambda rows: int((rows["ids"] >= 0).sum())),  # none of a filler's
        ("tokens", lambda rows: int(rows["lengths"][rows["ids"] >= 0].sum())),
    ):
        lost, taken = (
            sum(map(count, rows)) for rows in ([*state["pool"], *waiting], state["ahead"])
        )
        books = ledger[station]  # what was taken and not trained on yet is booked as yielded
        ledger[station] = {
            **books,
            "dropped": books["dropped"] + lost + taken,
            "yielded": books["yielded"] - taken,
        }
    counters = dict(state["counters"])
    counters["released"] += float(sum(rows["spans"].sum() for rows in waiting))
    counters["released"] += sum(len(rows["ids"]) for rows in state["pool"])
    learning = dict(state["learning"])
    learning["returns"] = {**learning["returns"], "expected": [], "given": []}
    filler = state["filler"]
    if filler is not None:  # of weight 0: any example of its form does
        columns = {k: _blank(c) for k, c in filler["columns"].items()}
        filler = {**filler, "columns": columns}
    holding |= {"held": [], "ready": [], "passed": []}
    return {
        **state,
        "pool": [],
        "holding": holding,
        "ahead": [],
        "filler": filler,
        "ledger": ledger,
        "counters": counters,
        "learning": learning,
    }


def _blank(column: Column) -> Column:
    """Returns a column of zeros in another's form; masks stay, for attention to nothing gives
    NaN."""
    if not isinstance(column, torch.Tensor):
        return [type(x)() for x in column]
    mask = bool(((column == 0) | (column == 1)).all())
    return column if mask else torch.zeros_like(column)


def _taken(codec: Codec, batch: Any) -> Rows:
    """Returns the rows of a batch that was yielded."""
    rows = codec.unpack(inputs(batch), 0)
    rows.ids, rows.weights = (x.cpu().numpy().copy() for x in ride(batch))
    return rows


def take_up(
    state: Mapping[str, Any],
    flow: Flow,
    beginning: Beginning,
    loop: Loop,
    device: torch.device | str,
) -> None:
    """Makes a run that has not begun go on from a saved state.

    Args:
        device: where the examples that wait are put until the loader's first batch is there.

    Raises:
        StateError: if survivors' batches are of another size there.
    """
    if flow.batch_size not in (None, state["batch_size"]):
        raise StateError(
            f"the saved state has batch_size={state['batch_size']}, this sieve {flow.batch_size}"
        )
    if state["batch_size"] is not None:
        flow.batch_size = state["batch_size"]
    flow.loaders = state["loaders"]
    found = state["head_start"]
    beginning.was_made(None if found is None else HeadStart(**found))
    for name, part in _parts(flow).items():
        part.load_state_dict(state[name])
    flow.pool = [rows_from_state(s, device) for s in state["pool"]]
    flow.holding.load_state_dict(state["holding"], device)
    loop.ahead = [rows_from_state(s, device) for s in state["ahead"]]
    filler = state["filler"]
    flow.filler = None if filler is None else rows_from_state(filler, device)
    flow.counters = Counters(**state["counters"])
    loop.place.take_up(state["place"])
    loop.resumed = True
