"""Run folders as a training run leaves them, invented: the page is developed and tested on these.

python -m tests.report.synthetic FOLDER    # three methods, two seeds, 100 classes
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

# The classes of CIFAR-100.
NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea
seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table
tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
worm
""".split()  # noqa: SIM905, one word a line would be a hundred lines

# method -> accuracy of the largest class, of the smallest class, and whether features are generated
METHODS = {
    "LDAM": (0.84, 0.08, False),
    "LDAM-DRW": (0.78, 0.22, False),
    "LDAM-DRW-SAFA": (0.75, 0.29, True),
}


def write_run(
    folder: Path,
    method: str = "LDAM-DRW",
    *,
    seed: int = 0,
    names: list[str] | None = None,
    largest: int = 500,
    imbalance_factor: float = 100,
    test_images: int = 20,
    epochs: int = 40,
    dataset: str = "cifar100",
    head_ratio: float = 0.2,
    never_predicted: tuple[int, ...] = (),
    leave_out: tuple[str, ...] = (),
    **changes: object,
) -> Path:
    """Write a run folder; ``changes`` replace keys of the result line, ``leave_out`` names missing files."""
    names = NAMES if names is None else names
    generator = np.random.default_rng([seed, sorted(METHODS).index(method)])
    counts = exponential(largest, len(names), imbalance_factor)
    labels = np.repeat(np.arange(len(names)), test_images)
    predictions = predicted(labels, counts, method, generator, never_predicted)
    result = result_line(labels, predictions, counts, names) | {
        "recipe": f"{dataset}-{method.lower()}",
        "dataset": dataset,
        "imbalance_factor": imbalance_factor,
        "model": "resnet32",
        "method": method,
        "seed": seed,
        "epochs": epochs,
        "run": folder.name,
        **changes,
    }
    if METHODS[method][2] and "diagnostics" not in changes:
        result["diagnostics"] = diagnostics(result["groups"], np.random.default_rng(seed))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, ensure_ascii=False))
    (folder / "recipe.yaml").write_text(f"method: {method}\ndata: {{name: {dataset}, head_ratio: {head_ratio}}}\n")
    (folder / "subset.json").write_text("{}")
    log = training_log(result, epochs, METHODS[method][2], generator)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    confidence = generator.uniform(0.2, 1, len(labels)).astype(np.float32)
    np.savez(folder / "predictions.npz", labels=labels, predictions=predictions, confidence=confidence)
    np.savez(folder / "features.npz", **features(counts, METHODS[method][2], generator))
    for name in leave_out:
        (folder / name).unlink()
    return folder


def exponential(largest: int, classes: int, imbalance_factor: float) -> np.ndarray:
    ranks = np.arange(classes) / max(classes - 1, 1)
    return np.maximum((largest * imbalance_factor**-ranks).astype(int), 1)


def predicted(labels, counts, method, generator, never_predicted):
    """Right with a probability that falls along the tail; wrong towards a few similar, frequent classes."""
    classes = len(counts)
    highest, lowest, _ = METHODS[method]
    rank = np.arange(classes) / max(classes - 1, 1)
    right = highest + (lowest - highest) * rank**0.8
    right = np.clip(right + np.random.default_rng(7).normal(0, 0.12, classes), 0.02, 0.98)
    similar = np.random.default_rng(11).gamma(0.15, 1, (classes, classes)) + 1e-9
    wrong = similar * counts**0.5 * (1 - np.eye(classes))
    wrong[:, list(never_predicted)] = 0
    predictions = labels.copy()
    for index, label in enumerate(labels):
        if label in never_predicted or generator.random() > right[label]:
            predictions[index] = generator.choice(classes, p=wrong[label] / wrong[label].sum())
    return predictions


def result_line(labels, predictions, counts, names) -> dict:
    wrong = labels != predictions
    per_class = [100 * float(wrong[labels == c].mean()) for c in range(len(names))]
    groups = {
        "many": np.flatnonzero(counts > 100).tolist(),
        "medium": np.flatnonzero((counts >= 20) & (counts <= 100)).tolist(),
        "few": np.flatnonzero(counts < 20).tolist(),
    }
    by_group = {
        f"error_{name}": 100 * float(wrong[np.isin(labels, ids)].mean()) if ids else None
        for name, ids in groups.items()
    }
    error = 100 * float(wrong.mean())
    return {
        **by_group,
        "error_last": error,
        "error_best": error - 0.4,
        "error_best_epoch": 37,
        "error_per_class": per_class,
        "balanced_error": float(np.mean(per_class)),
        "ece": 12.5,
        "class_counts": counts.tolist(),
        "class_names": list(names),
        "groups": groups,
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "torch": "2.13.0",
        "device": "cpu",
        "precision": "bf16",
        "seconds": 3723.4,
        "subset_sha256": "ab" * 32,
        "reused_epochs": 32,
        "version": "0.1.0",
    }


