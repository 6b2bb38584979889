"""Counts of images that analyses with classes leave out."""

from rcdm_cli.analyses.left_out import left_out, left_out_sentence


def test_images_are_counted_by_reason():
    labels = ["cat", None, "bird", "other", "fish", "bird", "dog"]
    counts = left_out(labels, ["other"], ["cat", "dog"])
    expected = {"images": 7, "left_out": 5, "without_class": 1, "ignored": 1, "unknown": {"bird": 2, "fish": 1}}
    assert counts == expected
    sentence = left_out_sentence(counts, "validation images")
    assert sentence == (
        "5 of 7 validation images are left out: 1 without a class, 1 of ignored classes, 3 of 2 classes without"
        " training images (bird, fish)."
    )


def test_all_classes_are_training_classes_by_default():
    counts = left_out(["cat", None], [])
    assert (counts["left_out"], counts["unknown"]) == (1, {})


def test_complete_set_has_no_sentence():
    assert left_out_sentence(left_out(["cat", "dog"], (), ["cat", "dog"]), "images") is None
    assert left_out_sentence(None, "images") is None


def test_long_list_of_classes_is_shortened():
    sentence = left_out_sentence(left_out([str(i) for i in range(9)], (), ["cat"]), "images")
    assert "(0, 1, 2, 3, 4, 4 more)" in sentence
