"""Attack images to change the predicted class or the representation, and sample the attacked representations.

Robustness experiment of the paper (arXiv:2112.09164, section 5): an attack on a linear classifier on the frozen
representation, and samples of the representation after the attack.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from rcdm_cli.analyses.embed import EncoderSet, as_embeddings, bundle_encoders, embed_dataset, load_or_embed
from rcdm_cli.analyses.fgsm.attacks import ATTACKS, AttackCase, AttackedImages, AttackPlan, attack_all, attack_images
from rcdm_cli.analyses.fgsm.results import AttackedSamples, Robustness, summarise
from rcdm_cli.analyses.fgsm.section import write
from rcdm_cli.analyses.inputs import ImageInput, data_name, open_images
from rcdm_cli.analyses.left_out import left_out, left_out_sentence
from rcdm_cli.analyses.probe.probes import LinearProbes, fit_probes
from rcdm_cli.analyses.run import AnalysisArguments, Run, SamplingRun, open_sampling_run, require_at_least
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.data.cropped import load_cropped
from rcdm_cli.data.dataset import ImageDataset
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.diffusion.noise import sample_seeds
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
    num_samples: int = 2,
    **options: Unpack[AnalysisArguments],
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
        num_samples: samples per representation, K.
        **options: see ``AnalysisArguments``.

    Raises:
        InputError: a parameter is out of range, no image qualifies, a classifier would be trained on attacked images,
            or an encoder has no gradient.
    """
    require_at_least(1, num_samples=num_samples, attack_steps=attack_steps, limit=limit)
    require_at_least(0, examples=examples)
    attack_names, with_zero = _attack_names(attacks, probe is not None), _with_zero(epsilons)
    with open_sampling_run(bundle, **options) as run:
        plan = AttackPlan(attack_names, with_zero, attack_steps, run.seed)
        require_gradients(run.bundle, run.pairs)
        dataset = open_images(images, split, run.on_note)
        stored = None if probe is None else as_embeddings(probe)
        if probe is not None and stored is None:
            _require_no_overlap(_locations(dataset) & _locations(open_images(probe, probe_split)))  # type: ignore[arg-type]
        probes = None
        if probe is not None:
            encoders = bundle_encoders(run.bundle, run.pairs)
            training = load_or_embed(run, encoders, probe, probe_split, stage="Encoding training images")
            if stored is not None:
                _require_no_overlap(_images_in(dataset, training, encoders))
            if sentence := left_out_sentence(left_out(training.labels, ignore_classes), "training images"):
                run.on_note(sentence)
            show = partial(run.on_progress, "Fitting linear classifiers")
            probes = fit_probes(run, training, run.pairs, ignore_classes=ignore_classes, on_progress=show)
        subjects = select_images(run.bundle, run.pairs, dataset, probes, limit, ignore_classes)
        for reason in subjects.unreadable:
            run.on_note(reason)
        if sentence := left_out_sentence(subjects.left_out, "images"):
            run.on_note(sentence)
        with run.cache.divided():
            outcomes = attack_all(run, subjects, plan)
            result = summarise(outcomes, subjects, run.pairs, plan)
        if examples:
            with run.cache.divided():
                samples = sample_attacked(run, subjects, range(min(examples, len(subjects))), plan, num_samples)
                result = replace(result, samples=samples)
        run.cache.require_all()
        if run.out:
            about = run.provenance()
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
            write(run.out, {"kind": "fgsm", **about, **result.as_json()}, result.samples)
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
        images={size: entry.images for size, entry in cropped.items()},
        paths=first.keys,
        labels=None if probes is None else class_indices(first.labels, (), probes.classes)[0],
        classes=() if probes is None else probes.classes,
        classifiers={} if probes is None else probes.classifiers,
        left_out=excluded,
        unreadable=[f"{root} ({key}) cannot be read as an image: {reason}." for key, reason in first.skipped],
    )


def sample_attacked(
    run: SamplingRun, subjects: AttackedImages, index: Sequence[int], plan: AttackPlan, num_samples: int
) -> list[AttackedSamples]:
    """Sample the representations of images after the first attack of the plan, at every epsilon.

    Sample k of an image has the same noise at every pair and epsilon.

    Args:
        run: bundle, (method, level) pairs and sampling settings.
        subjects: attacked images.
        index: indices of the images.
        plan: plan of ``attack_all``.
        num_samples: samples per representation, K.
    """
    images: dict[Pair, list[Pixels]] = {}
    h: dict[Pair, Tensor] = {}
    for pair in run.pairs:
        cases = [AttackCase(pair, plan.attacks[0], epsilon) for epsilon in plan.epsilons]
        attacked = [attack_images(run.bundle, case, subjects, index, plan) for case in cases]
        # The image is rounded to 256 levels for display. The representation is computed from the exact image.
        images[pair] = [
            (after * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy() for _, after, _ in attacked
        ]
        h[pair] = torch.cat([entry for _, _, entry in attacked])
    seeds = sample_seeds(run.seed, [subjects.paths[image] for image in index], num_samples)
    columns = range(len(plan.epsilons))
    flat = run.sample(h, seeds * len(columns))
    samples = {pair: own.reshape(len(columns), len(index), *own.shape[1:]) for pair, own in flat.items()}
    return [
        AttackedSamples(
            image,
            [[(images[pair][column][i], samples[pair][column, i]) for column in columns] for pair in run.pairs],
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
    encoded = embed_dataset(Run(), one, named.spread(COMPARED))
    stored = training.rows([rows[path] for path in encoded.paths]).representations[pair]
    return list(named.keys) if is_copy(encoded.representations[pair], stored).any() else []
