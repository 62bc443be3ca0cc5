"""A Trainer's batches are filtered on the host, and trained on where the Trainer wants them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from finesieve.integrations.transformers import attach as hf
from tests.integrations.transformers.kit import OPTIONS, closed, trainer


def test_batches_are_moved_after_they_were_filtered(tmp_path: Path) -> None:
    host = trainer(tmp_path, num_train_epochs=1)
    attached = hf.attach(host, closed(starts={2: 0.2}), head_start=0, **OPTIONS)
    loader = host.get_train_dataloader()
    loader._inner.device = torch.device("meta")  # as a GPU is: what lies there cannot be read
    for batch in loader:
        assert {v.device.type for v in batch.values()} == {"meta"}
        assert "sieve_ids" in batch
    assert loader._inner.device == torch.device("meta")
    assert attached.sieve is not None
    examples = attached.sieve.ledger.examples
    assert examples.drawn == 300
    assert 0 < examples.scored <= 240
    assert examples.yielded == examples.drawn - examples.dropped
