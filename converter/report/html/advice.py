"""What to do about a warning; warnings are written where their cause is found, and known here by some words."""

ADVICE = (
    (
        "far from the batch-norm statistics",
        "The network does not see its training data in these samples, so INT8 may clip values or waste its range. "
        "Train longer with --gan-steps, or calibrate with some hundred real images (--calib-data); "
        "measure with --val.",
    ),
    (
        "gives the wanted label to only",
        "Usual with many classes: ranges follow the statistics and need no labels. If the accuracy with --val is not "
        "enough, train longer with --gan-steps or calibrate with real images (--calib-data).",
    ),
    (
        "always zero on every input",
        "Parts of the network that are dead, or that these inputs don't reach. If real images may reach them, "
        "calibrate with --calib-data.",
    ),
    (
        "doesn't say for which weights",
        "Ranges of other weights ruin the accuracy. Unless you know the cache to be this model's, convert again with "
        "--recalibrate.",
    ),
    ("has no effect", "The option was ignored. Leave it out, or add what it needs."),
    (
        "the plan does not run on this machine",
        "The accuracy is that of the same network; the speed says nothing of the GPU. Copy the plan to a machine with "
        "a GPU it was built for, and measure it there with zscgan-bench.",
    ),
    (
        "how often INT8 agrees with FP32 was not measured",
        "Nothing is known of this conversion's accuracy. Convert again with --val and labelled images before "
        "you use it.",
    ),
    (
        "hardly more than chance",
        "No accuracy on this page means anything until that is mended: the images are not prepared as in training, or "
        "the labels are in another order.",
    ),
    (
        "INT8 is slower than FP32 in ONNX Runtime",
        "Nothing is wrong with the INT8 model: it gains on a GPU, or on a CPU with integer dot products (VNNI). Deploy "
        "the FP32 model on a CPU like this one.",
    ),
    (
        "of the multiply-adds stay in float",
        "INT8 speeds up the rest alone. On a GPU --fp16 speeds up these too.",
    ),
    (
        "convolutions and matrix products",
        "TensorRT found no INT8 kernel for them, or a faster one in another precision. The table of TensorRT's layers "
        "below names them; --fp16 speeds up those that are left in FP32.",
    ),
    (
        "reformats take",
        "Data is converted between neighbours that want another layout. The table of TensorRT's layers below names the "
        "places; a layer there that is not in INT8 is the usual cause.",
    ),
    (
        "the plan holds layer names alone",
        "Which layers run in INT8 can't be told from this plan; one that this tool builds has the details.",
    ),
    (
        "compute time is unstable",
        "Take the speeds as rough. Stop what else runs on the GPU, lock its clocks, and measure with zscgan-bench.",
    ),
    (
        "the host may be the limit",
        "The GPU waits for the CPU, so a faster network would not show. zscgan-bench --cuda-graph measures "
        "without that.",
    ),
    (
        "the GPU may be the limit",
        "The copies cost more than the network. If your inputs are on the GPU already, zscgan-bench --no-transfers "
        "measures what you will see.",
    ),
    (
        "SM clock was between",
        "Some of the measurements ran on a slower GPU. Let it cool, lock its clocks, and measure with zscgan-bench.",
    ),
    (
        "clocks were held down",
        "The GPU is slower than it could be, all precisions alike. Mend the cause, and measure with zscgan-bench.",
    ),
)
"""Words of a warning -> what it means and what to do."""


def advice(warning: str) -> str:
    """What to do about ``warning``; empty where its own words are all there is."""
    return next((text for words, text in ADVICE if words in warning), "")
