"""Sentences are typed, not drawn from lines: those of the summaries say what the lines say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sized
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
CIFAR = "cifar100", "cifar10"
FASHION = "fashion-mnist"
FILES = {"cifar100": "averaged", "cifar10": "averaged", FASHION: "fashion"}  # of the stage with averaged weights
PAPER = {"cifar100": (57.11, 53.96), "cifar10": (21.88, 19.52)}  # Table 1, imbalance 100: LDAM-DRW, LDAM-DRW-SAFA

TEST, VALIDATION = "error_last", "balanced_error_validation"
BASE = "LDAM-DRW [averaged]"
TENTH = "LDAM-DRW-SAFA [tenth rate, ordinary batches] [averaged]"
WITHOUT_ANY = "LDAM-DRW-SAFA w/o any term [ablation]"
MIXED = "mixup-Balanced Softmax"
PAIRS = "LDAM-DRW-SAFA [averaged]"

CHOSEN_BY = {"cifar100": {3}, "cifar10": {2}, FASHION: {3, 4, 5}}  # seeds seen before ordinary batches were taken

Runs = dict[tuple[int, str], float]


@cache
def lines(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / "results" / f"{file}.jsonl").read_text().splitlines()]


def runs(file: str, data: str, method: str, figure: str = TEST, factor: float = 100) -> Runs:
    """Seed and precision -> figure."""
    found = [line for line in lines(file) if (line["dataset"], line["method"]) == (data, method)]
    found = [line for line in found if line["imbalance_factor"] == factor and not line.get("changes")]
    values = {(line["seed"], line["precision"]): line[figure] for line in found}
    assert len(values) == len(found), f"{file}: {data}, {method} has two lines of one seed"
    return values


def gains(base: Runs, other: Runs) -> list[float]:
    """By how much lower the error is than the base's, for every seed that both have."""
    common = sorted(base.keys() & other.keys())
    assert common, "no seed in common"
    return [base[seed] - other[seed] for seed in common]


def averaged(data: str, method: str = TENTH, figure: str = TEST) -> list[float]:
    """Gains of SAFA in the stage with averaged weights."""
    return gains(*(runs(FILES[data], data, name, figure) for name in (BASE, method)))


def since(figure: str = TEST) -> list[float]:
    """Gains of SAFA at imbalance 100 with the seeds that had no part in choosing its variant."""
    found: list[float] = []
    for data, seen in CHOSEN_BY.items():
        base, safa = (runs(FILES[data], data, name, figure) for name in (BASE, TENTH))
        found += [base[run] - safa[run] for run in base.keys() & safa.keys() if run[0] not in seen]
    return found


def at_factor(factor: float) -> list[float]:
    """Gains of SAFA in that stage on Fashion-MNIST-LT at other factors."""
    return gains(*(runs("factors", FASHION, name, factor=factor) for name in (BASE, TENTH)))


def of_terms(method: str, figure: str = TEST) -> list[float]:
    """Gains of SAFA with its terms or without on Fashion-MNIST-LT."""
    return gains(*(runs("terms-fashion", FASHION, name, figure) for name in (BASE, method)))


def at_factor_of_cifar() -> tuple[float, float]:
    """On CIFAR-100-LT at 200: the gain of SAFA, and by how much adjusted logits of LDAM-DRW are behind it."""
    errors = {line["method"]: line[TEST] for line in lines("factors-cifar100")}
    adjusted = min(value for name, value in errors.items() if name.startswith("LDAM-DRW [adjusted"))
    return errors[BASE] - errors[TENTH], adjusted - errors[TENTH]


def at_factor_of_cifar_10(factor: float, figure: str = TEST) -> list[float]:
    """Gains of SAFA on CIFAR-10-LT at other factors."""
    return gains(*(runs("factors-cifar10", "cifar10", name, figure, factor=factor) for name in (BASE, TENTH)))


def at_shorter_factor_of_cifar(figure: str = TEST, factor: float = 50) -> list[float]:
    """Gains of SAFA on CIFAR-100-LT at 50 or 20."""
    return gains(*(runs("shorter-tails", "cifar100", name, figure, factor) for name in (BASE, TENTH)))


def on_base(loss: str, figure: str = TEST) -> tuple[float, float]:
    """Gain of SAFA on CE-DRW or Focal-DRW in that stage, and between the lowest errors of both, adjusted or not."""
    base, safa = rows_on_base(loss)
    lowest_base, lowest_safa = (min(row[figure] for row in rows) for rows in (base, safa))
    return base[0][figure] - safa[0][figure], lowest_base - lowest_safa


