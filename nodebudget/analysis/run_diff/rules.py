"""What each setting of a run does to device memory, and why: data, to be read and added to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What is known of a setting.

    Attributes:
        names: The setting, lower case; "model.name" matches any setting that ends in it.
        moves: Whether it moves device memory.
        reason: Why, in a sentence; {ratio} stands for B's value over A's.
        power: Memory of a step goes roughly as the value to this power; 0: not known.
        typical: Where no power is known: by which factor it usually moves the memory of a step, less one.
        effect: Name of the estimate in `nodebudget.analysis.run_diff.effects` that gives bytes, or "".
        when: A setting and its value in both runs for the rule to hold, or nothing.
    """

    names: tuple[str, ...]
    moves: bool
    reason: str
    power: float = 0.0
    typical: float = 0.0
    effect: str = ""
    when: tuple[str, str] | None = None

    def matches(self, setting: str, values: Sequence[Mapping[str, Any]] = ()) -> bool:
        """Whether the rule is about this setting, in runs of these flat settings."""
        lower = setting.lower()
        if self.when is not None and not (values and all(run.get(self.when[0]) == self.when[1] for run in values)):
            return False
        return any(lower == name or lower.endswith(f".{name}") for name in self.names)

    def explain(self, a: Any, b: Any) -> str:
        """Return the reason for these two values."""
        found = ratio(a, b)
        return self.reason.replace("{ratio}", "?" if found is None else f"{found:.3g}")


