import numpy as np
import pytest
import torch

from calibrators.data.batches import TensorBatches
from calibrators.tensorrt.device_feed import BatchPlan, TorchMemory, equal_batches, plan_from_samples


@pytest.mark.parametrize(
    ("count", "largest", "plan"),
    [
        (512, 64, BatchPlan(8, 64)),
        (500, 64, BatchPlan(8, 62)),
        (64, 64, BatchPlan(1, 64)),
        (65, 64, BatchPlan(2, 32)),
        (3, 64, BatchPlan(1, 3)),
        (5, 1, BatchPlan(5, 1)),
    ],
)
def test_plan_by_hand(count: int, largest: int, plan: BatchPlan) -> None:
    assert plan_from_samples(count, largest) == plan
    assert 0 <= count - plan.samples < plan.count


@pytest.mark.parametrize(("count", "largest"), [(0, 4), (4, 0)])
def test_plan_of_nothing(count: int, largest: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        plan_from_samples(count, largest)


@pytest.mark.parametrize("source_size", [1, 3, 7, 20, 64])
@pytest.mark.parametrize("largest", [1, 3, 6, 64])
def test_batches_are_cut_anew(source_size: int, largest: int) -> None:
    source = TensorBatches(torch.randn(20, 3, 8, 8), torch.arange(20), source_size)
    plan = plan_from_samples(20, largest)
    arrays = list(equal_batches(source, plan, (3, 8, 8)))
    assert {array.shape for array in arrays} == {(plan.size, 3, 8, 8)}
    assert all(array.flags.c_contiguous and array.dtype == np.float32 for array in arrays)
    assert torch.equal(torch.from_numpy(np.concatenate(arrays)), source.x[: plan.samples])


def test_memory_formats_and_types_come_out_as_nchw_float32() -> None:
    x = torch.randn(4, 1, 5, 6).double()
    for given in (x, x.to(memory_format=torch.channels_last), x.half()):
        batches = TensorBatches(given, torch.zeros(4, dtype=torch.int64), 3)
        (array,) = equal_batches(batches, BatchPlan(1, 4), (1, 5, 6))
        assert array.flags.c_contiguous
        assert array.dtype == np.float32
        assert torch.equal(torch.from_numpy(array), given.float())


def test_torch_memory_on_the_cpu() -> None:
    memory = TorchMemory("cpu")
    buffer = memory.allocate(24)
    values = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    memory.upload(buffer, values)
    assert np.array_equal(buffer.data.view(torch.float32).numpy(), values.ravel())
    assert buffer.pointer == buffer.data.data_ptr()
    buffer.free()
    assert buffer.data.numel() == 0