def on_base_as_validation_chooses(loss: str) -> float:
    """Gain of SAFA there in test error, each with the adjustment that has the lowest error on validation images."""
    base, safa = (min(rows, key=lambda line: line[VALIDATION]) for rows in rows_on_base(loss))
    return float(base[TEST] - safa[TEST])


def rows_on_base(loss: str) -> list[list[dict[str, Any]]]:
    """The lines of that base without SAFA, and with it, the unadjusted one first."""
    return [
        [line for line in lines("bases") if line["method"].startswith(own)]
        for own in (f"{loss}-DRW [", f"{loss}-DRW-SAFA [")
    ]


def of_raw_deltas_on_cross_entropy(figure: str = TEST) -> float:
    """Gain of the raw delta there."""
    errors = {line["method"]: line[figure] for line in lines("bases") if not line.get("changes")}
    return errors["CE-DRW [averaged]"] - errors["CE-DRW-RawDelta [ordinary batches] [averaged]"]


def in_a_folder(base: str, method: str) -> list[float]:
    """Gains of a method on the folder of images, by seed."""
    of_method = (
        {(line["seed"], line["precision"]): line[TEST] for line in lines("photographs") if line["method"] == name}
        for name in (base, method)
    )
    return gains(*of_method)


def strong(data: str, figure: str = TEST) -> tuple[Runs, Runs]:
    """Errors of the strong recipe without SAFA and with it, in the variant that has more seeds."""
    variants = ("[tenth rate, ordinary batches] [strong]", "[strong]")
    with_safa = max((runs("strong", data, f"mixup-Balanced Softmax-SAFA {name}", figure) for name in variants), key=len)
    return runs("strong", data, "mixup-Balanced Softmax [strong]", figure), with_safa


def schedule(data: str, method: str, base: str = "LDAM-DRW") -> float:
    """A gain in the paper's schedule."""
    return mean(gains(runs(data, data, base), runs(data, data, method)))


def of_stage(data: str) -> float:
    """What the stage with averaged weights takes from the error of LDAM-DRW, with the seeds that both have."""
    return mean(gains(runs(data, data, "LDAM-DRW"), runs("averaged", data, BASE)))


def of_stage_on_average(data: str) -> float:
    """The same, of the means of all seeds that each has."""
    return error(runs(data, data, "LDAM-DRW")) - error(runs("averaged", data, BASE))


def of_paper(data: str) -> float:
    """The gain that the paper reports in its schedule."""
    base, safa = PAPER[data]
    return base - safa


def error(found: Runs) -> float:
    return mean(found.values())


def points(value: float) -> str:
    """To one decimal, as on paper: halves go up."""
    return str(Decimal(f"{value:.4f}").quantize(Decimal("0.1"), ROUND_HALF_UP))


def number(found: Sized) -> str:
    """How many there are, in words as far as they go."""
    return NUMBERS[len(found)] if len(found) < len(NUMBERS) else str(len(found))


def better(gain: float) -> str:
    return f"{points(abs(gain))} {'better' if gain > 0 else 'worse'}"


def _printed(value: float | str) -> str:
    return points(value) if isinstance(value, float) else value


def missing(document: str, claims: Mapping[str, tuple[Any, ...]]) -> list[str]:
    """Sentences, with their figures put in, that the document does not have."""
    page = " ".join((ROOT / document).read_text(encoding="utf-8").split())
    said = [sentence.format(*map(_printed, values)) for sentence, values in claims.items()]
    return [sentence for sentence in said if sentence not in page]