def ratio(a: Any, b: Any) -> float | None:
    """Return b over a where both are numbers over 0, else None."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 for value in (a, b))
    return b / a if numbers else None


_CACHE = "where graphs are kept on disk or in host memory: alignn's caches and dgl.load_graphs give graphs on the CPU"
_EDGES = "decides which atoms are joined: more edges, and many more line-graph edges, a node"
_NEAREST = ("neighbor_strategy", "k-nearest")
_RATE = "changes the values of the weights, not how many there are"
_DISK = "what is written to disk or to the screen"
_SPLIT = "which samples are in which split; the number of samples has no part in the memory of a step"
_WIDER = "a wider or narrower input of one layer"
_FORCES = (
    "forces are gradients of the output: their graph is kept for a second backward pass, and so are its activations"
)

#: The first that matches holds.
RULES = (
    # What moves device memory.
    Rule(
        ("batch_size", "train_batch_size", "per_device_train_batch_size"),
        True,
        "activations and batch data go with the graphs of a batch, {ratio} times as many",
        power=1.0,
        effect="batch",
    ),
    Rule(
        ("hidden_features", "hidden_dim", "hidden_size", "hidden_channels"),
        True,
        "the width of every hidden layer: activations scale about as the ratio of widths, {ratio}, a little less since "
        "the input layers stay (measured on ALIGNN of 2 + 2 layers, 64 → 128: 1.78 times)",
        power=1.0,
        effect="width",
    ),
    Rule(
        ("alignn_layers",),
        True,
        "each layer keeps its activations on the line graph, the largest part: about {ratio} times that part",
        power=0.9,
        effect="model",
    ),
    Rule(
        ("gcn_layers",),
        True,
        "each layer keeps its activations on the crystal graph, which has far fewer edges than the line graph",
        power=0.1,
        effect="model",
    ),
    Rule(
        ("num_layers", "n_layers", "num_hidden_layers", "n_conv"),
        True,
        "each layer keeps its activations: {ratio} times as many layers",
        power=1.0,
    ),
    Rule(
        ("dtype", "precision", "torch_dtype"),
        True,
        "the bytes of every number: parameters, optimizer state, activations",
        typical=0.7,
        effect="dtype",
    ),
    Rule(
        ("use_amp", "amp", "fp16", "bf16", "mixed_precision", "autocast"),
        True,
        "under autocast matrix products give half-precision activations; parameters, gradients and optimizer state "
        "stay as they are",
        typical=0.4,
    ),
    Rule(("neighbor_strategy",), True, _EDGES, typical=0.5, effect="graph"),
    Rule(
        ("max_neighbors",),
        True,
        "edges go with it, {ratio} times as many, and line-graph edges with its square",
        power=2.0,
        effect="graph",
    ),
    Rule(
        ("cutoff",),
        True,
        "k-nearest keeps as many neighbours whatever the cutoff, where that many are within it: edges hardly change",
        typical=0.02,
        effect="graph",
        when=_NEAREST,
    ),
    Rule(("cutoff_extra",), False, "the strategy k-nearest does not heed it", when=_NEAREST),
    Rule(("three_body_cutoff",), False, "the strategy k-nearest does not heed it", when=_NEAREST),
    Rule(("cutoff", "three_body_cutoff"), True, _EDGES, typical=0.4, effect="graph"),
    Rule(("cutoff_extra", "use_canonize"), True, _EDGES, typical=0.1, effect="graph"),
    Rule(("compute_line_graph",), True, "the line graph holds most of the bytes of a step", typical=0.8),
    Rule(
        ("dataset", "data_path", "root_dir"),
        True,
        "other crystals may be larger, and memory goes with the nodes and edges of a batch; "
        "give --data-a and --data-b to see",
        typical=0.3,
    ),
    Rule(("model.name",), True, "another model keeps other activations", typical=0.5, effect="model"),
    Rule(("calculate_gradient",), True, _FORCES, typical=0.6),
    Rule(("gradwise_weight", "stresswise_weight", "include_pos_deriv"), True, _FORCES, typical=0.2),
    Rule(
        ("gradient_checkpointing", "activation_checkpointing"),
        True,
        "activations are computed again instead of kept",
        typical=0.6,
    ),
    Rule(
        ("max_length", "max_tokens", "max_seq_length"),
        True,
        "a text encoder's activations go with the tokens, {ratio} times as many at most",
        power=1.0,
    ),
    Rule(
        ("freeze_text_encoder", "freeze_encoder", "freeze"),
        True,
        "frozen parameters have no gradients and no optimizer state, and what leads only to them keeps no activations",
        typical=0.3,
    ),
    Rule(
        ("optimizer",),
        True,
        "numbers kept for each parameter: AdamW two, SGD with momentum one",
        typical=0.05,
        effect="optimizer",
    ),
    Rule(("distributed",), True, "DDP keeps buckets as large as the gradients", typical=0.05, effect="buckets"),
    Rule(
        ("edge_input_features", "triplet_input_features"),
        True,
        "the expansion of every distance or angle, kept for the first layer",
        typical=0.03,
        effect="model",
    ),
    Rule(
        ("embedding_features",),
        True,
        "the width between expansion and hidden layers, kept for every edge and line-graph edge",
        typical=0.05,
        effect="model",
    ),
    Rule(("atom_features", "atom_input_features", "extra_features"), True, _WIDER, typical=0.02, effect="model"),
    Rule(
        ("output_features", "atomwise_output_features", "additional_output_features", "num_classes"),
        True,
        _WIDER.replace("input", "output"),
        typical=0.01,
        effect="model",
    ),
    Rule(("dropout", "dropout_rate"), True, "dropout keeps a mask where it is not 0", typical=0.02),
    Rule(
        ("deterministic",),
        True,
        "other algorithms of cuDNN and a fixed workspace of cuBLAS: some ten MiB",
        typical=0.01,
    ),
    Rule(("lg_on_fly",), True, "bond cosines are computed in the step, and kept for backward", typical=0.02),
    # What does not.
    Rule(
        ("pin_memory", "dataloader_pin_memory"),
        False,
        "pinned memory is host memory that can't be paged out; the copy on the device is as large either way",
    ),
    Rule(
        ("num_workers", "workers", "dataloader_num_workers", "prefetch_factor"),
        False,
        "workers hold batches in host memory: workers × prefetch × batch is right for host memory and wrong for the "
        "GPU, unless the collate function moves tensors to the device",
    ),
    Rule(("persistent_workers",), False, "whether workers, and their host memory, live on between epochs"),
    Rule(("save_dataloader", "read_existing", "use_lmdb", "cache_dir", "graph_cache"), False, _CACHE),
    Rule(
        ("text_cache", "cache_text", "cache_embeddings", "text_cache_dir", "embedding_cache"),
        False,
        "cached encodings of text are in host memory or on disk: a batch's share goes to the device either way",
    ),
    Rule(("gpu_memory_fraction",), False, "a lid on what the process may take: it runs out earlier, and takes no less"),
    Rule(
        ("train_ratio", "val_ratio", "test_ratio", "n_train", "n_val", "n_test", "keep_data_order", "samples"),
        False,
        _SPLIT,
    ),
    Rule(
        ("random_seed", "seed", "split_seed"),
        False,
        "which crystals share a batch: the worst batch of an epoch is another one, the mean one the same",
    ),
    Rule(("learning_rate", "lr", "weight_decay", "momentum", "betas", "eps"), False, _RATE),
    Rule(("scheduler", "warmup_steps", "lr_total_epochs", "max_lr", "pct_start"), False, _RATE),
    Rule(
        ("epochs", "n_epochs", "num_epochs", "max_epochs", "num_train_epochs", "n_early_stopping", "patience"),
        False,
        "how many steps are done, each in the same memory",
    ),
    Rule(
        ("gradient_accumulation_steps", "accumulate_grad_batches"),
        False,
        "gradients are added up in place: the memory is that of one of the small batches",
    ),
    Rule(
        ("criterion", "link", "graphwise_weight", "atomwise_weight", "zero_inflated", "classification_threshold"),
        False,
        "works on a few numbers a graph or atom, next to nothing",
    ),
    Rule(
        ("normalize_graph_level_loss", "target_multiplication_factor", "standard_scalar_and_pca", "target", "id_tag"),
        False,
        "the value of the target or its name, not the size of the graphs",
    ),
    Rule(
        ("output_dir", "filename", "log_tensorboard", "progress", "write_checkpoint", "resume_checkpoint", "name"),
        False,
        _DISK,
    ),
    Rule(("write_predictions", "store_outputs"), False, "predictions are kept in host memory and written to disk"),
    Rule(("ddp_find_unused_parameters",), False, "what DDP looks for in a backward pass: its buckets stay the same"),
    Rule(("data_parallel",), False, "alignn keeps this setting and does not use it"),
    Rule(("version", "git_commit", "comment", "description"), False, "a note on the run"),
)


def rule_for(setting: str, values: Sequence[Mapping[str, Any]] = ()) -> Rule | None:
    """Return the rule about a setting, or None where nothing is known of it.

    Args:
        setting: Dotted name.
        values: Flat settings of the runs, for rules that depend on another setting.
    """
    return next((rule for rule in RULES if rule.matches(setting, values)), None)
