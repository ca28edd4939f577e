"""What needs more than a loss and a stage: weights of single images learnt on a balanced meta set."""

from safa.methods.lookahead import influence
from safa.methods.meta import LearningToReweight, MetaClassWeight, MetaWeightNet

__all__ = ["LearningToReweight", "MetaClassWeight", "MetaWeightNet", "influence"]