def test_the_summary_of_the_readme_says_what_the_lines_say():
    (plain100, safa100), (plain10, safa10) = strong("cifar100"), strong("cifar10")
    drw100, drw10 = (runs("averaged", data, BASE) for data in CIFAR)
    pairs = averaged("cifar100", PAIRS)
    of_all = [gain for data in FILES for gain in averaged(data)]
    of_validation = [gain for data in FILES for gain in averaged(data, figure=VALIDATION)]
    won, won_validation = ([gain for gain in found if gain > 0] for found in (of_all, of_validation))
    claims = {
        "{} on CIFAR-100-LT ({} seeds) and {} on CIFAR-10-LT ({}) without SAFA, {} and {} with it.": (
            *(error(plain100), number(safa100), error(plain10), number(safa10)),
            *map(error, (safa100, safa10)),
        ),
        "On validation images SAFA makes it {} points worse and {}.": (
            -mean(gains(*strong("cifar100", VALIDATION))),
            better(mean(gains(*strong("cifar10", VALIDATION)))),
        ),
        "it is below LDAM-DRW of the same first stage in {} runs of {}, by": (number(won), number(of_all)),
        "by {} points on CIFAR-100-LT ({} seeds), {} on CIFAR-10-LT ({}) and": (
            *(said for data in CIFAR for said in (mean(averaged(data)), number(averaged(data)))),
        ),
        "and {} on [Fashion-MNIST-LT](docs/results.md#fashion-mnist-lt) ({}); on validation images in {}.": (
            mean(averaged(FASHION)),
            number(averaged(FASHION)),
            number(won_validation),
        ),
        "Of the {} since, all are below on test images, and {} on validation images.": (
            number(since()),
            number([gain for gain in since(VALIDATION) if gain > 0]),
        ),
        "that is {} on CIFAR-100-LT and {} on CIFAR-10-LT, where it has 53.96 and 19.52.": (
            *(error(runs("averaged", data, TENTH)) for data in CIFAR),
        ),
        "LDAM-DRW alone comes to within {} points of the first figure ({} seeds), "
        "and to {} points above the second ({}).": (
            *(abs(error(drw100) - PAPER["cifar100"][1]), number(drw100)),
            *(error(drw10) - PAPER["cifar10"][1], number(drw10)),
        ),
        "by {} points on CIFAR-100-LT (paper: {}), and by {} on CIFAR-10-LT (paper: {}).": (
            *(gain for data in CIFAR for gain in (schedule(data, "LDAM-DRW-SAFA"), of_paper(data))),
        ),
        "is lower than LDAM-DRW-SAFA, by {} and {} points.": (
            *(schedule(data, "mixup-DRW", "LDAM-DRW-SAFA") for data in CIFAR),
        ),
        "at factor 200 it is {} points below on [Fashion-MNIST-LT](docs/results.md#longer-and-shorter-tails) "
        "({} seeds), {} on [CIFAR-10-LT](docs/results.md#longer-and-shorter-tails-of-cifar-10), and {} on": (
            *(mean(at_factor(200)), number(at_factor(200))),
            *(mean(at_factor_of_cifar_10(200)), f"{at_factor_of_cifar()[0]:.2f}"),
        ),
        "on CIFAR-100-LT, it is {} below, and {} with the logits of both adjusted at best, by test errors; "
        "after focal loss {}, and {}.": (*on_base("CE"), *on_base("Focal")),
        "at factor 50 it is {} below on [CIFAR-100-LT](docs/results.md#a-shorter-tail), level on Fashion-MNIST-LT "
        "({} seeds) and {} above on CIFAR-10-LT;": (
            *(mean(at_shorter_factor_of_cifar()), number(at_factor(50))),
            -mean(at_factor_of_cifar_10(50)),
        ),
        "on Fashion-MNIST-LT it is {} points below LDAM-DRW [without any of its four terms]"
        "(docs/results.md#term-by-term), by the classification loss alone, and {} with all ({} seeds).": (
            *(mean(of_terms(WITHOUT_ANY)), mean(of_terms(TENTH)), number(of_terms(WITHOUT_ANY))),
        ),
        "at 20 it is level on both CIFARs on test images, and on validation images {} below on CIFAR-100-LT; "
        "at 10 it is level on Fashion-MNIST-LT ({}).": (
            mean(at_shorter_factor_of_cifar(VALIDATION, 20)),
            number(at_factor(10)),
        ),
        "On CIFAR-100-LT it is there {} to {} points below with each of {} seeds.": (
            *(min(pairs), max(pairs), number(pairs)),
        ),
        "On CE-DRW it has {} of the {} points.": (of_raw_deltas_on_cross_entropy(), on_base("CE")[0]),
    }
    assert missing("README.md", claims) == []
    assert min(since()) > 0  # "all are below"
    assert [len(found) for found in (at_factor_of_cifar_10(200), at_factor_of_cifar_10(50))] == [1, 1]  # no number said
    assert [len(at_shorter_factor_of_cifar(factor=factor)) for factor in (50, 20)] == [1, 1]  # the same
    assert max(abs(mean(at_factor(short))) for short in (50, 10)) < 0.15  # "level"
    assert abs(mean(at_shorter_factor_of_cifar(factor=20))) < 0.1  # the same
    assert abs(mean(at_factor_of_cifar_10(20))) < 0.25  # the same: 0.2


