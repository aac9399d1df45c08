"""The contract of importance criteria, for every built-in one."""

from __future__ import annotations

from promises import keeping

from autoprune.importance import IMPORTANCES, Importance, make_importance
from autoprune.testing import ImportanceContract

SAMPLED = {"random", "coreset", "aofp"}


def contract(name: str) -> type[ImportanceContract]:
    class Contract(ImportanceContract):
        is_random = name in SAMPLED - {"aofp"}
        finds_dead_units = name != "random"
        # Units that are never zero are equal to APoZ, and equal units stay in their order.
        is_equivariant = name not in {*SAMPLED, "apoz"}

        def make(self) -> Importance:
            return make_importance(name)

        def test_it_is_registered_under_its_name(self) -> None:
            assert self.make().name == name

    return keeping(
        Contract,
        test_a_dead_unit_ranks_last=Contract.finds_dead_units,
        test_renumbered_units_are_ranked_alike=Contract.is_equivariant,
        test_seeds_and_groups_draw_for_themselves=Contract.is_random,
    )


for _name in IMPORTANCES:
    globals()[f"TestContract_{_name}"] = contract(_name)
