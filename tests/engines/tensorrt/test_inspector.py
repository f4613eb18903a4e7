"""The inspector's JSON of several TensorRT versions, small enough to read by hand."""

import json
from typing import Any

import pytest

from engines.errors import BuildError
from engines.tensorrt.inspector import EngineLayers, layers_from_json

INT8_32 = "Thirty-two wide channel vectorized row major Int8 format"
HALF_8 = "Channel major FP16 format where channel % 8 == 0"
FLOAT = "Row major linear FP32"
DYNAMIC = "N/A due to dynamic shapes"
INT8_KERNEL = (
    "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_g1_tensor16x8x32"
)
MIXED_KERNEL = "sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_g1"
HALF_KERNEL = "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x64x32_stage3"


def tensor(name: str, layout: str, shape: tuple[int, ...] = (8, 64, 14, 14)) -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": list(shape), "Format/Datatype": layout}


def convolution(name: str, reads: str, writes: str, **more: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [tensor(f"{name}_in", reads)],
        "Outputs": [tensor(f"{name}_out", writes)],
        "ParameterType": "Convolution",
        "Kernel": [3, 3],
        "Bias": {"Type": "Float", "Count": 64},
        "StreamId": 0,
        "Metadata": f"[ONNX Layer: node_{name}]\x1e[ONNX Layer: node_{name}_relu]",
        **more,
    }


def reformat(name: str, reads: str, writes: str, origin: str = "REFORMAT") -> dict[str, Any]:
    return {
        "Name": name,
        "LayerType": "Reformat",
        "Inputs": [tensor("a", reads)],
        "Outputs": [tensor("b", writes)],
        "ParameterType": "Reformat",
        "Origin": origin,
        "TacticValue": "0x00000000000003ea",
    }


def read(*layers: dict[str, Any] | str, **more: Any) -> EngineLayers:
    return layers_from_json(json.dumps({"Layers": list(layers), "Bindings": ["input", "logits"], **more}))


NETWORK = (
    reformat("input_quantizer", FLOAT, "Row major Int8 format", "QDQ"),
    convolution("stem", INT8_32, INT8_32, Weights={"Type": "Int8", "Count": 1728}),
    convolution("block", HALF_8, HALF_8, Weights={"Type": "Half", "Count": 36864}),
    reformat("Reformatting CopyNode for Input Tensor 0 to pool", HALF_8, "Row major linear FP16 format"),
    {
        "Name": "pool",
        "LayerType": "CaskPooling",
        "Inputs": [tensor("c", "Row major linear FP16 format")],
        "Outputs": [tensor("d", "Row major linear FP16 format")],
        "ParameterType": "Pooling",
    },
    {
        "Name": "fc",
        "LayerType": "MatrixMultiply",
        "Inputs": [tensor("d", "Half", (8, 64)), tensor("w", "Half", (64, 10))],
        "Outputs": [tensor("logits", "Float", (8, 10))],
        "Metadata": "[ONNX Layer: node_linear]",
    },
)


def test_layers_are_told_apart() -> None:
    found = read(*NETWORK).layers
    assert [layer.kind for layer in found] == [
        "reformat", "convolution", "convolution", "reformat", "other", "matmul"
    ]  # fmt: skip
    assert [layer.precision for layer in found] == ["fp32", "int8", "fp16", "fp16", "fp16", "fp16"]
    assert [layer.is_compute for layer in found] == [False, True, True, False, False, True]
    assert found[1].onnx_nodes == ("node_stem", "node_stem_relu")
    assert [layer.origin for layer in found if layer.is_reformat] == ["QDQ", "REFORMAT"]


def test_one_int8_convolution_makes_an_int8_plan() -> None:
    found = read(*NETWORK)
    assert found.precision == "int8"
    assert found.counts == {"fp16": 3, "int8": 1}
    assert found.int8_percent == pytest.approx(100 / 3)
    assert found.summary() == "6 layers: 1 of 3 convolutions and matrix products in INT8, 2 reformats"


