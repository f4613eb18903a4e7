"""The options of the converter's commands in the groups in which ``--help`` shows them, one decorator each."""

import click
import cloup

from calibrators.options import CalibrationOptions
from calibrators.zscgan.options import ZSCGANOptions
from converter.cli.params import ResizeType, ShapeType
from converter.load.options import ORDER_CHOICES, PRESET_CHOICES
from converter.options import CALIBRATORS, DEVICES, SAMPLES, TASKS, ConvertOptions
from converter.qat.options import BACKENDS, QATOptions
from engines.cli.options import cpu_int8_option, profile_options
from engines.cli.params import FilePath, Numbers
from engines.options import BUFFERS, ENGINES

CHANNELS = Numbers(float, "0.485,0.456,0.406")
"""A number for each channel, or one for all."""

LOGS = (
    cloup.option("-v", "--verbose", count=True, help="Logs of the libraries; -vv: tracebacks too."),
    cloup.option("-q", "--quiet", is_flag=True, help="Warnings and the result alone."),
)

model_options = cloup.option_group(
    "Model",
    cloup.option("--arch", metavar="NAME", help="The architecture of a checkpoint, if it isn't recognised: a "
                 "torchvision name, timm:name, package.module:callable or file.py:callable. The last three also take "
                 "arguments: 'file.py:build(num_classes=7)'.  [default: the architecture of torchvision or timm that "
                 "fits the weights]"),
    cloup.option("--trust-pickle", is_flag=True, help="Read a whole pickled module, which runs code from the file."),
    cloup.option("--task", type=click.Choice(TASKS), default=ConvertOptions.task, show_default=True,
                 help="What the outputs mean; auto recognises it and says so."),
    cloup.option("--decode", metavar="FILE.py:CALLABLE", help="A function that finds a detector's boxes in outputs "
                 "of an unknown layout."),
)  # fmt: skip

input_options = cloup.option_group(
    "Input",
    cloup.option("--input-shape", type=ShapeType(), help="Shape of one input, for example 3x224x224."),
    cloup.option("--mean", type=CHANNELS, help="Mean of each channel, for pixels in [0, 1]."),
    cloup.option("--std", type=CHANNELS, help="Standard deviation of each channel."),
    cloup.option("--preset", type=click.Choice(PRESET_CHOICES), help="How the input is normalised. Sets the usual "
                 "mean, std and shape instead of --mean and --std; auto, the default, reads them from the file or from "
                 "the network's first layer."),
    cloup.option("--channel-order", type=click.Choice(ORDER_CHOICES), help="Order of the colour channels, also of "
                 "--mean and --std; auto, the default, takes it from the preset or the network, else rgb."),
)  # fmt: skip

sample_options = cloup.option_group(
    "Samples",
    cloup.option("--samples", "sample_source", type=click.Choice(SAMPLES), default=ConvertOptions.sample_source,
                 show_default=True, help="What to calibrate with: samples of a generator that is trained on the "
                 "network's batch norms, procedural images, which need no training, or half of each; auto is both, "
                 "and procedural where there is no batch norm."),
    cloup.option("--gan-steps", "steps", type=int, default=ZSCGANOptions.steps, show_default=True,
                 help="Training steps of all generators, at most."),
    cloup.option("--guide-steps", type=int, default=ZSCGANOptions.guide_steps, show_default=True,
                 help="Gradient steps, at most, that optimize the pixels of each sample toward a class near it, where "
                 "--gan-steps are too few to learn all classes; 0: none."),
    cloup.option("--gan-batch", "batch", type=int, default=ZSCGANOptions.batch,
                 show_default="64 to 16, by the pixels; 8 for large inputs if no labels are trained",
                 help="Samples per step."),
    cloup.option("--generator", type=FilePath, metavar="FILE", help="Reuse generator.pt of an earlier run."),
    cloup.option("--seed", type=int, default=ZSCGANOptions.seed, show_default=True,
                 help="The same seed gives the same result; on a GPU only with the same --generator."),
    cloup.option("--device", type=click.Choice(DEVICES), default=ConvertOptions.device, show_default=True,
                 help="Where to train and calibrate."),
)  # fmt: skip

