"""One process of a data-parallel training run: real ALIGNN on real crystals, batches from NodeBudgetSampler.

Started by torch.distributed.run; each rank writes what it trained on to RESULTS/RANK.json.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed
from crystals import entries
from torch.nn.parallel import DistributedDataParallel

from nodebudget import frameworks
from nodebudget.sampler import NodeBudgetSampler
from nodebudget.workload.alignn import AlignnWorkload

EPOCHS = 2


def main(results: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    work = AlignnWorkload(hidden_features=16, alignn_layers=1, gcn_layers=1, embedding_features=8)
    samples = [work.sample(entry) for entry in entries(most=8, count=40)]
    loaders = frameworks.require("dgl.dataloading")
    sampler = NodeBudgetSampler([sample[:2] for sample in samples], max_nodes=48, max_line_edges=10_000)
    loader = loaders.GraphDataLoader(samples, batch_sampler=sampler, collate_fn=work.batch)
    # The last layer of the line graph feeds nothing in ALIGNN.
    model = DistributedDataParallel(work.model, find_unused_parameters=True)
    optimizer = torch.optim.AdamW(model.parameters())
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for graph, line_graph, lattice, target in loader:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model((graph, line_graph, lattice)).reshape(-1), target).backward()
            optimizer.step()
    weights = torch.nn.utils.parameters_to_vector(model.parameters()).double()
    rank = torch.distributed.get_rank()
    sampler.set_epoch(EPOCHS - 1)
    found = {
        "graphs": len(samples),
        "world": sampler.num_replicas,
        "length": len(loader),
        "batches": list(sampler),
        "nodes": [float(sampler.sizes["nodes"][batch].sum()) for batch in sampler],
        "weights": [weights.sum().item(), weights.abs().sum().item()],
    }
    (Path(results) / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1])