def test_layers_that_missed_int8_are_named_by_their_onnx_nodes() -> None:
    assert list(map(str, read(*NETWORK).warnings())) == [
        "2 of 3 convolutions and matrix products run in FP16, not in INT8: node_block + node_block_relu, node_linear"
    ]
    assert read(*NETWORK).warnings(int8=False) == []
    entries = read(*NETWORK).to_json()["not_int8"]
    assert isinstance(entries, list)
    assert entries[0] == {
        "name": "block",
        "kind": "convolution",
        "precision": "fp16",
        "onnx_nodes": ["node_block", "node_block_relu"],
        "ms": None,
    }


def test_a_long_list_is_cut() -> None:
    (warning,) = read(*(convolution(f"c{index}", FLOAT, FLOAT, Metadata="") for index in range(5))).warnings()
    assert (
        warning.text
        == "5 of 5 convolutions and matrix products run in FP32, not in INT8: c0, c1, c2 and 2 more"
    )


@pytest.mark.parametrize(
    ("layout", "precision"),
    [
        (INT8_32, "int8"),
        (INT8_32 + ".", "int8"),
        ("Channel major INT8 format where column stride % 32 == 0", "int8"),
        ("Int8 NC/32HW32", "int8"),
        ("Int8", "int8"),
        ("Half", "fp16"),
        ("Half(64,1:8,512,64)", "fp16"),
        (HALF_8, "fp16"),
        (FLOAT, "fp32"),
        ("Float", "fp32"),
        ("Row major linear BFloat16 format", "bf16"),
        ("Row major linear FP8 format", "fp8"),
        ("Unknown format", "unknown"),
        ("UInt8", "unknown"),
        (DYNAMIC, "unknown"),
    ],
)
def test_formats_of_a_convolutions_input(layout: str, precision: str) -> None:
    (layer,) = read(convolution("c", layout, FLOAT)).layers
    assert layer.precision == precision


@pytest.mark.parametrize(
    ("inputs", "tactic", "weights", "precision"),
    [
        # An FP16 residual beside INT8 data: the kernel tells.
        ([INT8_32, HALF_8], INT8_KERNEL, "Int8", "int8"),
        ([HALF_8, INT8_32], INT8_KERNEL, "Int8", "int8"),
        # INT8 weights that are multiplied in FP16 are no INT8 convolution.
        (["Half", "Int8"], HALF_KERNEL, None, "fp16"),
        # A dynamic batch hides the formats.
        ([DYNAMIC], INT8_KERNEL, "Int8", "int8"),
        ([DYNAMIC], MIXED_KERNEL, "Int8", "int8"),
        ([DYNAMIC], HALF_KERNEL, "Half", "fp16"),
        ([DYNAMIC], "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc", "Float", "fp32"),
        ([DYNAMIC], "ampere_h16816gemm_256x128_ldg8_nn_v1", None, "fp16"),
        ([DYNAMIC], "", "Int8", "int8"),
        ([DYNAMIC], "", None, "unknown"),
        # Nothing decides between the two: the data comes first.
        (["Int8", "Half"], "", None, "int8"),
        # The shape of a tensor is no data.
        (["Int64", "Half"], "", None, "fp16"),
    ],
)
def test_what_tells_a_convolutions_precision(
    inputs: list[str], tactic: str, weights: str | None, precision: str
) -> None:
    more: dict[str, Any] = {"Inputs": [tensor(f"t{i}", layout) for i, layout in enumerate(inputs)]}
    if tactic:
        more["TacticName"] = tactic
    if weights:
        more["Weights"] = {"Type": weights, "Count": 9}
    (layer,) = read(convolution("c", FLOAT, FLOAT, **more)).layers
    assert layer.precision == precision


def test_a_fused_pooling_has_its_weights_under_another_name() -> None:
    layer = convolution("c", DYNAMIC, DYNAMIC, LayerType="CaskConvActPool", ParameterType="ConvActPool")
    assert read({**layer, "ConvWeights": {"Type": "Int8", "Count": 9408}}).precision == "int8"


