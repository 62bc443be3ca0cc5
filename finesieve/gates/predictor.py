"""The meta predictor: online models that foresee what the scoring pass would say.

They see `Features` only, never the model. `predict` does not learn; `learn` is the only mutator,
and the sieve always asks for a prediction before it lets an example be learned (progressive
validation), so every recorded quality is that on unseen examples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from finesieve.errors import ConfigError
from finesieve.gates.protocol import Features, FloatArray, Offer, State

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SEVEN, _TWENTY_NINE = np.uint64(7), np.uint64(29)


class Predictor(ABC):
    """Foresees from features alone what the scoring pass would say of an example.

    A predictor is abstract or final. Its memory is bounded and does not grow with the stream.
    """

    @abstractmethod
    def predict(self, offer: Offer) -> FloatArray:
        """Returns what is foreseen of each offered example, float32[n], non-negative: its size, or
        its chance to be important."""

    @abstractmethod
    def learn(self, offer: Offer) -> None:
        """Learns from an offer whose sizes (or verdicts) are known."""

    def look_ahead(self, offers: Sequence[Offer]) -> None:  # noqa: B027
        """Prepares for offers that come next, one after another (see `Gate.look_ahead`)."""

    @abstractmethod
    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        ...

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        ...


def hashed(features: Features, bits: int, bigrams: bool) -> npt.NDArray[np.int64]:
    """Return slots int64[n, m] in [0, 2**bits]; the last one, 2**bits, stands for "nothing here".

    Each token, and each pair of neighbours, is crossed with the label (Weinberger et al. 2009,
    "Feature hashing"): whether an example is hard depends on how its words agree with its label.
    """
    return _slots(features, bits, bigrams)[0]


def _slots(
    features: Features, bits: int, bigrams: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return slots as `hashed` does, and how many of each example stand for something, int64[n]."""
    tokens = np.asarray(features.tokens, dtype=np.int64)
    n, m = tokens.shape
    pairs = m - 1 if bigrams and m > 1 else 0
    # Tokens and pairs side by side, hashed in place: this is the sieve's busiest place.
    key = np.empty((n, m + pairs), dtype=np.uint64)
    single = key[:, :m]
    np.multiply(tokens.view(np.uint64), _GOLDEN, out=single)
    if pairs:
        np.right_shift(single[:, :-1], _SEVEN, out=key[:, m:])
        np.add(key[:, m:], single[:, 1:], out=key[:, m:])
    label = (features.cross + 1).view(np.uint64) * _MIX
    key ^= label[:, None]
    key ^= key >> _TWENTY_NINE
    key *= _MIX
    key >>= np.uint64(64 - bits)
    slots = key.view(np.int64)
    nothing = np.empty((n, m + pairs), dtype=np.bool_)
    alone = np.less(tokens, 0, out=nothing[:, :m])
    if pairs:
        np.logical_or(alone[:, :-1], alone[:, 1:], out=nothing[:, m:])
    np.copyto(slots, 1 << bits, where=nothing)
    return slots, m + pairs - np.add.reduce(nothing, axis=1, dtype=np.int64)


class _Looked(NamedTuple):
    """What the tables hold for an offer: `predict` finds it, and `learn` uses it again.

    Args:
        ids, features: of the offer, by whose identity it is known again.
        slots: int64[n, m].
        scale: float32[n], the value of an active feature.
        total: float32[n], the sum of the weights times that.
        places: int64[n], where each is remembered.
        known: float32[n], what is remembered.
    """

    ids: npt.NDArray[np.int64]
    features: Features
    slots: npt.NDArray[np.int64]
    scale: FloatArray
    total: FloatArray
    places: npt.NDArray[np.int64]
    known: FloatArray


