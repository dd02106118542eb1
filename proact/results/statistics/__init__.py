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
)
from proact.results.statistics.strata import (
    independent_difference,
    optimal_allocation,
    stratified_mean,
    weighted_sum,
)
from proact.results.statistics.stratified_rule import (
    StratifiedRule,
    allocation,
    mean_over_strata,
    stratified_quantile,
)

__all__ = [
    "Components",
    "Interval",
    "Prior",
    "ProgressEstimate",
    "SequentialRule",
    "StoppingRule",
    "StratifiedRule",
    "TrialCost",
    "Trials",
    "allocation",
    "betting_interval",
    "checked_confidence",
    "checked_margin",
    "components_of",
    "confidence_at_stop",
    "deviation",
    "images_per_trial",
    "independent_difference",
    "mean_interval",
    "mean_over_strata",
    "optimal_allocation",
    "proportion_interval",
    "quantile_interval",
    "single_fault_trials",
    "stratified_mean",
    "stratified_quantile",
    "trial_mean",
    "trials_for_margin",
    "weighted_sum",
]
