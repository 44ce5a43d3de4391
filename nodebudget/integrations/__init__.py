"""Other people's training loops: alignn, Lightning, Hugging Face's Trainer."""

from nodebudget.integrations.advancing import AdvancingSampler
from nodebudget.integrations.alignn import budget_loaders, with_budget
from nodebudget.integrations.alignn_train import AlignnTraining, TrainingBudget, train_alignn
from nodebudget.integrations.huggingface import trainer_callback
from nodebudget.integrations.lightning import lightning_callback
from nodebudget.integrations.lightning_budget import NodeBudget

__all__ = [
    "AdvancingSampler",
    "AlignnTraining",
    "NodeBudget",
    "TrainingBudget",
    "budget_loaders",
    "lightning_callback",
    "train_alignn",
    "trainer_callback",
    "with_budget",
]
