"""What this package uses of TensorRT's Python API, as types.

TensorRT 10, TensorRT 11 and TensorRT for RTX are three modules with one API. Each is passed as a value of the
type ``TensorRT``, so that mypy checks every call against the type stubs of TensorRT 10, on machines that have
none of the three. At run time these names are ``Any``: TensorRT is imported by ``engines.tensorrt.library`` and
``engines.tensorrt.rtx`` when it is needed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Protocol

    import tensorrt as trt
    from tensorrt import (
        Builder,
        IBuilderConfig,
        ICudaEngine,
        IExecutionContext,
        IHostMemory,
        IInt8Calibrator,
        ILogger,
        INetworkDefinition,
        IOptimizationProfile,
        IProgressMonitor,
        ITensor,
        ITimingCache,
        OnnxParser,
    )

    class TensorRT(Protocol):
        """The module: classes, enums and functions that 10, 11 and RTX have in common.

        TensorRT 11 and RTX have no calibrators and no precision flags (``engines.tensorrt.library.has_calibrators``);
        members of enums are looked up by name, since their numbers differ.
        """

        __version__: str
        Builder: type[trt.Builder]
        BuilderFlag: type[trt.BuilderFlag]
        DataType: type[trt.DataType]
        Dims: type[trt.Dims]
        EngineInspector: type[trt.EngineInspector]
        HardwareCompatibilityLevel: type[trt.HardwareCompatibilityLevel]
        ILogger: type[trt.ILogger]
        IProfiler: type[trt.IProfiler]
        IProgressMonitor: type[trt.IProgressMonitor]
        LayerInformationFormat: type[trt.LayerInformationFormat]
        Logger: type[trt.Logger]
        MemoryPoolType: type[trt.MemoryPoolType]
        NetworkDefinitionCreationFlag: type[trt.NetworkDefinitionCreationFlag]
        OnnxParser: type[trt.OnnxParser]
        ProfilingVerbosity: type[trt.ProfilingVerbosity]
        Runtime: type[trt.Runtime]
        TensorIOMode: type[trt.TensorIOMode]
        TensorLocation: type[trt.TensorLocation]

        def nptype(self, trt_type: trt.DataType) -> Any: ...

else:
    TensorRT = Builder = IBuilderConfig = ICudaEngine = IExecutionContext = IHostMemory = Any
    IInt8Calibrator = ILogger = INetworkDefinition = IOptimizationProfile = IProgressMonitor = Any
    ITensor = ITimingCache = OnnxParser = Any

__all__ = [
    "Builder",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "IInt8Calibrator",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "OnnxParser",
    "TensorRT",
]