MYELIN = (
    # Quantizes the input and, in its metadata, names the convolution that it does so for.
    {
        "Name": "__myl_MulRounMaxMinCast_myl0_0",
        "LayerType": "kgen",
        "Inputs": [{"Name": "input", "Dimensions": [8, 3, 32, 32], "Format/Datatype": "Float"}],
        "Outputs": [{"Name": "__mye1", "Dimensions": [8, 3, 32, 32], "Format/Datatype": "Int8"}],
        "TacticName": "__myl_MulRounMaxMinCast_0x1d2f",
        "Metadata": "[ONNX Layer: input_QuantizeLinear]\x1f[ONNX Layer: node_conv2d]",
    },
    {
        "Name": "node_conv2d_myl0_1",
        "LayerType": "correlation",
        "Inputs": [{"Name": "__mye1", "Dimensions": [8, 3, 32, 32], "Format/Datatype": "Int8"}],
        "Outputs": [{"Name": "__mye2", "Dimensions": [8, 16, 32, 32], "Format/Datatype": "Int8"}],
        "Metadata": "[ONNX Layer: node_conv2d]",
    },
    {"Name": "", "LayerType": "signal", "Inputs": [], "Outputs": []},
    {"Name": "", "LayerType": "wait", "Inputs": [], "Outputs": []},
    {
        "Name": "node_linear_myl0_3",
        "LayerType": "gemm",
        "Inputs": [{"Name": "__mye2", "Dimensions": [8, 64], "Format/Datatype": "Half"}],
        "Outputs": [{"Name": "logits", "Dimensions": [8, 10], "Format/Datatype": "Half"}],
        "Metadata": "[ONNX Layer: node_linear]",
    },
    {
        "Name": "_gemm_mha_v2_myl0_4",
        "LayerType": "kgen",
        "Inputs": [{"Name": "__mye3", "Dimensions": [8, 64], "Format/Datatype": "Half"}],
        "Outputs": [{"Name": "__mye4", "Dimensions": [8, 64], "Format/Datatype": "Half"}],
    },
)


def test_layers_of_myelin() -> None:
    found = read(*MYELIN)
    assert [layer.kind for layer in found.layers] == ["myelin", "convolution", "matmul", "myelin"]
    assert [layer.is_compute for layer in found.layers] == [False, True, True, True]
    assert [layer.precision for layer in found.layers] == ["fp32", "int8", "fp16", "fp16"]
    assert found.precision == "int8"


def test_a_quantizer_alone_makes_no_int8_plan() -> None:
    copy = {
        "Name": "__myl_CastMul",
        "LayerType": "kgen",
        "Inputs": [{"Name": "a", "Format/Datatype": "Int8"}],
    }
    assert read(copy, convolution("c", "Half", "Half")).precision == "fp16"
    assert read(copy).precision == "int8"


def test_an_opaque_network_is_one_compute_layer() -> None:
    whole = {
        "Name": "{ForeignNode[node_conv2d...node_linear]}",
        "LayerType": "Myelin",
        "Inputs": [tensor("input", "Row major linear FP16 format")],
        "Outputs": [tensor("logits", "Row major linear FP16 format")],
    }
    assert (read(whole).precision, len(read(whole).compute)) == ("fp16", 1)


def test_the_data_type_has_its_own_field_after_tensorrt_10() -> None:
    text = """{"Layers": [{"Name": "node_conv2d", "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Datatype": "Int8", "Format": "Thirty-two wide channel vectorized row major"}],
        "Outputs": [{"Name": "y", "DataType": "Half", "Format": "Row major linear INT8 format (kLINEAR)"}]}],
        "I/O Tensors": [{"Name": "x", "IOMode": "Input", "DataType": "Float"}],
        "Engine Metadata": {"Multi-Device": "Disabled"}}"""
    (layer,) = layers_from_json(text).layers
    assert layer.precision == "int8"
    assert (layer.outputs[0].precision, layer.outputs[0].layout) == (
        "fp16",
        "Row major linear INT8 format (kLINEAR)",
    )


def test_names_alone_give_no_precision() -> None:
    found = read("Reformatting CopyNode for Input Tensor 0 to node_conv2d", "node_conv2d + node_relu")
    assert [layer.kind for layer in found.layers] == ["reformat", "other"]
    assert (found.detailed, found.precision, found.int8_percent) == (False, "unknown", None)
    assert found.summary() == "2 layers, their precision unknown"
    assert "detailed profiling verbosity" in found.warnings()[0].text


