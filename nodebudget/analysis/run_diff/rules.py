"""Which settings of a run belong to the training step, and why others do not affect device memory."""

from __future__ import annotations

#: Names of the setting of graphs per batch.
BATCH_SIZES = ("batch_size", "train_batch_size", "per_device_train_batch_size")

#: Settings → what of a training step they change. By how many bytes, if any, only a measured step tells.
_STEP = {
    " ".join(BATCH_SIZES): "the number of graphs per batch",
    "neighbor_strategy max_neighbors cutoff cutoff_extra three_body_cutoff use_canonize": "the edges of the graphs",
    "compute_line_graph": "whether there are line graphs",
    "lg_on_fly": "where bond cosines are computed",
    "dataset data_path root_dir": "the crystals; to compare them, give --data-a and --data-b",
    "model.name": "the model",
    "hidden_features hidden_dim hidden_size hidden_channels embedding_features": "the width of layers",
    "alignn_layers gcn_layers num_layers n_layers num_hidden_layers n_conv": "the number of layers",
    "edge_input_features triplet_input_features atom_features atom_input_features extra_features": "the inputs' width",
    "output_features atomwise_output_features additional_output_features num_classes": "the width of outputs",
    "dropout dropout_rate": "the masks of dropout",
    "dtype precision torch_dtype use_amp amp fp16 bf16 mixed_precision autocast": "the bytes per number",
    "calculate_gradient gradwise_weight stresswise_weight include_pos_deriv": "the loss of forces and stresses",
    "gradient_checkpointing activation_checkpointing": "what is recomputed in the backward pass",
    "max_length max_tokens max_seq_length": "the maximum number of tokens",
    "freeze_text_encoder freeze_encoder freeze": "which parameters are trained",
    "optimizer": "the optimizer and its state",
    "distributed": "DDP and its buckets of gradients",
    "deterministic": "the algorithms of cuDNN and cuBLAS",
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
    "one of the small batches, and from the second one on the gradients are kept during the forward pass too",
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

_ALL: dict[str, tuple[bool | None, str]] = {
    name: (None, f"it changes {what}") for names, what in _STEP.items() for name in names.split()
}
_ALL |= {name: (False, reason) for names, reason in _NOT_AFFECTING.items() for name in names.split()}


def rule_for(setting: str) -> tuple[bool | None, str] | None:
    """Return whether a setting affects device memory (None: to be measured) and why; None for an unknown setting.

    "model.name" in the tables stands for any dotted name that ends in it.
    """
    parts = setting.lower().split(".")
    return _ALL.get(".".join(parts[-2:])) or _ALL.get(parts[-1])
