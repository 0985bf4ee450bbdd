"""A kept network as one file that runs without catdog: preprocessing and class names are inside.

`model.pt2` is a `torch.export` program, `model.onnx` an ONNX model. Both take images (B, S, S, 3) in uint8, any number
of them, and give what `KeptNetwork.forward` gives, by name. Their `card.json` says how photos become squares of side S.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from catdog.data.datasets.base import pack_key
from catdog.data.pack import open_pack
from catdog.data.split import spread
from catdog.errors import NotFoundError, UserError, first_line
from catdog.inference.network import PROBABILITIES, KeptNetwork
from catdog.runs.artifacts import read_predictions_npz
from catdog.runs.paths import TrialPaths
from catdog.storage import Store
from catdog.storage.node_cache import fetch_or_make
from catdog.storage.serialization import to_json

CARD, CLASSES = "card.json", "classes.txt"
"""Files inside a program, and properties of an ONNX model: its `ModelCard`, and the class names, one a line."""
TOLERANCE = 1e-4
"""How far an output may be from the original's, as a share of its largest value if that exceeds 1: orders differ."""
LEAST_AGREEMENT = 0.9
"""Of the classes predicted here with those that the trial stored; processors and precisions differ."""


class RealImages(NamedTuple):
    """Test images of a trial."""

    images_BSSC: torch.Tensor
    labels_B: npt.NDArray[np.int16]
    predicted_B: npt.NDArray[np.int16]
    """The classes that the trial predicted."""
    classes: tuple[str, ...]


def read_images(
    store: Store, fingerprint: str, where: TrialPaths, count: int = 64, names: Sequence[str] | None = None
) -> RealImages:
    """Return test images of a trial from the store's pack: those of these names, else `count` over the classes.

    Raises `UserError` without the pack.
    """
    try:
        stored = read_predictions_npz(store.get(where.predictions), "test")
        pack = open_pack(fetch_or_make(store, pack_key(fingerprint)))
    except NotFoundError:
        raise UserError(
            f"{store.url}/{pack_key(fingerprint)}: the packed images, which are needed, are not there: "
            "jobs/prepare.py puts them there"
        ) from None
    if names is None:
        chosen = np.sort(spread(np.arange(len(stored.labels_N)), stored.labels_N.astype(np.int64), count))
    else:
        chosen = np.array([stored.images_N.tolist().index(name) for name in names])
    row = {name: number for number, name in enumerate(pack.names)}
    rows = [row[name] for name in stored.images_N[chosen].tolist()]
    return RealImages(pack.images_NSSC[rows], stored.labels_N[chosen], stored.predicted_N[chosen], stored.classes)


def agreement(network: KeptNetwork, images: RealImages) -> float:
    """Return the share of images whose class here is the one that the trial predicted; raises `UserError` if too few.

    The trial may have computed in bfloat16, or on another processor.
    """
    with torch.no_grad():
        found_B = network(images.images_BSSC)[PROBABILITIES].argmax(dim=1).numpy()
    share = float((found_B == images.predicted_B).mean())
    if share < LEAST_AGREEMENT:
        raise UserError(
            f"{network.card.variant}: its kept network predicts what the trial did for only {100 * share:.0f} % of "
            f"{len(found_B)} test images: it is not the trial's, or the code of the head has changed"
        )
    return share


def export_program(network: KeptNetwork, images: RealImages) -> tuple[bytes, float]:
    """Return model.pt2, and how far any of its outputs is from the original's on these images.

    Raises `UserError` if the network cannot be traced, or the program computes other numbers.
    """
    images_BSSC = images.images_BSSC
    batch = torch.export.Dim("batch", min=1, max=65536)
    try:
        program = torch.export.export(network, (images_BSSC[:2].clone(),), dynamic_shapes=({0: batch},), strict=False)
    except Exception as error:  # of many classes
        raise UserError(f"{network.card.variant}: torch.export cannot trace it ({first_line(error)})") from None
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=_described(network))
    loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    found = {name: one.detach().numpy() for name, one in loaded(images_BSSC).items()}
    return buffer.getvalue(), _check(network, images_BSSC, found, "the exported program")


def export_onnx(network: KeptNetwork, images: RealImages) -> tuple[bytes, float]:
    """Return model.onnx likewise, checked with onnxruntime; raises `UserError` also if a package is missing."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch needs it)
    except ImportError as error:
        raise UserError(f"--onnx: {error.name} is missing: pip install -e '.[onnx]'") from None
    images_BSSC = images.images_BSSC
    names = list(network(images_BSSC[:2]))
    batch = torch.export.Dim("batch", min=1, max=65536)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (images_BSSC[:2].clone(),),
                dynamo=True,
                dynamic_shapes=({0: batch},),
                input_names=["images"],
                output_names=names,
                verbose=False,
            )
    except Exception as error:  # of many classes
        raise UserError(f"--onnx: {network.card.variant} cannot be exported ({first_line(error)})") from None
    assert program is not None
    model = program.model_proto
    for key, value in _described(network).items():
        model.metadata_props.add(key=key, value=value)
    data: bytes = model.SerializeToString()
    onnx.checker.check_model(data)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found = dict(zip(names, session.run(names, {"images": images_BSSC.numpy()}), strict=True))
    return data, _check(network, images_BSSC, found, "the ONNX model")


def _described(network: KeptNetwork) -> dict[str, str]:
    return {CARD: to_json(network.card).decode(), CLASSES: "\n".join(network.card.classes)}


def _check(
    network: KeptNetwork, images_BSSC: torch.Tensor, found: Mapping[str, npt.NDArray[np.floating]], what: str
) -> float:
    with torch.no_grad():
        wanted = network(images_BSSC)
    furthest = max(
        float(np.abs(found[name] - one.numpy()).max() / max(1, one.abs().max())) for name, one in wanted.items()
    )
    if not furthest <= TOLERANCE:
        raise UserError(f"{network.card.variant}: {what} differs from the network by up to {furthest:.2g}")
    return furthest
