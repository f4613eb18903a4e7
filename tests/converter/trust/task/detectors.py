"""Outputs of detectors, written as their papers define them, with one object and nothing elsewhere."""

from collections.abc import Callable

import torch
from torch import Tensor

CLASSES = 7
LABEL = 5
NOTHING = -7.0
"""The logit of what is not there."""

Outputs = tuple[Tensor, ...]


def box_in(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of the object: no square, and its centre lies in no middle of a cell."""
    x, y = 0.4 * size[1] + 3, 0.6 * size[0] + 1
    return x - 30, y - 22, x + 30, y + 22


def _centre_and_sides(size: tuple[int, int]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box_in(size)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def _cells(size: tuple[int, int], strides: tuple[int, ...], per_cell: int) -> list[tuple[float, float, int]]:
    """x and y of each anchor's cell in cells, and its stride; a level's anchors after one another."""
    return [
        (float(column), float(row), stride)
        for stride in strides
        for _ in range(per_cell)
        for row in range(-(-size[0] // stride))
        for column in range(-(-size[1] // stride))
    ]


def _row_at(cells: list[tuple[float, float, int]], size: tuple[int, int], stride: int = 16) -> int:
    """The first anchor of the object's cell."""
    x, y, _, _ = _centre_and_sides(size)
    return cells.index((x // stride, y // stride, stride))


def _rows(size: tuple[int, int], per_cell: int, objectness: bool) -> tuple[Tensor, int]:
    torch.manual_seed(0)
    cells = _cells(size, (8, 16, 32), per_cell)
    place = torch.tensor(cells)
    noise = torch.rand(1, len(cells), 4)
    rows = torch.cat(
        [
            (place[:, :2] + 2 * noise[..., :2] - 0.5) * place[:, 2:],
            (1 + noise[..., 2:]) * place[:, 2:],
            torch.full((1, len(cells), 1), 1e-4) if objectness else torch.zeros(1, len(cells), 0),
            torch.rand(1, len(cells), CLASSES) * (1 if objectness else 1e-3),
        ],
        dim=2,
    )
    found = _row_at(cells, size)
    rows[0, found, :4] = torch.tensor(_centre_and_sides(size))
    rows[0, found, 4:] = 0.01
    rows[0, found, -CLASSES + LABEL] = 0.9
    if objectness:
        rows[0, found, 4] = 0.9
    return rows, found


def yolov5(size: tuple[int, int]) -> Outputs:
    return (_rows(size, 3, True)[0],)


def yolov5_with_maps(size: tuple[int, int]) -> Outputs:
    maps = [torch.randn(1, 3, size[0] // s, size[1] // s, 5 + CLASSES) - 5 for s in (8, 16, 32)]
    return (*yolov5(size), *maps)


def yolov6(size: tuple[int, int]) -> Outputs:
    rows = yolov8(size)[0].transpose(1, 2)
    return (torch.cat([rows[..., :4], torch.ones_like(rows[..., :1]), rows[..., 4:]], dim=2),)


def yolov8(size: tuple[int, int]) -> Outputs:
    return (_rows(size, 1, False)[0].transpose(1, 2),)


def yolov8_transposed(size: tuple[int, int]) -> Outputs:
    return (_rows(size, 1, False)[0],)


def yolov8_in_shares(size: tuple[int, int]) -> Outputs:
    rows = yolov8_transposed(size)[0].clone()
    rows[..., :4] /= torch.tensor([size[1], size[0], size[1], size[0]])
    return (rows.transpose(1, 2),)


def yolov8_masks(size: tuple[int, int]) -> Outputs:
    rows = yolov8(size)[0]
    masks = torch.randn(1, 32, rows.shape[2])
    return torch.cat([rows, masks], dim=1), torch.randn(1, 32, size[0] // 4, size[1] // 4)


def yolov8_keypoints(size: tuple[int, int]) -> Outputs:
    rows = yolov8(size)[0]
    return (torch.cat([rows, 100 * torch.rand(1, 51, rows.shape[2])], dim=1),)


def yolox(size: tuple[int, int]) -> Outputs:
    return (_rows(size, 1, True)[0],)


def yolox_in_cells(size: tuple[int, int]) -> Outputs:
    rows = yolox(size)[0].clone()
    place = torch.tensor(_cells(size, (8, 16, 32), 1))
    rows[..., :2] = rows[..., :2] / place[:, 2:] - place[:, :2]
    rows[..., 2:4] = (rows[..., 2:4] / place[:, 2:]).log()
    return (rows,)


def yolov10(size: tuple[int, int]) -> Outputs:
    rows = torch.zeros(1, 300, 6)
    rows[0, :, 4] = torch.linspace(1e-4, 1e-5, 300)
    rows[0, 0] = torch.tensor([*box_in(size), 0.9, LABEL])
    return (rows,)


def _joint(size: tuple[int, int], stride: int) -> Tensor:
    """A level of YOLOv5's raw maps; the anchors' sides are taken for 1.5, 3 and 6 strides."""
    torch.manual_seed(stride)
    h, w = -(-size[0] // stride), -(-size[1] // stride)
    maps = torch.randn(1, 3, 5 + CLASSES, h, w)
    maps[:, :, 4] += NOTHING
    if stride == 16:
        x, y, width, height = _centre_and_sides(size)
        column, row = int(x // 16), int(y // 16)
        # From sigmoid(t) * 2 - 0.5 = offset and (sigmoid(t) * 2)^2 * anchor = side.
        shares = [(x / 16 - column + 0.5) / 2, (y / 16 - row + 0.5) / 2]
        shares += [(side / 48) ** 0.5 / 2 for side in (width, height)]
        maps[0, 1, :4, row, column] = torch.logit(torch.tensor(shares))
        maps[0, 1, 4:, row, column] = NOTHING
        maps[0, 1, 4, row, column] = maps[0, 1, 5 + LABEL, row, column] = 5.0
    return maps


def joint_maps(size: tuple[int, int]) -> Outputs:
    return tuple(_joint(size, stride).flatten(1, 2) for stride in (8, 16, 32))


def joint_maps_by_anchor(size: tuple[int, int]) -> Outputs:
    return tuple(_joint(size, stride).movedim(2, 4) for stride in (32, 16, 8))


def joint_maps_of_sigmoids(size: tuple[int, int]) -> Outputs:
    return tuple(values.sigmoid() for values in joint_maps(size))


def fastest(size: tuple[int, int]) -> Outputs:
    """Yolo-FastestV2: one choice of the class for all anchors of a cell."""
    outputs = []
    for stride in (16, 32):
        maps = _joint(size, stride)
        classes = maps[:, 1, 5:] - maps[:, 1, 5:].mean(dim=1, keepdim=True)
        outputs += [maps[:, :, :4].flatten(1, 2), maps[:, :, 4], classes]
    return tuple(outputs)


def _split(size: tuple[int, int], channels: int) -> list[tuple[Tensor, Tensor, int, int, int]]:
    """Of each stride boxes and classes, and where the object is at stride 16 (else -1)."""
    torch.manual_seed(0)
    x, y, _, _ = _centre_and_sides(size)
    levels = []
    for stride in (8, 16, 32):
        shape = -(-size[0] // stride), -(-size[1] // stride)
        classes = torch.randn(1, CLASSES, *shape) + NOTHING
        row, column = (int(y // 16), int(x // 16)) if stride == 16 else (-1, -1)
        if stride == 16:
            classes[0, LABEL, row, column] = 5.0
        levels.append((torch.randn(1, channels, *shape), classes, stride, row, column))
    return levels


def fcos(size: tuple[int, int]) -> Outputs:
    """Classes, distances to the sides, centerness."""
    outputs: list[Tensor] = []
    for boxes, classes, stride, row, column in _split(size, 4):
        distances, centerness = boxes.relu(), torch.zeros_like(classes[:, :1])
        if row >= 0:
            x, y = (column + 0.5) * 16, (row + 0.5) * 16
            x1, y1, x2, y2 = box_in(size)
            distances[0, :, row, column] = torch.tensor([x - x1, y - y1, x2 - x, y2 - y]) / stride
            centerness[0, :, row, column] = 5.0
        outputs += [classes, distances, centerness]
    return tuple(outputs)


def yolox_maps(size: tuple[int, int]) -> Outputs:
    outputs: list[Tensor] = []
    for boxes, classes, stride, row, column in _split(size, 4):
        objectness = classes.amax(dim=1, keepdim=True)
        if row >= 0:
            x, y, width, height = _centre_and_sides(size)
            offsets = [x / stride - column, y / stride - row]
            logs = (torch.tensor([width, height]) / stride).log()
            boxes[0, :, row, column] = torch.cat([torch.tensor(offsets), logs])
        outputs += [boxes, objectness, classes]
    return tuple(outputs)


def nanodet(size: tuple[int, int]) -> Outputs:
    """Classes, then distributions over the distances 0 to 7."""
    outputs: list[Tensor] = []
    for boxes, classes, stride, row, column in _split(size, 32):
        if row >= 0:
            x, y = (column + 0.5) * 16, (row + 0.5) * 16
            x1, y1, x2, y2 = box_in(size)
            distances = torch.tensor([x - x1, y - y1, x2 - x, y2 - y]) / stride
            # A distance between two bins shares its weight among them.
            shares = (1 - (torch.arange(8) - distances[:, None]).abs()).clamp_min(1e-9)
            boxes[0, :, row, column] = shares.log().flatten()
        outputs += [classes, boxes]
    return tuple(outputs)


def _face_priors(size: tuple[int, int]) -> list[tuple[float, float, float]]:
    sides = {8: (10, 16, 24), 16: (32, 48), 32: (64, 96), 64: (128, 192, 256)}
    return [
        ((column + 0.5) * stride, (row + 0.5) * stride, float(side))
        for stride, of_stride in sides.items()
        for row in range(-(-size[0] // stride))
        for column in range(-(-size[1] // stride))
        for side in of_stride
    ]


def face_scores(count: int, found: int) -> Tensor:
    """Logits of nothing and of a face."""
    torch.manual_seed(0)
    scores = torch.randn(1, count, 2)
    scores[..., 0] += 8
    scores[0, found] = torch.tensor([-3.0, 3.0])
    return scores


def face_offsets(size: tuple[int, int]) -> Outputs:
    """SSD with known anchors: softmax, then offsets by variances of 0.1 and 0.2."""
    priors = torch.tensor(_face_priors(size))
    x, y, width, height = _centre_and_sides(size)
    found = priors.tolist().index([(x // 16 + 0.5) * 16, (y // 16 + 0.5) * 16, 48.0])
    boxes = torch.randn(1, len(priors), 4)
    px, py, side = priors[found].tolist()
    logs = (torch.tensor([width, height]) / side).log() / 0.2
    boxes[0, found] = torch.cat([torch.tensor([(x - px) / side, (y - py) / side]) / 0.1, logs])
    return face_scores(len(priors), found).softmax(dim=2), boxes


def face_corners(size: tuple[int, int]) -> Outputs:
    """The same decoded to shares of the input, boxes first and scores as logits."""
    torch.manual_seed(1)
    boxes = torch.rand(1, 900, 4) * 0.4
    boxes[..., 2:] += 0.5
    boxes[0, 17] = torch.tensor(box_in(size)) / torch.tensor([size[1], size[0], size[1], size[0]])
    return boxes, face_scores(900, 17)


def detr(size: tuple[int, int]) -> Outputs:
    """Logits whose last column is nothing, centres and sides in shares of the input."""
    torch.manual_seed(1)
    logits = torch.randn(1, 100, CLASSES + 1)
    logits[..., -1] += 8
    logits[0, 4] = NOTHING
    logits[0, 4, LABEL] = 3.0
    boxes = torch.rand(1, 100, 4)
    x, y, width, height = _centre_and_sides(size)
    boxes[0, 4] = torch.tensor([x / size[1], y / size[0], width / size[1], height / size[0]])
    return logits, boxes


def yolo_nas(size: tuple[int, int]) -> Outputs:
    """Corners in pixels, and sigmoids."""
    rows, _ = _rows(size, 1, False)
    corners = torch.cat([rows[..., :2] - rows[..., 2:4] / 2, rows[..., :2] + rows[..., 2:4] / 2], dim=2)
    return corners, rows[..., 4:]


IN_PIXELS: dict[str, Callable[[tuple[int, int]], Outputs]] = {
    made.__name__: made
    for made in (
        yolov5,
        yolov5_with_maps,
        yolov6,
        yolov8,
        yolov8_transposed,
        yolov8_in_shares,
        yolov8_masks,
        yolov8_keypoints,
        yolox,
        yolox_in_cells,
        yolov10,
        nanodet,
        face_offsets,
        face_corners,
        detr,
        yolo_nas,
    )
}
NOMINAL: dict[str, Callable[[tuple[int, int]], Outputs]] = {
    made.__name__: made
    for made in (
        joint_maps,
        joint_maps_by_anchor,
        joint_maps_of_sigmoids,
        fastest,
        fcos,
        yolox_maps,
    )
}
DETECTORS = IN_PIXELS | NOMINAL
