"""Which settings of a run affect device memory, and why. Data; extend the tables as needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """The effect of a setting.

    Attributes:
        reason: Why, in a sentence; {ratio} stands for B's value over A's.
        affects: Whether it affects device memory.
        power: Memory of a step grows about as the value to this power; 0 if unknown.
        typical: Without a power: the typical change of the memory of a step, as a fraction.
        effect: Name of the estimate in `nodebudget.analysis.run_diff.effects` that gives bytes, or "".
        when: A setting and the value that it must have in both runs for the rule to hold, or None.
    """

    reason: str
    affects: bool = True
    power: float = 0.0
    typical: float = 0.0
    effect: str = ""
    when: tuple[str, str] | None = None

    def holds(self, runs: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the rule holds for runs of these flat settings."""
        return self.when is None or (bool(runs) and all(run.get(self.when[0]) == self.when[1] for run in runs))

    def explain(self, a: Any, b: Any) -> str:
        """Return the reason for these two values."""
        scale = ratio(a, b)
        return self.reason.replace("{ratio}", "?" if scale is None else f"{scale:.3g}")


def ratio(a: Any, b: Any) -> float | None:
    """Return b / a if both are positive numbers, else None."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 for value in (a, b))
    return b / a if numbers else None


_EDGES = "it decides which atoms are joined: more edges per node, and many more line-graph edges"
_NEAREST = ("neighbor_strategy", "k-nearest")
_FORCES = "forces are gradients of the output: their graph and its activations are kept for a second backward pass"

#: Names of a setting → its effect on device memory.
_AFFECTING = {
    "batch_size train_batch_size per_device_train_batch_size": Rule(
        "activations and batch data grow with the number of graphs per batch, {ratio} times as many",
        power=1.0,
        effect="batch",
    ),
    "hidden_features hidden_dim hidden_size hidden_channels": Rule(
        "the width of all hidden layers: activations grow about as the ratio of widths, {ratio}, a little less because "
        "the input layers stay (measured on ALIGNN of 2 + 2 layers, 64 → 128: 1.78 times)",
        power=1.0,
        effect="width",
    ),
    "alignn_layers": Rule(
        "each layer keeps activations on the line graph, the largest part: about {ratio} times that part",
        power=0.9,
        effect="model",
    ),
    "gcn_layers": Rule(
        "each layer keeps activations on the crystal graph, which has far fewer edges than the line graph",
        power=0.1,
        effect="model",
    ),
    "num_layers n_layers num_hidden_layers n_conv": Rule(
        "each layer keeps activations: {ratio} times as many layers", power=1.0
    ),
    "dtype precision torch_dtype": Rule(
        "the bytes per number: parameters, optimizer state, activations", typical=0.7, effect="dtype"
    ),
    "use_amp amp fp16 bf16 mixed_precision autocast": Rule(
        "under autocast matrix products give half-precision activations; parameters, gradients and optimizer state "
        "do not change",
        typical=0.4,
    ),
    "neighbor_strategy": Rule(_EDGES, typical=0.5, effect="graph"),
    "max_neighbors": Rule(
        "{ratio} times as many edges; line-graph edges grow with its square", power=2.0, effect="graph"
    ),
    "cutoff": Rule(
        "the strategy k-nearest joins the same number of neighbours for any cutoff that includes them: edges hardly "
        "change",
        typical=0.02,
        effect="graph",
        when=_NEAREST,
    ),
    "cutoff_extra three_body_cutoff": Rule("the strategy k-nearest ignores it", affects=False, when=_NEAREST),
    "cutoff three_body_cutoff": Rule(_EDGES, typical=0.4, effect="graph"),
    "cutoff_extra use_canonize": Rule(_EDGES, typical=0.1, effect="graph"),
    "compute_line_graph": Rule("the line graph takes most of the bytes of a step", typical=0.8),
    "dataset data_path root_dir": Rule(
        "other crystals may be larger, and memory grows with the nodes and edges of a batch; "
        "give --data-a and --data-b to compare them",
        typical=0.3,
    ),
    "model.name": Rule("another model keeps other activations", typical=0.5, effect="model"),
    "calculate_gradient": Rule(_FORCES, typical=0.6),
    "gradwise_weight stresswise_weight include_pos_deriv": Rule(_FORCES, typical=0.2),
    "gradient_checkpointing activation_checkpointing": Rule(
        "activations are recomputed in the backward pass instead of kept", typical=0.6
    ),
    "max_length max_tokens max_seq_length": Rule(
        "a text encoder's activations grow with the tokens, up to {ratio} times as many", power=1.0
    ),
    "freeze_text_encoder freeze_encoder freeze": Rule(
        "frozen parameters have no gradients and no optimizer state, and layers that lead only to them keep no "
        "activations",
        typical=0.3,
    ),
    "optimizer": Rule(
        "optimizer state per parameter: two numbers for AdamW, one for SGD with momentum",
        typical=0.05,
        effect="optimizer",
    ),
    "distributed": Rule("DDP keeps buckets as large as the gradients", typical=0.05, effect="buckets"),
    "edge_input_features triplet_input_features": Rule(
        "the expansion of each distance or angle, kept for the first layer", typical=0.03, effect="model"
    ),
    "embedding_features": Rule(
        "the width between expansion and hidden layers, kept for each edge and line-graph edge",
        typical=0.05,
        effect="model",
    ),
    "atom_features atom_input_features extra_features": Rule(
        "the input width of one layer", typical=0.02, effect="model"
    ),
    "output_features atomwise_output_features additional_output_features num_classes": Rule(
        "the output width of one layer", typical=0.01, effect="model"
    ),
    "dropout dropout_rate": Rule("dropout keeps a mask unless it is 0", typical=0.02),
    "deterministic": Rule("other cuDNN algorithms and a fixed cuBLAS workspace: some ten MiB", typical=0.01),
    "lg_on_fly": Rule("bond cosines are computed in the step and kept for the backward pass", typical=0.02),
}

_RATE = "it changes the values of the weights, not their number"

#: Settings → why they do not affect device memory.
_NOT_AFFECTING = {
    "pin_memory dataloader_pin_memory": "pinned memory is page-locked host memory; the copy on the device has the same "
    "size either way",
    "num_workers workers dataloader_num_workers prefetch_factor": "workers keep batches in host memory: workers × "
    "prefetch_factor × batch is right for host memory and wrong for the GPU, unless the collate function moves tensors "
    "to the device",
    "persistent_workers": "it decides whether workers, and their host memory, persist between epochs",
    "save_dataloader read_existing use_lmdb cache_dir graph_cache": "a graph cache is on disk or in host memory: "
    "alignn's caches and dgl.load_graphs return graphs on the CPU",
    "text_cache cache_text cache_embeddings text_cache_dir embedding_cache": "cached text encodings are in host memory "
    "or on disk; the encodings of a batch go to the device either way",
    "gpu_memory_fraction": "it limits the memory of the process, which runs out earlier but takes the same",
    "train_ratio val_ratio test_ratio n_train n_val n_test keep_data_order samples": "it decides which samples are in "
    "which split; the number of samples does not change the memory of a step",
    "random_seed seed split_seed": "it decides which crystals share a batch: the largest batch of an epoch changes, "
    "the mean batch does not",
    "learning_rate lr weight_decay momentum betas eps": _RATE,
    "scheduler warmup_steps lr_total_epochs max_lr pct_start": _RATE,
    "epochs n_epochs num_epochs max_epochs num_train_epochs n_early_stopping patience": "the number of steps, each of "
    "which takes the same memory",
    "gradient_accumulation_steps accumulate_grad_batches": "gradients are accumulated in place: the memory is that of "
    "one of the small batches",
    "criterion link graphwise_weight atomwise_weight zero_inflated classification_threshold": "it applies to a few "
    "numbers per graph or atom",
    "normalize_graph_level_loss target_multiplication_factor standard_scalar_and_pca target id_tag": "the value or the "
    "name of the target, not the size of the graphs",
    "output_dir filename log_tensorboard progress write_checkpoint resume_checkpoint name": "output on disk or screen",
    "write_predictions store_outputs": "predictions are kept in host memory and written to disk",
    "ddp_find_unused_parameters": "the search for unused parameters in the backward pass; DDP's buckets do not change",
    "data_parallel": "alignn does not use this setting",
    "version git_commit comment description": "a note about the run",
}

#: Names of a setting in lower case, separated by spaces → its rule; "model.name" stands for any setting that ends in
#: it. The first rule that matches holds.
RULES = {**_AFFECTING, **{names: Rule(reason, affects=False) for names, reason in _NOT_AFFECTING.items()}}


def rule_for(setting: str, runs: Sequence[Mapping[str, Any]] = ()) -> Rule | None:
    """Return the rule about a setting, or None for an unknown one.

    Args:
        setting: Dotted name.
        runs: Flat settings of the runs, for rules that depend on another setting.
    """
    dotted = f".{setting.lower()}"
    matching = (rule for names, rule in RULES.items() if any(dotted.endswith(f".{name}") for name in names.split()))
    return next((rule for rule in matching if rule.holds(runs)), None)
