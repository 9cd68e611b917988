"""Which skipped tests are expected, and why. A skip that nothing here explains fails the run."""

import re
from collections import defaultdict
from typing import NamedTuple

import pytest


class ExpectedSkip(NamedTuple):
    """Explains a skip if its test's name and its reason match these regular expressions in full."""

    tests: str
    reason: str
    explanation: str


EXPECTED_SKIPS = (
    # What this machine lacks. On one that has it the tests run.
    ExpectedSkip(".*", r"test requires (multiple )?accelerators?|test requires MPS", "Needs an accelerator."),
    ExpectedSkip(
        "test_(flash_attn|kernels|resize).*",
        r"test requires (Flash Attention( \d)?|the kernels library|deepspeed)",
        "Needs a library that serves accelerators only.",
    ),
    ExpectedSkip(".*", "test is slow", "Takes long and needs an accelerator; RUN_SLOW=1 asks for it."),
    # What AiT is not.
    ExpectedSkip(
        "test_inputs_embeds(_matches_input_ids)?",
        "This model doesn't use `inputs_embeds`",
        "AiT reads images: there are no embeddings to pass in place of token ids.",
    ),
    ExpectedSkip(
        "test_resize_(tokens_embeddings|embeddings_untied|embeddings_untied_no_reinit_on_post_init)",
        "test_resize_embeddings is set to `False`",
        "AiT reads images: there is no vocabulary to resize.",
    ),
    ExpectedSkip(
        "test_resize_position_vector_embeddings",
        "Model does not have position embeddings",
        "AiT resizes its positions by image size, with `resize_positions`, and not by their number.",
    ),
    ExpectedSkip(
        "test_causal_lm_loss_honors_shift_labels|test_encoder_decoder_loss_no_double_shift",
        "No (decoder-only|sequence-to-sequence) language modeling head to check",
        "AiT is no language model.",
    ),
    ExpectedSkip(
        "test_(attn_implementation|can_set_attention_dynamically|sdpa_can_dispatch)_composite_models?"
        "|test_internal_model_config_and_subconfig_are_same",
        # The last of these reasons is what the library says of any model without sub-models.
        r"(Model|This model) is not (a )?composite( model\.)?|No subconfigs .*|AiTModel does not support SDPA",
        "AiT is one model with one configuration, not composed of several.",
    ),
    ExpectedSkip(
        "test_eager_matches_batched_and_grouped_inference_.*|test_moe_.*|test_output_router_logits_from_config",
        "AiTModel does not support grouped_mm|This model has no (sparse experts|`output_router_logits` .*).",
        "AiT has no experts.",
    ),
    ExpectedSkip(
        "test_model_rope_.*|test_vision_axial_rope",
        "This model does not (support RoPE scaling|have RoPE)|.* has no axial RoPE layer defined.",
        "AiT has no rotary position embeddings.",
    ),
    ExpectedSkip(
        "test_sliding_window_mask",
        "Model does not support sliding window mask",
        "AiT attends to every token of an image.",
    ),
    ExpectedSkip(
        "test_tp_plan_matches_params|test_tied_head_has_a_tp_plan_entry",
        "Model does not have a TP plan.",
        "AiT has no plan for tensor parallelism.",
    ),
    ExpectedSkip(
        "test_reverse_loading_mapping|test_can_load_from_already_mapped_keys",
        "No conversion found for .*",
        "AiT loads its checkpoints as they are: no key is renamed on the way.",
    ),
    ExpectedSkip(
        "test_pipeline_(?!image_classification|image_feature_extraction).*",
        ".* is not in `self.pipeline_model_mapping` .*|`run_pipeline_test` is currently not implemented."
        "|test requires (Timm|PyTesseract|av)",
        "The task of this pipeline is none of AiT's.",
    ),
    ExpectedSkip(
        "test_can_init_all_missing_weights",
        "Not a prioritized model for now.",
        "Older versions spare models this test whose files have no copyright line with a year.",
    ),
    # Our own.
    ExpectedSkip(
        "test_keep_in_fp32_modules_exist",
        "Without a workspace there is no memory to keep in float32.",
        "AiT without a workspace has no memory to keep in float32.",
    ),
)


def explain_skip(test_name: str, reason: str) -> str | None:
    """Return why a test may be skipped for this reason, or `None` if it may not."""
    for expected in EXPECTED_SKIPS:
        if re.fullmatch(expected.tests, test_name) and re.fullmatch(expected.reason, reason):
            return expected.explanation
    return None


class SkipAudit:
    """pytest plugin that lists the skipped tests by explanation and fails the run if one has none."""

    def __init__(self):
        self.reasons: defaultdict[str, list[str]] = defaultdict(list)
        self.unexplained: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport):
        if not report.skipped:
            return
        test_name = report.nodeid.rsplit("::", 1)[-1]
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        # Some reasons begin with the name of the test.
        reason = reason.removeprefix("Skipped: ").rsplit(" is skipped: ", 1)[-1]
        explanation = explain_skip(test_name, reason)
        if explanation is None:
            self.unexplained.append(f"{report.nodeid.split('::', 1)[-1]}: {reason}")
        else:
            self.reasons[explanation].append(reason)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session):
        if self.unexplained and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter):
        if self.reasons:
            terminalreporter.section("skipped, as expected")
        for explanation, reasons in sorted(self.reasons.items(), key=lambda item: -len(item[1])):
            terminalreporter.write_line(f"{len(reasons):4}  {explanation}")
            for reason in sorted(set(reasons)):
                terminalreporter.write_line(f"        {reason}")
        if self.unexplained:
            terminalreporter.section("skipped for a reason that tests/conformance/skips.py does not explain")
        for line in self.unexplained:
            terminalreporter.write_line(line, red=True)
