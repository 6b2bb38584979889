"""Models of the Hugging Face hub: download to the cache, and bounded reading of JSON files."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from pydantic import ConfigDict

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.spec import Spec

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
WEIGHTS = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"
INDEX = "model.safetensors.index.json"

_FILES = (CONFIG, PREPROCESSOR, PROCESSOR, WEIGHTS, INDEX, "model-*-of-*.safetensors")
_LARGEST_JSON = 1 << 24


class HubFile(Spec):
    """JSON file of the Hugging Face hub. Keys that an encoder does not need are ignored."""

    model_config = ConfigDict(extra="ignore")


def download(reference: str) -> Path:
    """Return the folder of a model, from the cache or by download. Only JSON files and safetensors are downloaded.

    Args:
        reference: owner and name of the model, with an optional revision: ``facebook/dinov2-small@main``.

    Raises:
        InputError: the model does not exist, or is not accessible; or the files are not in the cache and downloads are
            disabled.
        RcdmError: the download failed.
    """
    name, _, revision = reference.partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(_FILES)))
    except HFValidationError as error:
        raise InputError(f"{name!r} is not a name on the Hugging Face hub, such as facebook/dinov2-small.") from error
    except GatedRepoError as error:
        raise InputError(
            f"Access to {name!r} on the Hugging Face hub is restricted. Accept the licence on the page of the model, "
            "and log in with `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(f"The Hugging Face hub has no model {reference!r} that is accessible.") from error
    except Exception as error:  # huggingface_hub, httpx and the operating system have different error classes
        if constants.HF_HUB_OFFLINE and isinstance(error, LocalEntryNotFoundError):
            raise InputError(
                f"The files of {name!r} are not in the cache, and RCDM_OFFLINE or HF_HUB_OFFLINE disables downloads."
            ) from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RcdmError(f"{name!r} could not be downloaded from the Hugging Face hub: {reason}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most 16 MB.

    Raises:
        InputError: the file is missing, damaged, or too large.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file. A Hugging Face checkpoint is a folder with {CONFIG} and {WEIGHTS}.")
    if path.stat().st_size > _LARGEST_JSON:
        raise InputError(f"{path} has more than 16 MB, which a configuration does not have.")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a complete JSON file.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is not a JSON object.")
    return values
