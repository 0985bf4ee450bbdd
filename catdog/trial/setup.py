"""Sets up a trial: its process, inputs, model and optimiser, resumed from a checkpoint if there is one."""

import time
from dataclasses import dataclass

import torch

from catdog.config.recipe import Recipe
from catdog.config.variants import VariantSpec
from catdog.data.batches import Batches
from catdog.runs.paths import TrialPaths
from catdog.storage import Store
from catdog.system.process import tune_malloc
from catdog.training.data_parallel import ALONE, Workers
from catdog.training.loop import TrainState, new_state
from catdog.training.seeding import DeriveSeed, trial_seeds
from catdog.trial.checkpoint import ProbeHistory, resume
from catdog.trial.contact_sheet import Probes
from catdog.trial.context import RunContext
from catdog.trial.device import take_device
from catdog.trial.inputs import TrialInputs, load_inputs, new_model


@dataclass(frozen=True)
class Trial:
    """A trial that is ready to train; training changes `state` and `probe_history`."""

    context: RunContext
    variant: VariantSpec
    seed: int
    store: Store
    where: TrialPaths
    config_hash: str
    device: torch.device
    inputs: TrialInputs
    batches: Batches
    probes: Probes
    derive_seed: DeriveSeed
    state: TrainState
    probe_history: ProbeHistory
    setup_seconds: float

    @property
    def recipe(self) -> Recipe:
        """Return the trial's recipe."""
        return self.context.identity.recipe


def set_up(context: RunContext, variant: VariantSpec, seed: int, store: Store, workers: Workers = ALONE) -> Trial:
    """Return the trial, resumed from its checkpoint if it has one.

    Raises:
        UserError: data or weights are missing or invalid.
        DeviceError: the GPU does not work.
    """
    started = time.perf_counter()
    recipe, where = context.identity.recipe, context.trial_paths(variant, seed)
    config_hash = context.identity.trial_hash(variant, seed)
    device = prepare_process(context.identity.threads, context.gpus_per_trial, recipe.deterministic)
    inputs = load_inputs(context, device, seed)
    derive_seed = trial_seeds(seed, recipe.vary)
    model = new_model(inputs, context, variant, derive_seed)
    model = model.to(memory_format=torch.channels_last).to(device)
    batches = inputs.batches_for(model.head)
    workers.require_shares(batches.batch_size)
    state = new_state(model, recipe, batches.steps_per_epoch, workers)
    probe_history = resume(store, where.checkpoint, config_hash, state, batches.steps_per_epoch)
    return Trial(
        context=context,
        variant=variant,
        seed=seed,
        store=store,
        where=where,
        config_hash=config_hash,
        device=device,
        inputs=inputs,
        batches=batches,
        probes=inputs.probes,
        derive_seed=derive_seed,
        state=state,
        probe_history=probe_history,
        setup_seconds=time.perf_counter() - started,
    )


def prepare_process(threads: int, gpus: float, deterministic: bool) -> torch.device:
    """Configure the process for a trial, whatever ran in it before; return the device (see `take_device`)."""
    tune_malloc()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    # A debugging aid that costs a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    device = take_device(gpus)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return device