def test_what_the_readme_says_of_a_folder_of_images_and_of_the_digits_is_what_the_lines_say():
    claims = {
        "LDAM-DRW is {} points below cross-entropy ({} seed), and `images/mixup-balanced-softmax` {} points below "
        "LDAM-DRW ({}).": (
            *(mean(found := in_a_folder("CE", "LDAM-DRW")), number(found)),
            *(mean(found := in_a_folder("LDAM-DRW", MIXED)), number(found)),
        ),
        "level on top of LDAM-DRW, and {} points above the other ({}).": (
            -mean(in_a_folder(MIXED, f"{MIXED}-SAFA")),
            number(in_a_folder(MIXED, f"{MIXED}-SAFA")),
        ),
    }
    assert missing("README.md", claims) == []
    in_folder = in_a_folder("LDAM-DRW", "LDAM-DRW-SAFA")
    assert min(in_folder) < 0 < max(in_folder)  # "level"
    plain, drw = (runs("digits", "digits", name, factor=20) for name in ("CE", "LDAM-DRW"))
    assert error(drw) / error(plain) == pytest.approx(0.5, abs=0.02)  # "halves"


def test_the_speeds_in_the_readme_are_those_of_the_benchmark():
    (line,) = lines("bench")
    figures = line["figures"]
    claims = {
        "a step with SAFA takes {} times as long as a plain one and {} times the memory;": (
            figures["safa_step"]["median"],
            f"{figures['memory']['SAFA']['median'] / figures['memory']['plain']['median']:.2f}",
        ),
        "Plain training is {} times as fast as": (figures["speed"]["+ bf16"]["median"],),
    }
    assert missing("README.md", claims) == []
    speed = f"{figures['images_per_second']['our batches, float32']['median']:.0f}"
    assert missing("docs/own_images.md", {"{} images a second in float32 on two CPU cores": (speed,)}) == []
    assert figures["identical"] is True  # "the same, bit for bit"
    assert line["cores"] == 2


def test_the_hours_of_a_run_are_those_of_the_lines():
    hours = [line["seconds"] / 3600 for line in lines("averaged") if line["precision"] == "bf16"]
    assert missing("README.md", {"a run in bf16 took {} to {} hours on": (min(hours), max(hours))}) == []
    assert missing("docs/results.md", {"A run took {} to {} hours on": (min(hours), max(hours))}) == []


def test_the_table_of_the_paper_s_schedule_is_as_near_to_the_paper_as_the_readme_says():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- safa:table cifar100 -->(.*?)<!-- /safa:table -->", page, re.S)
    header, _, *rows = ([cell.strip() for cell in row.split("|")] for row in table.splitlines() if row.startswith("|"))
    method, difference = header.index("method"), header.index("difference")
    differences = {row[method]: float(row[difference].replace("−", "-")) for row in rows if row[difference] != "–"}
    far = {method for method, found in differences.items() if abs(found) > 1.2}
    assert far == {"CB-CE"}
    assert len(differences) > len(far)


def test_the_sentences_on_other_factors_of_cifar_10_say_what_the_lines_say():
    gained, lost = at_factor_of_cifar_10(200), at_factor_of_cifar_10(50)
    claims = {
        "At 200 SAFA is {} points below LDAM-DRW, and {} on validation images,": (
            mean(gained),
            mean(at_factor_of_cifar_10(200, VALIDATION)),
        ),
        "On [CIFAR-10-LT at 200](#longer-and-shorter-tails-of-cifar-10) it takes {} ({} seed), "
        "at 50 it is {} above LDAM-DRW ({}), and at 20 level with it ({}).": (
            *(mean(gained), number(gained), -mean(lost), number(lost)),
            number(at_factor_of_cifar_10(20)),
        ),
        "At 50 SAFA is {} points above LDAM-DRW on test images, and level with it": (-mean(lost),),
        "SAFA is {} points below LDAM-DRW on test images and {} above it on validation images: level.": (
            mean(at_factor_of_cifar_10(20)),
            -mean(at_factor_of_cifar_10(20, VALIDATION)),
        ),
    }
    assert abs(mean(at_factor_of_cifar_10(50, VALIDATION))) < 0.1  # "level"
    assert missing("docs/results.md", claims) == []


def test_the_sentences_on_factor_50_of_cifar_say_what_the_lines_say():
    claims = {
        "At 50 SAFA is {} points below LDAM-DRW on test images and on validation images, as at 100:": (
            mean(at_shorter_factor_of_cifar()),
        )
    }
    assert missing("docs/results.md", claims) == []
    assert points(mean(at_shorter_factor_of_cifar(VALIDATION))) == points(mean(at_shorter_factor_of_cifar()))


