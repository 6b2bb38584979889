"""k-NN against the implementation in lightly."""

import pytest
import torch
from lightly.utils.benchmarking.knn import knn_predict as reference
from torch.nn import functional as F

from rcdm_cli.metrics.knn import knn_predict


@pytest.fixture(scope="module")
def bank():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (60,), generator=draw)
    return torch.randn(60, 8, generator=draw) + F.one_hot(labels, 8) * 1.5, labels


def lightly_says(queries, bank, labels, neighbours, temperature):
    queries, bank = F.normalize(queries, dim=1), F.normalize(bank, dim=1)
    return reference(queries, bank.T, labels, 5, knn_k=neighbours, knn_t=temperature)[:, 0]


@pytest.mark.parametrize(("neighbours", "temperature"), [(1, 0.07), (7, 0.07), (20, 0.5), (60, 1.0)])
def test_votes_are_those_of_lightly(bank, neighbours, temperature):
    queries = torch.randn(40, 8, generator=torch.Generator().manual_seed(1)) * 3
    ours = knn_predict(queries, *bank, neighbours=neighbours, temperature=temperature, chunk=7)
    assert torch.equal(ours, lightly_says(queries, *bank, neighbours, temperature))
    assert len(ours.unique()) > 1


def test_leave_one_out_is_a_bank_without_the_query(bank):
    vectors, labels = bank
    ours = knn_predict(vectors, vectors, labels, neighbours=5, leave_one_out=True, chunk=7)
    for query in range(len(vectors)):
        rest = torch.arange(len(vectors)) != query
        assert ours[query] == lightly_says(vectors[query : query + 1], vectors[rest], labels[rest], 5, 0.07)[0]


def test_a_bank_smaller_than_the_neighbours_votes_as_a_whole(bank):
    vectors, labels = bank[0][:3], torch.tensor([0, 1, 1])
    ours = knn_predict(vectors, vectors, labels, neighbours=20, temperature=100.0, leave_one_out=True)
    # With a flat temperature the two others outvote: 1 and 1; then 0 and 1 twice, decided by similarity.
    unit = F.normalize(vectors, dim=1)
    similarity = unit @ unit.T
    assert ours.tolist() == [1, int(similarity[1, 2] > similarity[1, 0]), int(similarity[2, 1] > similarity[2, 0])]
