"""Settings of a training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """Settings that a training depends on besides its data."""

    # pylint: disable=too-many-instance-attributes  # one for each setting

    learning_rate: float = 0.06
    iterations: int = 500
    max_leaf_nodes: int = 45
    min_samples_leaf: int = 150
    l2_regularization: float = 35.0
    max_features: float = 0.167
    seed: int = 0
    # Threads sum gradients, and a floating-point sum depends on its order. Two partial sums give the same bytes in
    # either order, on any number of cores; three would not.
    threads: int = 2
    # Share of each station's rows, or of all days, kept for verification, and of the rest for the threshold.
    verification_share: float = 0.2
    validation_share: float = 0.2