def training_log(result, epochs, generates, generator) -> list[dict]:
    switch = int(epochs * 0.8)
    log = []
    for epoch in range(epochs):
        late = epoch >= switch
        progress = (epoch + 1) / epochs
        rate = 0.1 * (0.01 if late else 1) * (0.01 if epoch >= 0.9 * epochs else 1)
        above = (95 - result["error_last"]) * np.exp(-6 * progress) + (0 if late else 5)
        noise = generator.normal(0, 0.3 if late else 2)
        errors = {
            key: None if result[key] is None else float(np.clip(result[key] + above + noise, 0, 100))
            for key in ("error_many", "error_medium", "error_few")
        }
        error = result["error_last"] if epoch == epochs - 1 else float(result["error_last"] + above + noise)
        terms, watched = {"classification": float(4 * np.exp(-3 * progress) + 0.4)}, {}
        if late and generates:
            terms |= {
                "cycle_reconstruction": float(5 * np.exp(-4 * (progress - 0.8)) + generator.normal(0, 0.05)),
                "mode_seeking_tail": float(1.2 + generator.normal(0, 0.02)),
                "mode_seeking_head": float(0.9 + generator.normal(0, 0.02)),
                "contrastive": float(0.69 - 0.5 * (progress - 0.8) + generator.normal(0, 0.01)),
            }
            watched = {"delta_size": 1.4 - progress, "pair_accuracy_real": 50 + 20 * progress, "delta_cosine": None}
        log.append(
            {
                "epoch": epoch,
                "stage": ("safa" if generates else "deferred") if late else "plain",
                "lr": rate,
                "loss": sum(terms.values()),
                "terms": terms,
                "diagnostics": watched,
                "images_per_second": 900.0,
                "seconds": 12.0,
                "test": {"error": error, **errors},
            }
        )
    return log


def features(counts, generates, generator, dimensions: int = 16) -> dict[str, np.ndarray]:
    classes = len(counts)
    centres = np.random.default_rng(3).normal(0, 0.45, (classes, dimensions))
    parts, labels, kinds = [], [], []
    is_head = np.zeros(classes, bool)
    is_head[: max(1, int(classes * 0.2))] = True
    for c in [*range(min(5, classes)), *range(max(0, classes - 5), classes)]:
        amounts = {0: min(15, int(counts[c])), 2: 8, 1: 10 if generates and not is_head[c] else 0}
        for kind, amount in amounts.items():
            spread = {0: 0.35, 1: 0.45, 2: 0.6}[kind]
            parts.append(centres[c] + generator.normal(0, spread, (amount, dimensions)))
            labels.append(np.full(amount, c))
            kinds.append(np.full(amount, kind))
    label = np.concatenate(labels)
    return {
        "features": np.concatenate(parts).astype(np.float32),
        "labels": label,
        "kind": np.concatenate(kinds).astype(np.uint8),
        "is_head": is_head[label],
    }


def diagnostics(groups, generator) -> dict:
    """Generated features lie between training and test features; classes with many images generate none."""

    def figures(easy: float) -> dict[str, float]:
        return {
            "assigned": 90 * easy,
            "nearest_mean": 80 * easy,
            "distance_ratio": 1.2 - 0.5 * easy,
            "layer_nearest_mean": 50 * easy,
            "layer_distance_ratio": 1.1 - 0.2 * easy,
        }

    found = {}
    for kind, easy in {"generated": 0.7, "training": 0.9, "test": 0.4}.items():
        known = figures(easy + generator.uniform(0, 0.05))
        unknown = dict.fromkeys(known)
        found[kind] = {"all": known, **{group: unknown if group == "many" else known for group in groups}}
    return {
        "rows": {"generated": 1234, "training": 2000, "test": 2000},
        "figures": found,
        "batch_norm": {f"layer3.{block}.bn1": {"shift": 0.1 / (1 + block), "factor": 0.97} for block in range(2)},
    }


def write_comparison(folder: Path, methods=tuple(METHODS), seeds: int = 2, **options) -> list[Path]:
    """One run folder per method and seed."""
    return [
        write_run(folder / f"{method.lower()}-{seed}", method, seed=seed, **options)
        for method in methods
        for seed in range(seeds)
    ]


if __name__ == "__main__":
    write_comparison(Path(sys.argv[1]), epochs=200, test_images=100)
