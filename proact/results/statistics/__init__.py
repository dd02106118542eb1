"""The mathematics of campaigns, from numpy and scipy alone: see docs/statistics.md."""

from proact.results.statistics.betting import betting_interval
from proact.results.statistics.bounded import (
    mean_interval,
    proportion_interval,
    quantile_interval,
)
from proact.results.statistics.estimators import Prior, Trials, deviation, trial_mean
from proact.results.statistics.interval import Interval, checked_confidence, checked_margin
from proact.results.statistics.planning import (
    Components,
    TrialCost,
    components_of,
    images_per_trial,
    single_fault_trials,
    trials_for_margin,
)
from proact.results.statistics.stopping import (
    ProgressEstimate,
    SequentialRule,
    StoppingRule,
    confidence_at_stop,
    is_hopeless,
)
from proact.results.statistics.stopping_bias import corrected_for_stopping, shift_of_stopping
from proact.results.statistics.strata import (
    independent_difference,
    stratified_mean,
    weighted_sum,
)
from proact.results.statistics.stratified_rule import (
    StratifiedRule,
    allocation,
    allocation_of,
    mean_over_strata,
    stratified_quantile,
)
from proact.results.statistics.sweep_rule import SweepRule

__all__ = [
    "Components",
    "Interval",
    "Prior",
    "ProgressEstimate",
    "SequentialRule",
    "StoppingRule",
    "StratifiedRule",
    "SweepRule",
    "TrialCost",
    "Trials",
    "allocation",
    "allocation_of",
    "betting_interval",
    "checked_confidence",
    "checked_margin",
    "components_of",
    "confidence_at_stop",
    "corrected_for_stopping",
    "deviation",
    "images_per_trial",
    "independent_difference",
    "is_hopeless",
    "mean_interval",
    "mean_over_strata",
    "proportion_interval",
    "quantile_interval",
    "shift_of_stopping",
    "single_fault_trials",
    "stratified_mean",
    "stratified_quantile",
    "trial_mean",
    "trials_for_margin",
    "weighted_sum",
]
