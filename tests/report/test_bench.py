"""A line of ``safa bench`` as a table."""

from __future__ import annotations

from safa.report import bench

LINE = {
    "kind": "bench",
    "model": "resnet32",
    "batch_size": 128,
    "precision": "bf16",
    "steps": 20,
    "n": 5,
    "device": "cpu",
    "cores": 2,
    "threads": 2,
    "versions": {"torch": "2.13.0"},
    "memory_of": "resident set",
    "figures": {
        "images_per_second": {"ordinary loop": {"median": 400.4, "low": 390, "high": 410}},
        "speed": {"+ bf16": {"median": 2.125, "low": 2.0, "high": 2.2}},
        "safa_step": {"median": 1.404, "low": 1.39, "high": 1.42},
        "generated_rows": 77.6,
        "memory": {
            "plain": {"median": 500.0, "low": 499, "high": 501},
            "SAFA": {"median": 600.0, "low": 600, "high": 600},
        },
        "inference": {"median": 1.0, "low": 0.99, "high": 1.01},
        "identical": True,
        "workers": 2,
    },
}


def test_the_rows_are_medians_with_their_range_and_aim():
    assert bench.rows(LINE) == [
        ("plain training, ordinary loop", "400 images/s", "390–410", ""),
        ("speed-up, + bf16", "2.12×", "2.00–2.20", "≥ 2.0×"),
        ("SAFA step / plain step, bf16", "1.40×", "1.39–1.42", "≤ 1.6×"),
        ("generated rows per SAFA step", "78", "", ""),
        ("peak memory, plain", "500 MiB", "499–501", ""),
        ("peak memory, SAFA", "600 MiB", "600–600", ""),
        ("peak memory, SAFA / plain", "1.20×", "", ""),
        ("inference, with plug-in / without", "1.00×", "0.99–1.01", "1.00×"),
        ("outputs of both", "bit-identical", "", "bit-identical"),
    ]


def test_markdown_holds_every_row_and_where_it_was_measured():
    text = bench.to_markdown(LINE)
    assert text.splitlines()[2] == "| plain training, ordinary loop | 400 images/s | 390–410 |  |"
    assert text.endswith("memory: resident set.")
    assert "n = 5 rounds of 20 steps; cpu, 2 cores, 2 threads, torch 2.13.0" in text
