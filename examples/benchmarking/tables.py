"""What the report says of a benchmark."""

from typing import Any

from examples.benchmarking.shapes import REFERENCE


MODES = ("training", "inference")


def write_shapes(shapes: dict[str, Any]) -> list[str]:
    """Time and memory of each model against the ViT of the same shape."""
    lines = [
        "| shape | model | mode | time / ViT (quartiles) | tokens/s | peak memory / ViT | kept for backward / ViT |",
        "|---|---|---|---|---|---|---|",
    ]
    has_official = False
    for shape, measured in shapes.items():
        for model in measured["num_parameters"]:
            for mode in MODES:
                cost = measured.get(mode, {}).get(model)
                if cost is None or model == REFERENCE:
                    continue
                low, high = cost["time_ratio_quartiles"]
                cells = [shape, model, mode, f"{cost['time_ratio']:.2f} ({low:.2f} to {high:.2f})"]
                cells += [f"{cost['tokens_per_second']:,.0f}", f"{cost['memory_ratio']:.2f}"]
                cells.append(f"{cost['kept_memory_ratio']:.2f}" if "kept_memory_ratio" in cost else "")
                if "time_ratio_to_official" in cost:
                    has_official = True
                    cells.append(f"{cost['time_ratio_to_official']:.2f}")
                lines.append(f"| {' | '.join(cells)} |")
    if has_official:
        lines[0], lines[1] = f"{lines[0]} time / official code |", f"{lines[1]}---|"
    return lines


def write_rows(rows: list[dict[str, Any]]) -> list[str]:
    """The write alone by number of tokens."""
    lines = [f"The write of one layer alone, forward and backward, at width {rows[0]['width']}:", ""]
    lines += ["| tokens | microseconds per token (quartiles) | kept for the backward pass, MiB |", "|---|---|---|"]
    for row in rows:
        low, high = row["microseconds_per_token_quartiles"]
        cells = [f"{row['num_tokens']:,}", f"{row['microseconds_per_token']:.2f} ({low:.2f} to {high:.2f})"]
        lines.append(f"| {' | '.join(cells)} | {row['kept_memory_mib']:.1f} |")
    return lines


def write_suite(suite: dict[str, Any]) -> list[str]:
    """Ratios in bfloat16, images per second from data, and memory by batch size."""
    lines: list[str] = []
    for variant, shapes in suite["ratios"].items():
        if shapes:
            lines += [f"bfloat16, {variant}:", "", *write_shapes(shapes), ""]
    if suite["data"]:
        lines += ["| data | shape | images/s from data | images/s of one batch | share |", "|---|---|---|---|---|"]
    for variant, speed in suite["data"].items():
        cells = [f"{speed['dataset_name']}, {variant}", speed["shape"], f"{speed['images_per_second_from_data']:,.0f}"]
        cells += [f"{speed['images_per_second_synthetic']:,.0f}", f"{speed['share']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    if suite["batch_sizes"]:
        lines += ["", "| shape | model | mode | largest batch that was run | its memory, MiB | ended by |"]
        lines.append("|---|---|---|---|---|---|")
    for model, modes in suite["batch_sizes"].items():
        for mode, found in modes.items():
            last = found["rows"][-1] if found["rows"] else {"batch_size": 0, "peak_memory_mib": 0.0}
            cells = [found["shape"], model, mode, f"{last['batch_size']:,}", f"{last['peak_memory_mib']:,.0f}"]
            lines.append(f"| {' | '.join([*cells, found['ended_by']])} |")
    if suite["left_out"]:
        lines += ["", f"Left out: {'; '.join(suite['left_out'])}."]
    return lines


def write_benchmark(result: dict[str, Any], charts: list[str]) -> list[str]:
    """Everything that a file of results holds, with its charts, named by their paths."""
    parts = []
    if result["shapes"]:
        parts.append(write_shapes(result["shapes"]))
    if result["write"]:
        parts.append(write_rows(result["write"]))
    if result.get("suite"):
        parts.append(write_suite(result["suite"]))
    lines = [line for part in parts for line in [*part, ""]]
    setting = result["setting"]
    if setting["clock"] == "cpu":
        lines += ["Time is what the process computed (CPU time): the machine was shared.", ""]
    if not setting["device"].startswith("cuda"):
        lines += ["Not run on a GPU.", ""]
    return [*lines, *(f"![Chart of the benchmark]({chart})" for chart in charts)]
