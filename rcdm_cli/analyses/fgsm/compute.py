"""Attack images to change the predicted class or the representation, and sample the attacked representations.

Robustness experiment of the paper (arXiv:2112.09164, section 5): an attack on a linear classifier on the frozen
representation, and samples of the representation after the attack.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from rcdm_cli.analyses.embed import EncoderSet, as_embeddings, bundle_encoders, embed_dataset, load_or_embed
from rcdm_cli.analyses.fgsm.attacks import ATTACKS, AttackCase, AttackedImages, AttackPlan, attack_all, attack_images
from rcdm_cli.analyses.fgsm.results import AttackedSamples, Robustness, summarise
from rcdm_cli.analyses.fgsm.section import write
from rcdm_cli.analyses.inputs import ImageInput, data_name, open_images
from rcdm_cli.analyses.left_out import left_out, left_out_sentence
from rcdm_cli.analyses.probe.probes import LinearProbes, fit_probes
from rcdm_cli.analyses.run import (
    OnNote,
    OnProgress,
    as_bundle,
    chosen_pairs,
    no_note,
    no_progress,
    provenance,
    require_at_least,
    run_cache,
)
from rcdm_cli.analyses.step_cache import StepCache, sample_batches
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.data.cropped import load_cropped
from rcdm_cli.data.dataset import ImageDataset
from rcdm_cli.diffusion.noise import sample_seeds
from rcdm_cli.diffusion.sampling import Settings
from rcdm_cli.encoders.embeddings import Embeddings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.nearest import is_copy
from rcdm_cli.training.pretraining import class_indices

COMPARED = 8
"""Number of images of equal name that are encoded to check whether a file of representations contains them."""


def fgsm(
    bundle: Bundle | str | Path,
    images: ImageInput,
    *,
    split: str | None = None,
    limit: int | None = None,
    probe: ImageInput | Embeddings | None = None,
    probe_split: str | None = None,
    ignore_classes: Sequence[str] = (),
    attacks: Sequence[str] | None = None,
    epsilons: Sequence[float] = (1 / 255, 2 / 255, 4 / 255, 8 / 255),
    attack_steps: int = 10,
    examples: int = 3,
    methods: Sequence[str] | str | None = None,
    level: str = "both",
    num_samples: int = 2,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    batch: int = 32,
    out: str | Path | None = None,
    force: bool = False,
    cache: StepCache | None = None,
    on_progress: OnProgress = no_progress,
    on_note: OnNote = no_note,
) -> Robustness:
    """Measure how attacks with small changes of the pixels affect representations and linear classifiers on them.

    Args:
        bundle: bundle, or its name or folder.
        images: a dataset, paths of images and folders, or uint8 arrays (H, W, 3).
        split: sub-folder of the dataset; None selects all images.
        limit: maximum number of images, spread evenly over the dataset.
        probe: training images of the classifiers: a dataset with class folders, or representations. None measures
            the drift only.
        probe_split: sub-folder of ``probe``; None selects all images.
        ignore_classes: class folders whose images do not train the classifiers.
        attacks: ``fgsm``, ``pgd`` and ``drift``; None selects all attacks that are possible.
        epsilons: largest changes of a pixel, above 0 and at most 1. Epsilon 0 is added.
        attack_steps: number of steps of ``pgd`` and ``drift``.
        examples: number of images that are sampled before and after the first attack; 0 generates no samples.
        methods: methods; None selects all methods of the bundle.
        level: ``backbone``, ``projector`` or ``both``.
        num_samples: samples per representation, K.
        sampler: ``ddpm``, ``ddim`` or ``dpmpp``; None selects the default of the bundle, as for the next two.
        steps: number of sampling steps.
        guidance: scale of classifier-free guidance; 1 disables guidance.
        seed: seed of the noise, the random starts, the classifiers and the bootstrap.
        batch: number of images or samples per batch.
        out: run folder; None writes no files.
        force: whether to replace a finished run in ``out``.
        cache: cache of expensive steps; by default a folder in ``out`` that is deleted at the end.
        on_progress: called with (stage, items done, items).
        on_note: called with a sentence for each unreadable image, and about images that are left out.

    Raises:
        InputError: a parameter is out of range, no image qualifies, a classifier would be trained on attacked images,
            or an encoder has no gradient.
    """
    bundle = as_bundle(bundle)
    pairs = chosen_pairs(bundle, methods, level)
    settings = bundle.settings(sampler, steps, guidance)
    require_at_least(1, num_samples=num_samples, batch=batch, attack_steps=attack_steps, limit=limit)
    require_at_least(0, seed=seed, examples=examples)
    plan = AttackPlan(_attack_names(attacks, probe is not None), _with_zero(epsilons), attack_steps, seed)
    require_gradients(bundle, pairs)
    dataset = open_images(images, split, on_note)
    stored = None if probe is None else as_embeddings(probe)
    if probe is not None and stored is None:
        _require_no_overlap(_locations(dataset) & _locations(open_images(probe, probe_split)))  # type: ignore[arg-type]
    with run_cache(bundle, out, force, cache) as cache:
        probes = None
        if probe is not None:
            encoders = EncoderSet(bundle_encoders(bundle, pairs), pairs, bundle.device, {})
            training = load_or_embed(
                encoders,
                probe,
                probe_split,
                batch=batch,
                cache=cache,
                stage="Encoding training images",
                on_progress=on_progress,
                on_note=on_note,
            )
            if stored is not None:
                _require_no_overlap(_images_in(dataset, training, encoders))
            if sentence := left_out_sentence(left_out(training.labels, ignore_classes), "training images"):
                on_note(sentence)
            probes = fit_probes(
                training,
                pairs,
                ignore_classes=ignore_classes,
                seed=seed,
                cache=cache,
                on_progress=partial(on_progress, "Fitting linear classifiers"),
            )
        subjects = select_images(bundle, pairs, dataset, probes, limit, ignore_classes)
        for reason in subjects.unreadable:
            on_note(reason)
        if sentence := left_out_sentence(subjects.left_out, "images"):
            on_note(sentence)
        outcomes = attack_all(
            bundle, subjects, pairs, plan, batch=batch, cache=cache, on_progress=partial(on_progress, "Attacking")
        )
        result = summarise(outcomes, subjects, pairs, plan)
        if examples:
            samples = sample_attacked(
                bundle,
                subjects,
                range(min(examples, len(subjects))),
                pairs,
                plan,
                num_samples=num_samples,
                settings=settings,
                batch=batch,
                cache=cache,
                on_progress=on_progress,
            )
            result = replace(result, samples=samples)
        if out is not None:
            about = provenance(bundle, seed, settings)
            about["settings"] |= {
                "data": data_name(images),
                "split": split,
                "probe": None if probe is None else "representations" if probe is stored else data_name(probe),
                "probe_split": probe_split,
                "ignored_classes": list(ignore_classes),
                "attacks": list(plan.attacks),
                "attack_steps": attack_steps,
                "epsilons": list(plan.epsilons),
                "samples": num_samples,
            }
            write(Path(out), {"kind": "fgsm", **about, **result.as_json()}, result.samples)
    return result


def require_gradients(bundle: Bundle, pairs: Sequence[Pair]) -> None:
    """Check that every encoder can be attacked.

    Raises:
        InputError: an encoder is an ONNX graph, which has no gradient.
    """
    for method in dict.fromkeys(pair.method for pair in pairs):
        if bundle.manifest.encoders[method].spec.onnx_widths:
            raise InputError(f"{method} is an ONNX graph, which has no gradient for an attack. Choose other `methods`.")


def select_images(
    bundle: Bundle,
    pairs: Sequence[Pair],
    dataset: ImageDataset,
    probes: LinearProbes | None,
    limit: int | None,
    ignore_classes: Sequence[str] = (),
) -> AttackedImages:
    """Select the images to attack: readable images and, for classifier attacks, images of a class of the classifiers.

    Args:
        bundle: bundle with the encoders.
        pairs: (method, level) pairs.
        dataset: candidate images.
        probes: attacked classifiers; None selects images without classes too.
        limit: maximum number of images, spread evenly over the selected images.
        ignore_classes: class folders whose images did not train the classifiers.

    Raises:
        InputError: no image is readable, or no image has a class of the classifiers.
    """
    root, excluded = dataset.root, None
    if probes is not None:
        excluded = left_out(dataset.labels, ignore_classes, probes.classes)
        labels, _ = class_indices(dataset.labels, (), probes.classes)
        dataset = dataset.select(torch.nonzero(labels >= 0).flatten().tolist())
        if not len(dataset):
            raise InputError(
                f"None of the images in {root} is in a folder of one of the classes: {', '.join(probes.classes)}."
            )
    if limit is not None:
        dataset = dataset.spread(limit)
    sizes = sorted({bundle.manifest.encoders[pair.method].spec.preprocessing.size for pair in pairs})
    cropped = {size: load_cropped(dataset, size) for size in sizes}
    first = cropped[sizes[0]]
    return AttackedImages(
        images={size: one.images for size, one in cropped.items()},
        paths=first.keys,
        labels=None if probes is None else class_indices(first.labels, (), probes.classes)[0],
        classes=() if probes is None else probes.classes,
        classifiers={} if probes is None else probes.classifiers,
        left_out=excluded,
        unreadable=[f"{root} ({key}) cannot be read as an image: {reason}." for key, reason in first.skipped],
    )


def sample_attacked(
    bundle: Bundle,
    subjects: AttackedImages,
    index: Sequence[int],
    pairs: Sequence[Pair],
    plan: AttackPlan,
    *,
    num_samples: int,
    settings: Settings,
    batch: int = 32,
    cache: StepCache | None = None,
    on_progress: OnProgress = no_progress,
) -> list[AttackedSamples]:
    """Sample the representations of images after the first attack of the plan, at every epsilon.

    Sample k of an image has the same noise at every pair and epsilon.

    Args:
        bundle: bundle with encoders and denoiser.
        subjects: attacked images.
        index: indices of the images.
        pairs: (method, level) pairs.
        plan: plan of ``attack_all``.
        num_samples: samples per representation, K.
        settings: sampler, steps and guidance scale.
        batch: number of samples per batch.
        cache: cache of the samples.
        on_progress: called with (stage, samples done, samples).
    """
    images, cond = [], []
    for pair in pairs:
        for epsilon in plan.epsilons:
            _, after, h = attack_images(bundle, AttackCase(pair, plan.attacks[0], epsilon), subjects, index, plan)
            # The image is rounded to 256 levels for display. The representation is computed from the exact image.
            images.append((after * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
            cond.append(bundle.condition(h, method=pair.method, level=pair.level))
    seeds = sample_seeds(plan.seed, [subjects.paths[image] for image in index], num_samples)
    flat = sample_batches(
        bundle,
        torch.cat(cond).repeat_interleave(num_samples, dim=0),
        list(chain.from_iterable(seeds)) * len(cond),
        settings,
        batch=batch,
        cache=cache,
        on_progress=partial(on_progress, "Sampling"),
    )
    columns = len(plan.epsilons)
    samples = flat.reshape(len(pairs), columns, len(index), num_samples, *flat.shape[1:])
    return [
        AttackedSamples(
            image,
            [[(images[p * columns + e][i], samples[p, e, i]) for e in range(columns)] for p in range(len(pairs))],
            seeds[i],
        )
        for i, image in enumerate(index)
    ]


def _attack_names(attacks: Sequence[str] | None, with_probe: bool) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(attacks or (ATTACKS if with_probe else ("drift",))))
    for name in names:
        if name not in ATTACKS:
            raise InputError(unknown_name_message("attack", name, ATTACKS))
    if not with_probe and set(names) != {"drift"}:
        raise InputError("The attacks fgsm and pgd need a classifier. Give `probe`, or drift as `attacks`.")
    return names


def _with_zero(epsilons: Sequence[float]) -> tuple[float, ...]:
    if not epsilons:
        raise InputError("`epsilons` is empty. Give at least one value such as 2/255.")
    for epsilon in epsilons:
        if not 0 < epsilon <= 1:
            raise InputError(f"An epsilon must be above 0 and at most 1, the range of a pixel; given {epsilon}.")
    return (0.0, *sorted(set(epsilons)))


def _require_no_overlap(shared: Collection[object]) -> None:
    if shared:
        raise InputError(
            f"The classifiers would be trained on {len(shared)} of the attacked images. Give other splits as `split`"
            " and `probe_split`, such as val and train, or other images as `probe`."
        )


def _locations(images: ImageDataset) -> set[tuple[Path, int]]:
    """Return file and offset of each image, which do not depend on the folder or tar that the user named."""
    return {(Path(entry.file).resolve(), entry.offset) for entry in images.entries if entry.file}


def _images_in(images: ImageDataset, training: Embeddings, encoders: EncoderSet) -> list[str]:
    """Return the keys of images that are also in ``training``, by comparing representations of images of equal name.

    Equal names are not enough: two splits that were named as two folders may both contain ``cat/0.png``.
    """
    rows = {path: row for row, path in enumerate(training.paths)}
    named = images.select([i for i, key in enumerate(images.keys) if key in rows])
    if not len(named):
        return []
    pair = encoders.pairs[0]
    one = replace(encoders, encoders={pair.method: encoders.encoders[pair.method]}, pairs=[pair])
    found = embed_dataset(one, named.spread(COMPARED))
    stored = training.rows([rows[path] for path in found.paths]).representations[pair]
    return list(named.keys) if is_copy(found.representations[pair], stored).any() else []
