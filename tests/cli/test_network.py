"""Without a network a hub id is given up within seconds; with a slow one nothing changes."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from finesieve.cli import network

pytest.importorskip("huggingface_hub")
constants = importlib.import_module("huggingface_hub.constants")


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(network, "_PAUSE", 0.0)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    network.no_network.cache_clear()
    yield
    network.no_network.cache_clear()


def hub(monkeypatch: pytest.MonkeyPatch, *answers: Exception | None) -> list[str]:
    """The requests that are made; each is answered, or fails, as said."""
    left, asked = list(answers), []

    def head(url: str, timeout: float) -> None:
        asked.append(url)
        answer = left.pop(0)
        if answer is not None:
            raise RuntimeError("the library's own error") from answer

    monkeypatch.setattr(
        "huggingface_hub.get_session", lambda: SimpleNamespace(head=head), raising=True
    )
    return asked


UNKNOWN = socket.gaierror(-2, "Name or service not known")


@pytest.mark.parametrize(
    ("answers", "none"),
    [
        ((UNKNOWN, UNKNOWN), True),
        ((OSError(101, "Network is unreachable"), ConnectionRefusedError(111, "refused")), True),
        ((UNKNOWN, None), False),  # it came back
        ((None,), False),
        ((TimeoutError("slow"),), False),
        ((ValueError("a certificate"),), False),
    ],
)
def test_whether_there_is_a_network(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[Exception | None, ...], none: bool
) -> None:
    asked = hub(monkeypatch, *answers)
    assert network.no_network() is none
    assert asked == [constants.ENDPOINT] * len(answers)
    assert network.no_network() is none  # and asks no more
    assert len(asked) == len(answers)


def test_the_hub_is_left_alone_inside_and_asked_again_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = SimpleNamespace(HF_HUB_OFFLINE=False)
    hub(monkeypatch, UNKNOWN, UNKNOWN)

    def inside() -> None:
        with network.hub_if_there(other):
            assert (constants.HF_HUB_OFFLINE, other.HF_HUB_OFFLINE) == (True, True)
            raise KeyError

    with pytest.raises(KeyError):
        inside()
    assert (constants.HF_HUB_OFFLINE, other.HF_HUB_OFFLINE) == (False, False)


def test_where_there_is_one_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    from finesieve.cli.training.models import _where_from

    hub(monkeypatch, None)
    with network.hub_if_there():
        assert constants.HF_HUB_OFFLINE is False
    assert _where_from("some/model") == {}


def test_a_model_is_looked_for_in_the_cache_alone_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    from finesieve.cli.training.models import _where_from

    asked = hub(monkeypatch, UNKNOWN, UNKNOWN)
    assert _where_from(str(tmp_path)) == {}
    assert not asked
    assert _where_from("some/model") == {"local_files_only": True}


def test_who_works_offline_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = hub(monkeypatch)
    assert not network.no_network()
    assert not asked
