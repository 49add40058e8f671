"""Reward shapers: parts that map the rewards of rollout groups to new ones before the advantages, one file each.

A shaper joins a reinforcement learner (``grpo+par``); several are applied in the order in which they are named.
"""

from methods.base import Method
from methods.shapers.adaptive_weight import AdaptiveWeight
from methods.shapers.drift_threshold import DriftThreshold
from methods.shapers.gradient_novelty import GradientNovelty
from methods.shapers.implicit_process import ImplicitProcess
from methods.shapers.information_gain import InformationGain
from methods.shapers.latent_retention import LatentRetention
from methods.shapers.majority import Majority
from methods.shapers.matching import Matching
from methods.shapers.multiplicative import Multiplicative
from methods.shapers.par import Par
from methods.shapers.retention import GatedRetention, RetentionShaper
from methods.shapers.sweet_spot import SweetSpot

SHAPERS: tuple[type[Method], ...] = (
    *(RetentionShaper, GatedRetention, LatentRetention, AdaptiveWeight, DriftThreshold),
    *(Par, Multiplicative, InformationGain, GradientNovelty, ImplicitProcess),
    *(SweetSpot, Matching, Majority),
)