def test_the_sentences_on_other_bases_say_what_the_lines_say():
    claims = {
        "has most of that gain: {} points of {} on test images, {} of {} on validation images.": (
            *(of_raw_deltas_on_cross_entropy(), on_base("CE")[0]),
            *(of_raw_deltas_on_cross_entropy(VALIDATION), on_base("CE", VALIDATION)[0]),
        ),
        "SAFA takes {} points from the error of CE-DRW, and {} on validation images,": (
            *(on_base("CE", figure)[0] for figure in (TEST, VALIDATION)),
        ),
        "With the τ that validation images choose, 1.5 and 0.5, test errors are {} apart.": (
            on_base_as_validation_chooses("CE"),
        ),
        "SAFA takes {} points from the error of Focal-DRW, and {} on validation images:": (
            *(on_base("Focal", figure)[0] for figure in (TEST, VALIDATION)),
        ),
        "These are {} points apart on test images and {} on validation images.": (
            on_base_as_validation_chooses("Focal"),
            on_base("Focal", VALIDATION)[1],
        ),
        "On Focal-DRW it takes {} points, and {} with adjusted logits (one seed).": (*on_base("Focal"),),
        "The lowest errors of the two curves are {} points apart on test images and {} on validation images.": (
            *(on_base("CE", figure)[1] for figure in (TEST, VALIDATION)),
        ),
    }
    assert missing("docs/results.md", claims) == []


def test_the_summary_of_the_results_says_what_the_lines_say():
    (plain100, safa100), (plain10, safa10) = strong("cifar100"), strong("cifar10")
    pairs, tenth = runs("averaged", "cifar100", PAIRS), runs("averaged", "cifar10", TENTH)
    claims = {
        "{} of {} points on CIFAR-100-LT, {} of {} on CIFAR-10-LT.": (
            *(gain for data in CIFAR for gain in (schedule(data, "LDAM-DRW-SAFA"), of_paper(data))),
        ),
        "takes {} and {} points from the error of LDAM-DRW itself": (*map(of_stage, CIFAR),),
        "and {} and {} with the mean of all.": (*map(of_stage_on_average, CIFAR),),
        "SAFA takes a further {} and {} points ({} and {} seeds)": (
            *(mean(averaged(data)) for data in CIFAR),
            *(number(averaged(data)) for data in CIFAR),
        ),
        "and {} on Fashion-MNIST-LT ({})": (mean(averaged(FASHION)), number(averaged(FASHION))),
        "on Fashion-MNIST-LT SAFA takes {} points [without any of its four terms](#term-by-term), its modules "
        "learning by the classification loss alone, and {} with all of them ({} seeds).": (
            *(mean(of_terms(WITHOUT_ANY)), mean(of_terms(TENTH)), number(of_terms(WITHOUT_ANY))),
        ),
        "at 200 SAFA takes {} points ({} seeds), at 50 and at 10 nothing ({} each).": (
            mean(at_factor(200)),
            number(at_factor(200)),
            number(at_factor(50)),
        ),
        "On [CIFAR-100-LT at 50](#a-shorter-tail) it takes {} ({} seed), at 20 nothing on test images and {} on": (
            mean(at_shorter_factor_of_cifar()),
            number(at_shorter_factor_of_cifar()),
            mean(at_shorter_factor_of_cifar(VALIDATION, 20)),
        ),
        "after a shorter first stage, {}, and there adjusted logits of LDAM-DRW come to within {} of it.": (
            f"{at_factor_of_cifar()[0]:.2f}",
            at_factor_of_cifar()[1],
        ),
        "on CIFAR-100-LT, SAFA takes {} points (one seed); with the logits of both adjusted at best, {}. "
        "Raw deltas have {} of the {}.": (*(*on_base("CE"), of_raw_deltas_on_cross_entropy(), on_base("CE")[0]),),
        "{} on CIFAR-100-LT ({} seeds, in batches of pairs) where it has 53.96": (error(pairs), number(pairs)),
        "{} on CIFAR-10-LT ({}, in ordinary ones) where it has 19.52.": (error(tenth), number(tenth)),
        "{} ({} seeds) and {} ({}) without SAFA, {} and {} with it.": (
            *(error(plain100), number(safa100), error(plain10), number(safa10)),
            *map(error, (safa100, safa10)),
        ),
    }
    assert number(at_factor(10)) == number(at_factor(50))  # "each"
    assert max(abs(mean(at_factor(short))) for short in (50, 10)) < 0.15  # "nothing"
    assert missing("docs/results.md", claims) == []
