"""Prints each request that PyTorch's allocator got in some training steps, and what it held in the end."""

import json

import numpy as np
import torch
from linegraph_net import LineGraphWorkload, random_sizes

torch.cuda.memory._record_memory_history(context=None, max_entries=10**6)
workload, items, rng = LineGraphWorkload("cuda:0", layers=1), random_sizes(200), np.random.default_rng(3)
failed = False
for graphs in rng.integers(2, 40, 14):
    batch = None
    try:
        batch = workload.batch([workload.sample(items[place]) for place in rng.integers(0, 200, graphs)])
        workload.step(batch)
    except torch.cuda.OutOfMemoryError:
        failed = True
        break
signs = {"alloc": 1, "free_completed": -1, "oom": 1}
trace = torch.cuda.memory._snapshot()["device_traces"][0]
events = [
    (event.get("addr", -1), event["size"] * signs[event["action"]]) for event in trace if event["action"] in signs
]
statistics = torch.cuda.memory_stats()
print(
    json.dumps(
        {
            "events": events,
            "failed": failed,
            "allocated": statistics["allocated_bytes.all.peak"],
            "reserved": statistics["reserved_bytes.all.peak"],
            "retries": statistics["num_alloc_retries"],
        }
    )
)
