"""Lines of ``safa bench`` and ``safa bench methods`` as tables."""

from __future__ import annotations

from safa.report import bench

SETTING = {
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
}
LINE = {
    **SETTING,
    "kind": "bench",
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

STEPS = {
    **SETTING,
    "kind": "steps",
    "figures": {
        "base": "CE",
        "step_milliseconds": {"median": 150.4, "low": 148.6, "high": 155.0},
        "image_milliseconds": {"median": 0.51234, "low": 0.5, "high": 0.6},
        "methods": {
            "CE": {
                "step": {"median": 1.0, "low": 1.0, "high": 1.0},
                "step_memory": 160.0,
                "inference": {"median": 1.0, "low": 1.0, "high": 1.0},
                "inference_memory": 40.0,
            },
            "L2RW": {
                "step": {"median": 3.125, "low": 3.0, "high": 3.5},
                "step_memory": 400.0,
                "inference": {"median": 1.004, "low": 0.98, "high": 1.02},
                "inference_memory": 40.4,
            },
            "NCM": {
                "step": None,
                "step_memory": None,
                "inference": {"median": 0.99, "low": 0.9, "high": 1.0},
                "inference_memory": 30.0,
            },
        },
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


def test_a_method_is_a_row_of_ratios_to_plain_ce_and_one_that_trains_nothing_has_no_step():
    assert bench.rows(STEPS) == [
        ("CE", "1.00×", "1.00–1.00", "1.00×", "1.00×", "1.00–1.00", "1.00×"),
        ("L2RW", "3.12×", "3.00–3.50", "2.50×", "1.00×", "0.98–1.02", "1.01×"),
        ("NCM", "–", "", "–", "0.99×", "0.90–1.00", "0.75×"),
    ]


def test_markdown_of_the_methods_says_what_the_ratios_are_to():
    text = bench.to_markdown(STEPS).splitlines()
    assert text[0] == "| method | step | min–max | peak memory | inference | min–max | peak memory |"
    assert text[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert text[4] == "| NCM | – |  | – | 0.99× | 0.90–1.00 | 0.75× |"
    assert text[6].startswith("1.00× is CE: 150 ms (149–155) and 160 MiB per step in bf16, 0.512 ms per image")
    assert "0.512 ms per image and 40 MiB per batch at inference in float32." in text[6]
    assert text[6].endswith("n = 5 rounds of 20 steps; cpu, 2 cores, 2 threads, torch 2.13.0; memory: resident set.")
