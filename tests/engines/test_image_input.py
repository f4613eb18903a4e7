import pytest

from engines.image_input import image_shape


@pytest.mark.parametrize("batch", [8, -1, "n", None])
def test_the_batch_alone_may_be_dynamic(batch: object) -> None:
    assert image_shape([(batch, 3, 8, 9)]) == (3, 8, 9)
    for other in (-1, 0, "h", None):
        assert image_shape([(batch, 3, other, 9)]) is None


def test_one_input_of_four_dimensions() -> None:
    for shapes in ([], [(1, 3, 8)], [(1, 3, 8, 8, 8)], [(1, 3, 8, 8), (1, 3, 8, 8)], [()]):
        assert image_shape(shapes) is None
