"""Seeds of random streams."""

from rcdm_cli.core.seeds import derive_seed, distinct_names


def test_seed_equals_golden_number():
    assert derive_seed("sample", 0, "a.png", 1) == 6574772373381440082


def test_seeds_of_different_purposes_and_keys_differ():
    keys = [
        ("sample",),
        ("sample", 0),
        ("sample", 0, 0),
        ("sample", "0"),
        ("sample", 0, "0"),
        ("sample", "0, 0"),
        ("sample", 1 << 32),
        ("sample", 0, 1),
        ("resample", 0, 1),
        ("sample", "\udcff.png"),
    ]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_repeated_names_get_numbers():
    assert distinct_names(["a", "b", "a", "a"]) == ["a", "b", "a#2", "a#3"]
    assert distinct_names(["a#2", "a", "a"]) == ["a#2", "a", "a#3"]
