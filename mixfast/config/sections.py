"""The sections of a configuration: every key with its type, bounds, default, unit and source.

The descriptions are the reference documentation of the keys. b stands for the batch repetition, M for the number of
inputs, METHODS for the distilled mathematics and "thesis" for its source.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A group of keys: immutable, without unknown keys, without silent conversions (``"10"`` or ``true`` is no 10)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class AboutSection(Section):
    """What a recipe stands for. Nothing here changes a run."""

    title: str = Field("", description="One line for people.")
    table: str | None = Field(None, description="Where the thesis has this network: '3.1, A.17', 'Figure 3.10'.")
    row: str | None = Field(None, description="The rows there, separated by semicolons.")
    reported: dict[str, float] = Field(
        {},
        description="What the thesis reports, under the names of summary.json (top1, top5, nll, nll_calibrated, ece; "
        "accuracies and the like as fractions), and: members_top1 (mean over the subnetworks), corrupted_top1, "
        "corrupted_top5, corrupted_nll (on CIFAR-100-C), active_filters_T (share of active filters at threshold T), "
        "classifier_sharing; KEY_std is a standard deviation over runs; KEY_a17 is the value of Table A.17 "
        "where it differs from that of the main table.",
    )


class DataSection(Section):
    """Images, and how they are put into batches."""

    name: str = Field(
        min_length=1,
        description="Data set: cifar100, tiny-imagenet, digits, folder:DIR, list:DIR, shards:DIR, ...",
    )
    dir: str | None = Field(None, description="Folder that holds the data sets; null: $MIXFAST_DATA, else the cache.")
    cache_dir: str | None = Field(None, description="Folder for decoded images; null: $MIXFAST_CACHE, else the cache.")
    image_size: int | None = Field(
        None, ge=8, le=1024, description="Side in pixels to which images are resized; null: the data set's own."
    )
    validation: float = Field(
        0.1,
        ge=0,
        le=0.9,
        description="Share of each class's training images held out to select the epoch on, where "
        "evaluation.select=validation; otherwise all images are trained on.",
    )
    repetition: int = Field(
        1,
        ge=1,
        le=64,
        description="Batch repetition b: a batch holds batch_size / b distinct images, each b times (thesis 3.3.4.1).",
    )
    views: Literal["independent", "shared"] = Field(
        "independent",
        description="Whether each occurrence of an image is augmented by itself (MixMo) or all share one view (MIMO); "
        "METHODS 7.",
    )
    input_repetition: float = Field(
        0.0, ge=0, le=1, description="Share of a batch whose M inputs are the same image (thesis A.6.1; METHODS 7)."
    )
    groups: int = Field(
        1,
        ge=1,
        le=4096,
        description="Groups that the images of a batch are put into; a sample's M inputs come from one group. 1 pairs "
        "across the whole batch, as the thesis does. A multiple of the number of processes keeps every occurrence of an "
        "image in one process, in all slots (it is so for slot 0 in any case).",
    )
    pad: int = Field(0, ge=0, le=256, description="Pixels of black border on each side before a random crop; 0: none.")
    crop_area: tuple[float, float] | None = Field(
        None,
        strict=False,
        description="Random-resized crop, in place of pad: a region whose share of the image's area is uniform between these "
        "two numbers (0.08 and 1 are usual) and whose ratio of sides is log-uniform between 3/4 and 4/3, resized to the "
        "image's size; as torchvision draws it. null: none.",
    )
    stored_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="Of crop_area: side in pixels to which training images are decoded where that is more than image_size, "
        "so that regions are cut out of more pixels; null: image_size. Evaluation sees images of image_size.",
    )
    regions: Literal["images", "files"] = Field(
        "images",
        description="Of crop_area: images: an image is decoded once a step, however often it stands there, and the region of "
        "each view is cut out of it on the device. files: the region of each view is decoded by itself from its file, at the "
        "file's full resolution; with source=dali only the region is decoded, and resident cannot do it. Either way a region "
        "lies in the central square that image_size shows.",
    )
    flip: bool = Field(False, description="Mirror images left to right with probability 0.5.")
    augmix: bool = Field(False, description="AugMix with severity 3, width 3, depth 4 (thesis A.1.3.1).")
    autoaugment: Literal["none", "cifar", "imagenet"] = Field(
        "none",
        description="AutoAugment with the policy found on CIFAR-10 or on ImageNet (thesis A.1.5): two operations an "
        "image, after crop and flip; what they uncover is black.",
    )
    randaugment: int = Field(
        0,
        ge=0,
        le=16,
        description="RandAugment: operations an image, after crop and flip, each drawn from fourteen; 0: none.",
    )
    randaugment_magnitude: int = Field(
        9, ge=0, le=30, description="Of all operations of RandAugment, on torchvision's scale of 0 to 30."
    )
    random_erasing: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of images of which a rectangle of 0.02 to 1/3 of the area is erased with N(0, 1) noise after "
        "normalisation (0.25 in DeiT, which thesis A.1.5 follows).",
    )
    source: Literal["auto", "resident", "dali", "torch"] = Field(
        "auto",
        description="Where pixels come from: decoded once and kept in memory; decoded while training by NVIDIA DALI, or by "
        "Pillow in processes of a torch DataLoader; auto: resident where that fits resident_share, else dali, or torch where "
        "DALI is not installed. The choice is written into the run's config.yaml.",
    )
    resident_share: float = Field(
        0.5, gt=0, le=1, description="Of source=auto: the share of the free memory that decoded images may take."
    )
    decoder: Literal["cpu", "mixed"] = Field(
        "cpu", description="Of source=dali: decode on the CPU, or (mixed) on the CUDA device that trains."
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Of source=dali and torch: threads or processes that decode; null: one a core.",
    )
    skip_corrupt: bool = Field(False, description="Leave out images that cannot be decoded, instead of stopping.")


class ModelSection(Section):
    """The backbone."""

    name: str = Field(
        min_length=1, description="Backbone: wrn28-10, preact-resnet18-2, resnet18-5, convit, cait-xs24, ..."
    )
    patch_size: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Pixels a side of a transformer's patch; null: 4 for images up to 32 pixels, 8 up to 64, else 16.",
    )
    drop_path: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Stochastic depth: how often a transformer's feature block is left out for a sample.",
    )


MethodName = Literal[
    "single",
    "mimo",
    "linear-mixmo",
    "cut-mixmo",
    "mixshare",
    "mixvit-embedding",
    "mixvit-encoding",
    "mixvit-unattributed",
]


class MethodSection(Section):
    """How M inputs become one mixed representation, and M predictions come out of it (METHODS 1 and 2)."""

    name: MethodName = Field("single", description="single is the plain network: one input, one prediction.")
    num_inputs: int = Field(1, ge=1, le=16, description="M: inputs per sample, and predictions. 1 for single only.")
    mask: Literal["rectangle", "horizontal", "vertical", "patchup", "fmix", "cowmask"] = Field(
        "rectangle", description="Shape of the binary mask of cut-mixmo, mixshare and mixvit (Table 3.3)."
    )
    alpha: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="Concentration of the mixing ratios, kappa ~ Dirichlet(alpha); null: 0.5 for mixvit (thesis A.1.5), "
        "else 2 (A.5.7).",
    )
    probability: float = Field(
        0.5,
        ge=0,
        le=1,
        description="p of cut-mixmo: share of batches mixed by a mask, the others linearly; falls to 0 over the last "
        "twelfth of the epochs (Algorithm A.6). mixshare cuts in every batch: 1.",
    )
    anneal: bool = Field(
        True,
        description="Whether p of cut-mixmo falls to 0 at the end; false suits inference=separate (Table 4.1, row 5).",
    )
    root: float = Field(
        3.0, gt=0, le=1000, description="r of eq. 3.3: evens out the losses of inputs of unequal size; 1 leaves them."
    )
    encoders: Literal["per-input", "shared"] = Field(
        "per-input", description="One first convolution per input, or one for all (Table 3.4)."
    )
    encoder_init: Literal["independent", "same", "colinear"] = Field(
        "independent", description="How the encoders' first values relate (thesis 3.4.2.2, A.6.2)."
    )
    heads: Literal["per-input", "shared", "random", "by-ratio"] = Field(
        "per-input",
        description="One classifier per input; one for all, which learns labels in the inputs' proportion; or two that "
        "learn the two inputs in random order, or the larger one first (Table 3.4).",
    )
    unmix_fraction: float = Field(
        1.0, gt=0, le=1, description="mixshare: share of the last channels that are unmixed; 0.25: partial (3.4.2.3)."
    )
    inference: Literal["sum", "separate", "alternating", "single"] | None = Field(
        None,
        description="How a transformer's M predictions for one image are made: one pass with averaged tokens, a pass (for "
        "mixvit: of the last two blocks) for each, or, mixvit only, one pass with each token given to one subnetwork or all "
        "to the first (Tables 4.1 and 4.6); null: separate for mixvit, else sum.",
    )
    place: Literal["late", "early"] = Field(
        "late",
        description="mixvit: where tokens learn which input they show, behind or before the feature blocks (Table 4.6).",
    )
    tokens: Literal["mixed", "all"] = Field(
        "mixed", description="mixvit: the N tokens of a mix, or all M * N of its inputs side by side (Table 4.6)."
    )
    fade_epochs: int = Field(
        0, ge=0, le=100_000, description="mixshare: epochs over which unmixing fades out (3.4.2.3); 0: it never does."
    )


class MsdaSection(Section):
    """Mixed-sample data augmentation in pixels (or, manifold-mixup, in features), before or without a method's mix."""

    kind: Literal["none", "cutmix", "mixup", "cutmix-mixup", "manifold-mixup"] = Field(
        "none", description="Which one. cutmix-mixup does both at once: CutMix whose mask is not binary (thesis A.1.5)."
    )
    alpha: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="The mixing ratio (cutmix, cutmix-mixup: the box's area) is drawn from Beta(alpha, alpha).",
    )
    mixup_alpha: float = Field(
        0.8,
        gt=0,
        le=1000,
        description="Of cutmix-mixup: the image's weight inside the box, and its partner's outside, is drawn from "
        "Beta(mixup_alpha, mixup_alpha).",
    )
    probability: float = Field(0.5, gt=0, le=1, description="Share of images (manifold-mixup: of batches) mixed.")