calibration_options = cloup.option_group(
    "Calibration",
    cloup.option("--calibrator", "algorithm", type=click.Choice(CALIBRATORS), default=CALIBRATORS[0],
                 show_default=True, help="How the range of each activation is chosen; auto compares all on samples "
                 "and picks the one whose INT8 network is nearest to FP32."),
    cloup.option("--percentile", type=float, default=CalibrationOptions.percentile, show_default=True,
                 help="For --calibrator percentile."),
    cloup.option("--calib-samples", "samples", type=int, default=CalibrationOptions.samples,
                 show_default=f"{CalibrationOptions.samples}; 256 large ones that are guided to their classes",
                 help="Inputs to calibrate with."),
    cloup.option("--calib-data", type=FilePath, metavar="DIR|FILE.npz",
                 help="Calibrate on real images instead of training a generator."),
    cloup.option("--calibration-cache", type=FilePath, metavar="FILE",
                 help="Read the ranges from this file if it exists (refused for another model), else write them."),
    cloup.option("--recalibrate", is_flag=True, help="Write --calibration-cache anew."),
    cloup.option("--trt-version", metavar="10.X.Y",
                 help="The TensorRT version that will read the cache, if it is not the installed one."),
)  # fmt: skip

qat_options = cloup.option_group(
    "Fine-tuning",
    cloup.option("--qat", is_flag=True, help="Fine-tune the weights with fake quantizers, on samples, with the FP32 "
                 "network as the teacher."),
    cloup.option("--qat-steps", type=int, default=QATOptions.steps, show_default=True,
                 help="Steps of the fine-tuning, at most."),
    cloup.option("--qat-lr", type=float, default=QATOptions.learning_rate, show_default=True,
                 help="Learning rate, in units of each weight's root mean square."),
    cloup.option("--qat-data", type=FilePath, metavar="DIR|FILE.npz",
                 help="Fine-tune on real images; they need no labels."),
    cloup.option("--qat-backend", type=click.Choice(BACKENDS), default=BACKENDS[0], show_default=True,
                 help="Whose fake quantizers; pytorch-quantization needs CUDA."),
)  # fmt: skip

engine_options = cloup.option_group(
    "Engine",
    cloup.option("--engine", type=click.Choice(ENGINES), default=ConvertOptions.engine, show_default=True,
                 help="Engine to build; auto picks the best that works here and says which."),
    cpu_int8_option,
    cloup.option("--implicit", is_flag=True,
                 help="TensorRT 10's own calibrator on the samples, instead of Q/DQ pairs."),
    *profile_options,
    cloup.option("--buffers", type=click.Choice(BUFFERS), default=ConvertOptions.buffers, show_default=True,
                 help="Who provides GPU memory to run the engine."),
)  # fmt: skip

image_options = cloup.option_group(
    "Accuracy and real images",
    cloup.option("--val", type=FilePath, metavar="DIR|FILE",
                 help="Compare FP32 and INT8 on these images, and measure the accuracy of both if they have labels: "
                 "class folders, labels.csv, an .npz, COCO's boxes, or a folder of masks."),
    cloup.option("--resize", type=ResizeType(), help="Resize images to this shorter side, or stretch them to this "
                 "height and width, for example 240x320."),
    cloup.option("--crop", type=int, metavar="PIXELS", help="Then crop the centre to this side."),
    cloup.option("--max-drop", type=float, metavar="PERCENT",
                 help="Largest acceptable loss of accuracy, in percentage points. Keeps as few layers as possible out "
                 "of INT8 to stay below it, as measured on labels of --val or else estimated; exits with 3 if that "
                 "fails."),
)  # fmt: skip

precision_options = cloup.option_group(
    "Precision",
    cloup.option("--int8", is_flag=True, help="Quantize to INT8; required."),
)

output_options = cloup.option_group(
    "Output",
    cloup.option("-o", "--output", type=FilePath, metavar="DIR", help="Output folder.  [default: NAME_int8]"),
    cloup.option("--html/--no-html", default=ConvertOptions.html, show_default=True, help="Write report.html."),
    cloup.option("--json", "as_json", is_flag=True, help="The report on stdout as JSON."),
    *LOGS,
)  # fmt: skip

log_options = cloup.option_group("Logs", *LOGS)
