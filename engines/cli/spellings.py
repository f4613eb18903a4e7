"""Flags as trtexec, Polygraphy and ModelOpt spell them, where they mean the same as one of the project's."""

SPELLINGS = {
    # trtexec
    "minShapes": "min-shapes",
    "optShapes": "opt-shapes",
    "maxShapes": "max-shapes",
    "timingCacheFile": "timing-cache",
    "builderOptimizationLevel": "builder-optimization-level",
    "versionCompatible": "version-compatible",
    "hardwareCompatibilityLevel": "hardware-compatibility-level",
    "warmUp": "warmup-ms",
    "duration": "duration-s",
    "useCudaGraph": "cuda-graph",
    "noDataTransfers": "no-transfers",
    "infStreams": "streams",
    # ModelOpt
    "calibration_data_path": "calib-data",
    "calibration_method": "calibrator",
    "calibration_cache_path": "calibration-cache",
}
"""Their name -> the project's, both without the dashes. Polygraphy's are the project's own."""


def usual_name(name: str) -> str:
    """The project's name for a flag; click asks it for every flag and choice."""
    return SPELLINGS.get(name, name)


CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    "token_normalize_func": usual_name,
}
"""The settings of every command with options of building, calibrating or measuring."""