class OptimizerSection(Section):
    """The optimiser and its learning rate."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="Update rule.")
    lr: float = Field(gt=0, le=100, description="Learning rate before lr_scaling and lr_per_repetition.")
    lr_scaling: Literal["none", "linear", "sqrt"] = Field(
        "none", description="Multiply lr by 1, by batch_size / lr_batch, or by the square root of that."
    )
    lr_batch: int = Field(128, ge=1, le=1_000_000, description="Batch size, in samples, that lr is given for.")
    lr_per_repetition: bool = Field(True, description="Divide lr by the batch repetition b (thesis 3.3.4.1).")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd.")
    nesterov: bool = Field(True, description="Nesterov momentum, of sgd (METHODS 7).")
    weight_decay: float = Field(
        0.0, ge=0, le=1, description="Adds weight_decay * p to every gradient (sgd), or shrinks p by itself (adamw)."
    )
    decay_vectors: bool = Field(
        True,
        description="Whether weight decay also acts on biases, norms and embeddings; false is usual for transformers.",
    )
    betas: tuple[float, float] = Field((0.9, 0.999), strict=False, description="Of adamw; each at least 0, below 1.")
    implementation: Literal["torch", "apex"] = Field(
        "torch", description="torch's fused optimisers, or NVIDIA apex's (CUDA only, built from source)."
    )
    grad_clip: float | None = Field(None, gt=0, le=1e6, description="Largest norm of the gradient; null: no limit.")


class ScheduleSection(Section):
    """How long to train, and the learning rate on the way."""

    epochs: int = Field(ge=1, le=1_000_000, description="An epoch is floor(images * b / batch_size) steps.")
    warmup_epochs: float = Field(0.0, ge=0, le=100_000, description="Linear rise of the learning rate, step by step.")
    decay_epochs: tuple[int, ...] = Field(
        (),
        strict=False,
        description="Numbers of completed epochs after which the learning rate drops: 100 means from the start of the "
        "101st epoch on.",
    )
    decay: float = Field(0.1, gt=0, le=1, description="Factor of each drop.")
    max_steps: int | None = Field(
        None, ge=1, description="Stop after this many steps, within an epoch or not; null: after all epochs."
    )


class TrainingSection(Section):
    """The training loop and how it runs on the machine."""

    batch_size: int = Field(
        ge=1, le=1_000_000, description="Samples of M inputs a step: the global batch, of all processes."
    )
    device: str = Field("auto", description="auto (CUDA where there is one, else CPU), cpu, cuda, cuda:N, mps or xpu.")
    amp: Literal["off", "bfloat16", "float16"] = Field("off", description="Automatic mixed precision.")
    compile: Literal["auto", "on", "off"] = Field("auto", description="torch.compile; auto: where it is known to pay.")
    accumulation: int = Field(
        1,
        ge=1,
        le=4096,
        description="Parts that a process takes its share of a batch in, one after the other, adding up their gradients: "
        "less memory, the same step (batch norm sees one part at a time).",
    )
    batch_norm: Literal["synchronised", "local"] = Field(
        "synchronised",
        description="Over what batch norm normalises where there are several processes: the samples of all, which gives the "
        "step of one process; or each process's own, without waiting for the others.",
    )
    channels_last: bool = Field(True, description="Keep features in channels-last memory.")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Evaluate an exponential moving average of the weights, with this decay a step."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Probability mass spread evenly over all classes.")
    deterministic: bool = Field(False, description="Only algorithms that give the same bits every time; slower.")
    log_every: int = Field(50, ge=1, le=1_000_000, description="Steps between two logged losses.")
    checkpoint_minutes: float = Field(10.0, gt=0, le=100_000, description="Minutes between two checkpoints.")


class EvaluationSection(Section):
    """Which weights are kept, and how predictions are made from them."""

    select: Literal["validation", "test", "last"] = Field(
        "validation",
        description="Keep the weights of the epoch that is best on the held-out validation images; of the one best on "
        "the test set, as the thesis's tables do (A.1.3.2); or of the last epoch, as Table A.12 does.",
    )
    average: Literal["logits", "probabilities"] = Field(
        "logits", description="What is averaged over the M predictions (METHODS 7)."
    )
    batch_size: int = Field(256, ge=1, le=1_000_000, description="Images a step in evaluation.")
    every: int = Field(1, ge=1, le=1_000_000, description="Epochs between two evaluations; the end has one.")


class EnsembleSection(Section):
    """A deep ensemble: independently trained networks whose predictions are averaged."""

    members: int = Field(1, ge=1, le=64, description="Networks, each with a seed of its own.")