class SizeRegression(Predictor):
    """The default: expected size = exp(bias + sum of hashed weights), learned online.

    Poisson regression, whose mean is right for any positive size, by AdaGrad (Duchi et al. 2011)
    on hashed tokens and bigrams crossed with the label; each active feature has the value
    1 / sqrt(number of active features). One feature more is memory: how the example's size compared
    with the mean when it was last revealed, found again by its id, if an earlier pass has shown it.
    Another, where examples have several targets each, is the logarithm of how many: the size then
    goes with a power of it, which is learned.
    Three float32 tables of 2**bits: 12 MiB at the default. Two of them lie interleaved, so that one
    access to memory, which is what learning waits for, finds both numbers of a slot.

    Args:
        bits: log2 of the tables' length, 8 to 26. Ids that agree in so many bits share a memory.
        rate: AdaGrad's learning rate.
    """

    def __init__(self, bits: int = 20, bigrams: bool = True, rate: float = 0.1) -> None:
        if not 8 <= bits <= 26:
            raise ConfigError(f"bits is {bits}; expected 8 to 26 (2**bits slots of 12 bytes)")
        self.bits, self.bigrams, self.rate = bits, bigrams, rate
        # Of each slot the weight and the sum of squared gradients.
        self._table = np.zeros(((1 << bits) + 1, 2), dtype=np.float32)
        self._memory = np.zeros(1 << bits, dtype=np.float32)  # log(size / mean); 0: never seen
        self._recall = self._recall_square = 0.0  # the weight of what is remembered
        self._power = self._power_square = 0.0  # of the number of targets
        self._usual = 0.0  # running mean of its logarithm
        self._bias = 0.0  # log of the running mean size
        self._seen = 0
        self._last: _Looked | None = None  # the offer that was looked at last
        # Slots and values of features that were hashed ahead, by the features' identity.
        self._ahead: dict[int, tuple[Features, npt.NDArray[np.int64], FloatArray]] = {}

    @property
    def bytes(self) -> int:
        """Memory of the tables, in bytes: fixed at construction."""
        return self._table.nbytes + self._memory.nbytes

    def _taken(self, slots: npt.NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """Return the weights and the sums of squared gradients of these slots."""
        both = self._table.view(np.complex64)[:, 0].take(slots)
        return both.real, both.imag

    def _valued(self, features: Features) -> tuple[npt.NDArray[np.int64], FloatArray]:
        """Return slots, and the value of an active feature of each example."""
        slots, active = _slots(features, self.bits, self.bigrams)
        return slots, (1.0 / np.sqrt(np.maximum(active, 1))).astype(np.float32)

    def look_ahead(self, offers: Sequence[Offer]) -> None:
        """Hashes the features of all offers at once: for a batch alone each step of it takes longer
        to call than to do."""
        several = [offer.features for offer in offers if offer.features is not None]
        self._ahead = {}
        if len(several) < 2:
            return
        widest = max(one.tokens.shape[1] for one in several)
        tokens = np.full((sum(len(one.cross) for one in several), widest), -1, dtype=np.int64)
        end = 0
        for one in several:
            end += len(one.cross)
            tokens[end - len(one.cross) : end, : one.tokens.shape[1]] = one.tokens
        joined = Features(tokens, np.concatenate([one.cross for one in several]))
        slots, scale = self._valued(joined)
        end = 0
        for one in several:
            own = slice(end, end + len(one.cross))
            end = own.stop
            width = one.tokens.shape[1]
            its = slots[own]
            if width < widest:  # tokens, and the pairs of tokens behind them
                its = np.concatenate((its[:, :width], its[:, widest : widest + width - 1]), axis=1)
            self._ahead[id(one)] = one, its, scale[own]

    def _looked(self, offer: Offer) -> _Looked:
        """Returns what the tables hold for an offer, and keeps it for `learn`.

        An offer is predicted first and learned from next, with nothing learned in between.
        """
        features = offer.need("features", self)
        last = self._last
        if last is None or last.features is not features or last.ids is not offer.ids:
            ahead = self._ahead.pop(id(features), None)
            slots, scale = self._valued(features) if ahead is None else ahead[1:]
            total = self._taken(slots)[0].sum(axis=1) * scale
            places = offer.ids & (len(self._memory) - 1)
            known = self._memory[places]
            last = _Looked(offer.ids, features, slots, scale, total, places, known)
            self._last = last
        return last

    def _forward(self, offer: Offer) -> tuple[FloatArray | None, FloatArray]:
        """Return how much longer than usual (in logarithms; None where there is one target each),
        and the expected size; each float32[n]."""
        looked = self._looked(offer)
        z = looked.total + np.float32(self._bias)
        z += np.float32(self._recall) * looked.known
        longer = None
        if looked.features.targets is not None or self._usual != 0.0:
            longer = self._logarithms(offer) - np.float32(self._usual)
            z += np.float32(self._power) * longer
        return longer, np.exp(self._near(z)).astype(np.float32, copy=False)

    def _near(self, z: FloatArray) -> FloatArray:
        """Returns z within 12 of the logarithm of the mean size, whatever that is."""
        return np.minimum(np.maximum(z, self._bias - 12.0), self._bias + 12.0)

    def _logarithms(self, offer: Offer) -> FloatArray:
        """Returns the logarithms of the numbers of targets, float32[n]; the usual one where there
        are none."""
        targets = offer.need("features", self).targets
        if targets is None:
            return np.full(offer.n, self._usual, dtype=np.float32)
        return np.asarray(np.log(np.maximum(targets, 1.0)), dtype=np.float32)

    def predict(self, offer: Offer) -> FloatArray:
        """Returns the expected size of each example, float32[n], positive."""
        return self._forward(offer)[-1]

    def learn(self, offer: Offer) -> None:
        """Takes a step towards the sizes of these examples, and remembers each by its id.

        Raises:
            GateError: for an offer without sizes or features.
        """
        size = np.asarray(offer.need("size", self), dtype=np.float32)
        if len(size) == 0:
            return
        looked = self._looked(offer)
        self._seen += len(size)
        # The bias follows the mean size, which falls as the model learns; the features carry
        # what differs between examples. Hence targets are taken relative to it.
        mean = max(float(np.add.reduce(size) / np.float32(len(size))), 1e-30)
        keep = max(0.0, 1.0 - len(size) / min(self._seen, 4096))
        self._bias = float(np.log(keep * np.exp(self._bias) + (1 - keep) * mean))
        if looked.features.targets is not None or self._usual != 0.0:
            self._usual = keep * self._usual + (1 - keep) * float(self._logarithms(offer).mean())
        longer, predicted = self._forward(offer)
        error = (predicted - size) * np.float32(np.exp(-self._bias))
        flat = looked.slots.reshape(-1)
        step = np.repeat(error * looked.scale, looked.slots.shape[1])
        some = np.flatnonzero(flat < len(self._table) - 1)  # where there is something
        flat, step = flat[some], step[some]
        weight, square = self._table.T
        np.add.at(square, flat, step * step)
        np.add.at(weight, flat, -self.rate * step / np.sqrt(self._taken(flat)[1] + 1e-6))
        self._last = None  # the weights are others now
        pull = (error * looked.known).astype(np.float64)
        self._recall_square += float((pull * pull).sum())
        self._recall -= self.rate * float(pull.sum()) / math.sqrt(self._recall_square + 1e-6)
        if longer is not None:
            pull = (error * longer).astype(np.float64)
            self._power_square += float((pull * pull).sum())
            self._power -= self.rate * float(pull.sum()) / math.sqrt(self._power_square + 1e-6)
        relative = np.log(np.maximum(size, 1e-6 * np.exp(self._bias))) - np.float32(self._bias)
        relative = np.minimum(np.maximum(relative, -4.0), 4.0)
        self._memory[looked.places] = relative

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {
            "weight": torch.from_numpy(self._table[:, 0].copy()),
            "square": torch.from_numpy(self._table[:, 1].copy()),
            "memory": torch.from_numpy(self._memory.copy()),
            "recall": [self._recall, self._recall_square],
            "power": [self._power, self._power_square, self._usual],
            "bias": self._bias,
            "seen": self._seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._last, self._ahead = None, {}
        self._table = torch.stack((state["weight"], state["square"]), dim=1).numpy()
        self._memory = state["memory"].numpy().copy()
        self._recall, self._recall_square = state["recall"]
        self._power, self._power_square, self._usual = state["power"]
        self._bias, self._seen = state["bias"], state["seen"]
