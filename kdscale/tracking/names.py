"""What metrics are called in W&B, and what each is drawn against.

metrics.jsonl has short fields, W&B groups panels by what stands before the slash: ``loss`` is ``train/loss`` there and
``validation_nll`` is ``validation/nll``. configs/wandb/metrics.yaml names all of them.
"""

STEP = "train/step"
"""The x-axis of what is trained: W&B's own step counts rows and differs after a resume."""
STEPS = {
    STEP: "*",
    "ensemble/members": "ensemble/*",
    "calibration/confidence": "calibration/*",
    "specialists/covering": "specialists/*",
    "store/blocks": "store/*",
}
"""Every x-axis, and the metrics that are drawn against it; of two that match the longer counts."""


def of(field: str) -> str:
    """The name in W&B of a field of metrics.jsonl; one with a slash is such a name already."""
    if "/" in field:
        return field
    head, _, rest = field.partition("_")
    return f"validation/{rest}" if head == "validation" and rest else f"train/{field}"
