"""How much room the features of frozen backbones take: in the store, and on every node that has a cache of its own."""

from catdog.config.sweep_options import SweepConfig
from catdog.data.prepare import DatasetInfo


def feature_bytes(config: SweepConfig, dataset: DatasetInfo) -> int:
    """Return roughly how many bytes the sweep's features take; 0 if no backbone is frozen, without importing torch.

    A backbone has one file of its last maps, and one for each choice of places that heads read.
    """
    frozen = [(spec, own) for spec in config.variant_specs if (own := config.recipe.changed(**spec.settings)).freeze]
    if not frozen:
        return 0
    from catdog.data.features import bytes_per_image
    from catdog.models.backbones.build import backbone_places
    from catdog.models.petnet import build_head
    from catdog.models.stages import joined_shape

    sizes: dict[tuple[object, ...], int] = {}
    for spec, recipe in frozen:
        network = (recipe.backbone, recipe.weights, recipe.image_size, recipe.precision)
        places = backbone_places(recipe.backbone, recipe.image_size)
        last = list(places.values())[-1]
        sizes[network] = bytes_per_image(last)
        if "stages" in spec.arguments:
            read = getattr(build_head(spec, last[0], 2, places), "reads", ())
            sizes[*network, read] = bytes_per_image(joined_shape(places, read), with_means=False)
    return sum(sizes.values()) * dataset.feature_images(config.recipe)
