"""``--shard`` and ``rcdm merge``: the merged run equals the unsharded run."""

import json

import pytest

from rcdm_cli.analyses import embed as embedding
from rcdm_cli.bundle.bundle import Bundle
from tests.bundle.tiny import tiny_bundle
from tests.training.tiny import write_images

SHORT = ("--bundle", "tiny", "--samples", "2", "--steps", "2", "--method", "dino", "--batch", "4")
COMMANDS = {
    "visualize": ("visualize", "imgs/val", *SHORT),
    "evaluate": ("evaluate", "imgs", "--split", "val", "--bank-split", "train", *SHORT),
    "invariance": ("invariance", "imgs/val", *SHORT, "--examples", "1"),
    "fgsm": ("fgsm", "imgs", "--split", "val", "--probe", "imgs", "--probe-split", "train", *SHORT,
             "--examples", "1", "--attack-steps", "2", "--epsilon", "2/255"),
    "embed": ("embed", "imgs", "--bundle", "tiny", "--method", "dino", "--batch", "4"),
}  # fmt: skip


@pytest.fixture
def imgs(workplace, monkeypatch):
    monkeypatch.setattr(embedding, "CHUNK", 4)
    tiny_bundle(workplace / "engines" / "tiny")
    return write_images(workplace / "imgs", {"train/cat": 5, "train/dog": 5, "val/cat": 2, "val/dog": 2})


def run_shards(invoke, command, count):
    for index in range(count):
        done = invoke(*command, "--shard", f"{index}/{count}", "--out", f"shards/{index}")
        assert (done.exit_code, done.stdout) == (0, f"shards/{index}/shard.json\n"), done.stderr


def outputs(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("imgs")
@pytest.mark.parametrize("name", COMMANDS)
def test_merged_shards_equal_the_unsharded_run(invoke, workplace, monkeypatch, name):
    target = "run/h.safetensors" if name == "embed" else "run"
    whole = invoke(*COMMANDS[name], "--out", target, "--json")
    assert whole.exit_code == 0, whole.stderr
    run_shards(invoke, COMMANDS[name], 3)
    parts = [len(list((workplace / "shards" / str(index) / "parts").iterdir())) for index in range(3)]
    assert min(parts) > 0
    # The merging command generates no sample.
    monkeypatch.setattr(Bundle, "sample_cond", None)
    (workplace / "run").rename(workplace / "whole")
    merged = invoke("merge", "shards/2", "shards/0", "shards/1", "--out", target, "--json")
    assert (merged.exit_code, merged.stdout) == (0, whole.stdout), merged.stderr
    assert outputs(workplace / "run") == outputs(workplace / "whole")


@pytest.mark.usefixtures("imgs")
def test_repeated_shard_and_merge_end_with_their_results(invoke, workplace):
    command = COMMANDS["visualize"]
    run_shards(invoke, command, 2)
    before = outputs(workplace / "shards")
    run_shards(invoke, command, 2)
    assert outputs(workplace / "shards") == before
    for _ in range(2):
        assert invoke("merge", "shards/0", "shards/1", "--out", "run").exit_code == 0
    other = invoke(*command, "--seed", "1", "--shard", "0/2", "--out", "shards/0")
    assert other.exit_code == 2
    assert "--seed was 0, now 1" in other.stderr
    assert invoke(*command, "--shard", "1/2", "--out", "shards/0").exit_code == 2


def test_missing_repeated_and_foreign_shards_are_refused(invoke, workplace, imgs):
    command = COMMANDS["visualize"]
    run_shards(invoke, command, 2)
    assert invoke(*command, "--seed", "1", "--shard", "1/2", "--out", "other").exit_code == 0
    assert invoke(*command, "--shard", "1/2", "--out", "again").exit_code == 0
    for folders, words in (
        (("shards/0",), "1 of 2 shards are missing: 1/2"),
        (("shards/0", "shards/1", "again"), "given twice"),
        (("shards/0", "other"), "different runs"),
        (("shards/0", "imgs"), "no finished shard"),
    ):
        refused = invoke("merge", *folders, "--out", "run")
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert words in refused.stderr
    record = json.loads((workplace / "shards/0/shard.json").read_text())
    for change, words in (({"count": "x"}, "count"), ({"extra": 1}, "extra is not a known key")):
        (workplace / "shards/0/shard.json").write_text(json.dumps(record | change))
        refused = invoke("merge", "shards/0", "shards/1", "--out", "run")
        assert refused.exit_code == 2
        assert words in refused.stderr
    (workplace / "shards/0/shard.json").write_text(json.dumps(record))
    (imgs / "val" / "cat" / "0.png").unlink()
    changed = invoke("merge", "shards/0", "shards/1", "--out", "run")
    assert changed.exit_code == 2
    assert "the content of imgs/val has changed" in changed.stderr
    assert not (workplace / "run").exists()


@pytest.mark.usefixtures("imgs")
@pytest.mark.parametrize("text", ["3/3", "1", "a/2", "-1/2", "0/0"])
def test_wrong_shard_ends_with_2(invoke, text):
    wrong = invoke(*COMMANDS["visualize"], f"--shard={text}")
    assert (wrong.exit_code, wrong.stdout) == (2, "")


@pytest.mark.usefixtures("imgs")
def test_processes_of_a_launcher_are_shards(invoke, monkeypatch):
    command = (*COMMANDS["visualize"], "--out", "run")
    assert invoke(*command[:-1], "whole").exit_code == 0
    for rank in range(2):
        for variable, value in (("WORLD_SIZE", "2"), ("RANK", str(rank)), ("LOCAL_RANK", str(rank))):
            monkeypatch.setenv(variable, value)
        assert invoke(*command).stdout == f"run/{rank}-of-2/shard.json\n"
    for variable in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(variable)
    done = invoke("merge", "run/0-of-2", "run/1-of-2", "--out", "merged")
    assert done.exit_code == 0, done.stderr
