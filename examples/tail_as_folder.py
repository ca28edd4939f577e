"""A long tail of a built-in data set as a folder of images, to try on it what your own folder will go through.

Run: python examples/tail_as_folder.py DATA_SET OUTPUT [LARGEST]
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

import safa

IMBALANCE_FACTOR = 100


def write(split: safa.data.Split, names: tuple[str, ...], folder: Path) -> None:
    """One PNG per image, in a folder of its class."""
    for name in names:
        (folder / name).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / names[label] / f"{number:05}.png")


def main(data_set: str, output: Path, largest: int) -> None:
    source = safa.data.load_source(data_set)
    subset = safa.data.draw_subset(
        source.train.labels,
        len(source.class_names),
        profile="exponential",
        imbalance_factor=IMBALANCE_FACTOR,
        largest=largest,
    )
    write(source.train.take(subset.train), source.class_names, output / "train")
    write(source.test, source.class_names, output / "test")
    print(f"{output}: {len(subset.train)} training images, {len(source.test)} test images")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    if Path(sys.argv[2]).exists():
        sys.exit(f"{sys.argv[2]} is there already; name another folder, or delete it")
    try:
        main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1000)
    except safa.UserError as error:
        sys.exit(str(error))
