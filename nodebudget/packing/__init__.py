"""Packing: arrays in, batches out. Plain numpy, whole numbers, no torch."""

from __future__ import annotations

from nodebudget.packing.balance import Settled as Settled
from nodebudget.packing.balance import deal_epoch as deal_epoch
from nodebudget.packing.balance import epoch_rng as epoch_rng
from nodebudget.packing.balance import mixed as mixed
from nodebudget.packing.balance import relabelled as relabelled
from nodebudget.packing.balance import settle as settle
from nodebudget.packing.deal import Deal as Deal
from nodebudget.packing.items import Items as Items
from nodebudget.packing.orders import best_fit as best_fit
from nodebudget.packing.orders import next_fit as next_fit
from nodebudget.packing.orders import split as split