def test_unknown_precisions_are_counted_as_such() -> None:
    found = read(convolution("a", DYNAMIC, DYNAMIC), convolution("b", INT8_32, INT8_32))
    assert (
        found.summary()
        == "2 layers: 1 of 2 convolutions and matrix products in INT8 (1 unknown), 0 reformats"
    )
    assert found.not_int8 == ()


def test_separators_may_stand_raw_in_the_text() -> None:
    text = json.dumps({"Layers": [convolution("c", INT8_32, INT8_32)]}).replace("\\u001e", "\x1e")
    assert layers_from_json(text).layers[0].onnx_nodes == ("node_c", "node_c_relu")


def test_the_first_of_several_profiles_is_read() -> None:
    second = convolution("c [profile 1]", HALF_8, HALF_8)
    assert [layer.name for layer in read(convolution("c", INT8_32, INT8_32), second).layers] == ["c"]


def test_fields_that_are_missing_or_strange_are_unknown() -> None:
    found = read(
        {"LayerType": "Convolution"},
        {
            "Name": "odd",
            "LayerType": "Convolution",
            "Inputs": "none",
            "Outputs": [7],
            "Weights": 3,
            "Metadata": None,
        },
    )
    assert [layer.precision for layer in found.layers] == ["unknown", "unknown"]
    assert found.layers[0].name == "unknown"
    assert found.precision == "unknown"


@pytest.mark.parametrize(
    "text", ["", "Layers: none", "[]", '{"Bindings": []}', '{"Layers": 3}', '{"Layers": [']
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(BuildError, match="engine inspector's JSON"):
        layers_from_json(text)


TIMES = {
    "input_quantizer": 0.02,
    "stem": 0.40,
    "block": 0.30,
    "Reformatting CopyNode for Input Tensor 0 to pool": 0.16,
    "pool": 0.05,
    "fc": 0.06,
    "a layer that the inspector doesn't list": 0.01,
}


def test_times_are_joined_by_name() -> None:
    found = read(*NETWORK).with_times(TIMES)
    assert [layer.ms for layer in found.layers] == [0.02, 0.40, 0.30, 0.16, 0.05, 0.06]
    assert found.times_ms == pytest.approx({
        "int8": 0.40, "not_int8": 0.36, "reformat": 0.18, "other": 0.06, "total": 1.0
    })  # fmt: skip
    assert found.summary().endswith("2 reformats (18 % of the time)")
    assert found.warnings()[1].text == (
        "reformats take 18 % of the time (0.18 of 1 ms), most of all: "
        "Reformatting CopyNode for Input Tensor 0 to pool, input_quantizer"
    )


def test_layers_of_one_name_share_no_time_twice() -> None:
    found = read(convolution("c", INT8_32, INT8_32), convolution("c", INT8_32, INT8_32)).with_times(
        {"c": 0.5}
    )
    assert found.times_ms is not None
    assert found.times_ms["total"] == 0.5


def test_no_times_no_figures() -> None:
    assert read(*NETWORK).times_ms is None
    assert len(read(*NETWORK).with_times({}).warnings()) == 1
    fast = read(*NETWORK).with_times({**TIMES, "Reformatting CopyNode for Input Tensor 0 to pool": 0.01})
    assert len(fast.warnings()) == 1


def test_the_report_is_plain_json() -> None:
    report = read(*NETWORK).with_times(TIMES).to_json()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert {key: report[key] for key in ("precision", "detailed", "layers", "compute")} == {
        "precision": "int8",
        "detailed": True,
        "layers": 6,
        "compute": 3,
    }
    assert report["reformats"] == [
        {
            "name": "input_quantizer",
            "origin": "QDQ",
            "from": [FLOAT],
            "to": ["Row major Int8 format"],
            "ms": 0.02,
        },
        {
            "name": "Reformatting CopyNode for Input Tensor 0 to pool",
            "origin": "REFORMAT",
            "from": [HALF_8],
            "to": ["Row major linear FP16 format"],
            "ms": 0.16,
        },
    ]
    assert read().to_json()["int8_percent"] is None
