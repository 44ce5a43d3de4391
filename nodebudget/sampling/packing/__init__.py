"""Packing: arrays in, batches out. Plain numpy, whole numbers, no torch."""

from __future__ import annotations

from nodebudget.sampling.packing.batch_count import BatchCount as BatchCount
from nodebudget.sampling.packing.batch_count import deal_epoch as deal_epoch
from nodebudget.sampling.packing.batch_count import epoch_rng as epoch_rng
from nodebudget.sampling.packing.batch_count import mixed as mixed
from nodebudget.sampling.packing.batch_count import settle as settle
from nodebudget.sampling.packing.batch_count import shuffle_equal_sizes as shuffle_equal_sizes
from nodebudget.sampling.packing.batch_grid import BatchGrid as BatchGrid
from nodebudget.sampling.packing.items import Items as Items
from nodebudget.sampling.packing.ordered import best_fit as best_fit
from nodebudget.sampling.packing.ordered import next_fit as next_fit
from nodebudget.sampling.packing.ordered import split as split
