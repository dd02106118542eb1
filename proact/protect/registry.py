"""The names of the protection methods.

Nothing heavy is imported, so that help pages can list the names.
"""

from __future__ import annotations

#: By name, the module in this package that defines the method as its `METHOD`.
METHODS = {
    "ranger": "ranger",
    "ft-clipact": "ft_clipact",
    "fitact": "fitact",
    "proact": "proact",
    "resilience-aware-proact": "resilience",
    "weight-range": "weight_range",
    "ecc": "ecc",
}
