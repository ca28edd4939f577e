"""The first sentence: honest about gains, losses, single seeds and spread."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from safa.errors import UserError
from safa.report.comparison import compare, likely_baseline
from safa.report.headline import headline
from safa.report.runs import Predictions, Run
from tests.report.test_lines import LINE


def run(method: str, seed: int = 0, few: float | None = 60.0, **changes) -> Run:
    result = LINE | {
        "method": method,
        "recipe": method,
        "seed": seed,
        "error_few": few,
        "class_names": ["a", "b", "c"],
        "class_counts": [200, 50, 5],
        "groups": {"many": [0], "medium": [1], "few": [2]},
    }
    return Run(name=f"{method}-{seed}", result=result | changes)


def claim(*runs: Run, baseline: str | None = None) -> str:
    return headline(compare(runs, baseline)).claim


def seeds(method: str, *few: float) -> list[Run]:
    return [run(method, seed, error) for seed, error in enumerate(few)]


def test_a_clear_gain_is_claimed_in_points():
    said = claim(*seeds("CE", 60, 61, 62), *seeds("CE-SAFA", 55, 56.5, 56.5))
    assert said == "CE-SAFA gets 5.0 points more of the rare classes’ images right than CE"


def test_a_gain_inside_the_spread_is_called_so():
    said = claim(*seeds("CE", 60, 61, 62), *seeds("CE-SAFA", 55, 66, 61))
    assert said.startswith("Within the seeds’ spread, CE-SAFA gets 0.3 points more")


def test_a_single_seed_is_called_a_single_seed():
    compared = headline(compare([run("CE", few=60), run("CE-SAFA", few=52)]))
    assert compared.claim.startswith("On one seed, CE-SAFA gets 8.0 points more")
    assert "the spread is unknown" in compared.detail


def test_a_loss_is_not_dressed_up():
    said = claim(*seeds("CE", 60, 61), *seeds("CE-SAFA", 62, 63.05))
    assert said.startswith("CE-SAFA does not help the rare classes: it gets 2.0 points fewer")


def test_a_loss_is_hedged_as_a_gain_is():
    assert claim(*seeds("CE", 60), *seeds("CE-SAFA", 62)).startswith(
        "On one seed, CE-SAFA does not help the rare classes"
    )
    said = claim(*seeds("CE", 60, 61, 62), *seeds("CE-SAFA", 58, 61, 65))
    assert said.startswith("Within the seeds’ spread, CE-SAFA does not help")


def test_a_tie_is_called_neither_a_gain_nor_a_loss():
    said = claim(*seeds("CE", 60), *seeds("CE-SAFA", 60.04))
    assert said == "On one seed, CE-SAFA gets as many of the rare classes’ images right as CE"


def test_among_several_methods_without_a_gain_the_closest_is_named():
    said = claim(*seeds("CE", 60), *seeds("CE-SAFA", 62), *seeds("LDAM", 61))
    assert said.startswith("On one seed, no method helps the rare classes: the closest, LDAM, gets 1.0 points fewer")


def test_the_price_for_the_frequent_classes_is_named():
    runs = [run("CE", error_many=3.0), run("CE-SAFA", few=50, error_many=4.5)]
    assert "The frequent classes pay for it: +1.50 points of error." in headline(compare(runs)).detail


def test_what_happens_to_the_group_in_between_is_told_beside_the_claim():
    runs = [run("CE"), run("CE-SAFA", few=59.1, error_medium=15.4)]
    said = headline(compare(runs))
    assert "0.9 points more of the rare classes" in said.claim
    assert "On the medium-shot classes: −4.60 points of error." in said.detail
    ours = [run("CE-SAFA", seed, error_medium=error) for seed, error in enumerate((15.0, 15.2))]
    assert "−4.90 ± 0.14 points of error, a clear change." in headline(compare([*seeds("CE", 60, 60), *ours])).detail
    ours = [run("CE-SAFA", seed, error_medium=error) for seed, error in enumerate((15.0, 19.0))]
    assert "−3.00 ± 2.83 points of error, no clear change." in headline(compare([*seeds("CE", 60, 60), *ours])).detail


def test_two_seeds_take_more_than_two_standard_errors_to_be_clear():
    # Differences −4 and −6: mean −5, standard error 1, and t with 1 degree of freedom is 12.7.
    said = claim(*seeds("CE", 60, 62), *seeds("CE-SAFA", 56, 56))
    assert said.startswith("Within the seeds’ spread, CE-SAFA gets 5.0 points more")


def test_equal_differences_on_few_seeds_are_not_called_clear():
    said = claim(*seeds("CE", 60, 61), *seeds("CE-SAFA", 59, 60))
    assert said.startswith("On only 2 seeds, though alike, CE-SAFA gets 1.0 points more")


def test_the_best_of_several_is_told_to_be_chosen():
    one = headline(compare([*seeds("CE", 60, 61), *seeds("LDAM", 58, 58)]))
    two = headline(compare([*seeds("CE", 60, 61), *seeds("LDAM", 58, 58), *seeds("CE-SAFA", 55, 59)]))
    assert "the choice" not in one.detail
    assert two.detail.endswith(
        "It is the best of 2 methods by this very figure, so part of the difference may be the choice."
    )


def test_without_a_common_seed_nothing_is_compared():
    assert claim(run("CE", 0), run("CE-SAFA", 1)).startswith("No method shares a seed with CE")


def test_means_of_other_seeds_than_the_differences_are_told_apart():
    said = headline(compare([*seeds("CE", 60, 54, 48), run("CE-SAFA", 0, few=59)]))
    assert (
        "54.00 % with CE, 59.00 % with CE-SAFA, a difference of −1.00 points over the one common seed, lower in 1."
        in said.detail
    )


def test_where_the_rare_classes_are_not_the_same_ones_nothing_is_compared():
    runs = [run("CE"), run("CE-SAFA", few=50, groups={"many": [0], "medium": [], "few": [1, 2]})]
    said = headline(compare(runs))
    assert said.claim == "The few-shot classes are not the same in CE and the others, so nothing is compared"
    assert "Bounds or held-out images differ" in said.detail


def test_one_method_alone_is_described():
    assert claim(run("CE", few=60)) == "CE gets 40.0 % of the rare classes right, 97.0 % of the frequent ones"


def test_without_few_shot_classes_the_rarest_group_is_meant():
    changes = {"groups": {"many": [0], "medium": [1, 2], "few": []}}
    runs = [run("CE", **changes), run("CE-SAFA", error_medium=15.0, **changes)]
    said = headline(compare(runs))
    assert "5.0 points more" in said.claim
    assert "the 2 medium-shot classes (5–50 training images each)" in said.detail


def test_a_group_without_test_images_is_not_the_one_that_is_judged():
    changes = {"error_per_class": [3.0, 20.0, None], "error_few": None}
    runs = [run("CE", **{**changes, "error_medium": 20.0}), run("CE-SAFA", **{**changes, "error_medium": 15.0})]
    said = headline(compare(runs))
    assert said.claim == "On one seed, CE-SAFA gets 5.0 points more of the medium-shot classes’ images right than CE"
    assert "the one medium-shot class (50 training images each)" in said.detail
    assert "The one few-shot class has no test image: nothing is known of it." in said.detail
    alone = headline(compare(runs[:1]))
    assert alone.claim == "CE gets 80.0 % of the medium-shot classes right, 97.0 % of the frequent ones"
    assert "These are the one medium-shot class" in alone.detail
    assert "The one few-shot class has no test image: nothing is known of it." in alone.detail


def test_classes_without_a_test_image_are_counted_group_by_group():
    groups = {"groups": {"many": [], "medium": [0], "few": [1, 2]}}
    said = headline(compare([run("CE", error_per_class=[None, 20.0, None], **groups), run("LDAM", few=50.0, **groups)]))
    assert "the rare classes" in said.claim
    assert (
        "1 of the 2 few-shot classes has no test image: nothing is known of it. "
        "The one medium-shot class has no test image: nothing is known of it."
    ) in said.detail
    assert "no test image" not in headline(compare([run("CE"), run("LDAM")])).detail


def test_a_handful_of_test_images_is_named():
    def tested(rare: int) -> str:
        labels = np.array([0] * 200 + [2] * rare)
        runs = [replace(line, predictions=Predictions(labels, labels)) for line in (run("CE"), run("CE-SAFA"))]
        return headline(compare(runs)).detail

    assert "These classes have 14 test images in all: a difference of a few may be chance." in tested(14)
    assert "test images in all" not in tested(100)


def test_of_many_methods_no_two_look_alike():
    compared = compare([run(f"M{number}") for number in range(30)])
    assert len({(compared.ink(method), compared.shape(method)) for method in compared.methods}) == 30


def test_head_classes_are_those_of_the_training():
    counts = list(range(100, 0, -1))
    groups = {"many": list(range(100)), "medium": [], "few": []}
    line = run("CE", class_counts=counts, class_names=[str(c) for c in counts], groups=groups)
    is_head = compare([replace(line, head_ratio=0.29)]).head_classes()
    assert is_head.sum() == 29  # and not int(100 * 0.29), 28


@pytest.mark.parametrize(
    ("methods", "baseline"),
    [
        (["LDAM", "LDAM-DRW", "LDAM-DRW-SAFA"], "LDAM-DRW"),
        (["CE-SAFA", "CE"], "CE"),
        (["CE", "Focal"], "CE"),
        (["CB-CE", "LDAM-DRW-RSG", "LDAM-DRW-SAFA"], "CB-CE"),
        (["LDAM-DRW-SAFA [tenth rate] [averaged]", "LDAM-DRW [averaged]"], "LDAM-DRW [averaged]"),
        (["LDAM-DRW-SAFA (bf16)", "LDAM-DRW (bf16)", "LDAM (bf16)"], "LDAM-DRW (bf16)"),
    ],
)
def test_the_likely_baseline_is_what_another_method_extends(methods, baseline):
    assert likely_baseline(methods) == baseline


def test_a_named_baseline_is_used():
    assert claim(run("CE", few=60), run("CE-SAFA", few=55), baseline="CE-SAFA").startswith(
        "On one seed, CE does not help"
    )


def test_runs_that_do_not_belong_together_are_refused():
    with pytest.raises(UserError, match=r"imbalance_factor differs: 20 in CE-0, 50 in LDAM-0; write one page"):
        compare([run("CE"), run("LDAM", imbalance_factor=50)])
    with pytest.raises(UserError, match="seed 0 of CE comes twice, in CE-0 and CE-0"):
        compare([run("CE"), run("CE")])
    with pytest.raises(UserError, match="no run of the baseline 'LDAM'; there are CE"):
        compare([run("CE")], baseline="LDAM")
    with pytest.raises(UserError, match="no run to report on"):
        compare([])


def test_per_class_accuracy_is_the_mean_over_seeds_and_skips_what_is_unknown():
    runs = [
        run("CE", 0, error_per_class=[10.0, 50.0, None]),
        run("CE", 1, error_per_class=[20.0, None, None]),
    ]
    accuracy = compare(runs).accuracy("CE")
    assert accuracy[:2].tolist() == [85.0, 50.0]
    assert accuracy[2] != accuracy[2]


def test_head_classes_go_by_count_whatever_their_index():
    compared = compare([run("CE", class_counts=[5, 200, 50])])
    assert compared.head_classes().tolist() == [False, True, False]
    assert compared.head_ratios == {0.2: ["CE"]}


def test_of_runs_that_differ_in_their_head_classes_those_of_all_are_head():
    runs = [replace(run("CE"), head_ratio=0.67), replace(run("LDAM"), head_ratio=0.34)]
    compared = compare([*runs, replace(run("LDAM", 1), head_ratio=0.34)])
    assert compared.head_ratios == {0.67: ["CE"], 0.34: ["LDAM"]}
    assert compared.head_classes().tolist() == [True, False, False]
