"""Nearest-neighbour search against scikit-learn, k-NN classification against lightly."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from rcdm_cli.metrics.nearest import is_copy, knn_predict, nearest, nearest_without_copies


def vectors(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_nearest_equals_scikit_learn():
    bank, queries = vectors(300, 7), vectors(5, 7, 1)
    distance, index = NearestNeighbors(n_neighbors=12, metric="cosine").fit(bank).kneighbors(queries)
    for chunk in (1, 64, 1000):
        similarity, found = nearest(queries, bank, 12, chunk=chunk)
        assert found.tolist() == index.tolist()
        torch.testing.assert_close(similarity, torch.from_numpy(1 - distance).float())


def test_earlier_vector_comes_first_in_a_tie():
    bank = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    _, index = nearest(torch.tensor([[1.0, 0.0]]), bank, 3, chunk=2)
    assert index.tolist() == [[1, 2, 3]]


def test_count_is_limited_by_the_bank():
    similarity, index = nearest(vectors(2, 3), vectors(4, 3, 1), 9)
    assert similarity.shape == index.shape == (2, 4)


class Largest(TorchDispatchMode):
    """Record the number of elements of the largest tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for entry in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(entry, torch.Tensor):
                self.numel = max(self.numel, entry.numel())
        return result


def test_memory_of_the_search_does_not_grow_with_the_bank():
    sizes = []
    for count in (2000, 20000):
        bank = vectors(count, 16)
        with Largest() as largest:
            nearest(bank[:3], bank, 10, chunk=500)
        sizes.append(largest.numel)
    assert sizes[0] == sizes[1] == 500 * 16


def test_copies_of_the_query_are_left_out():
    bank = vectors(50, 8)
    h = bank[17] * (1 + 1e-6)
    similarity, index = nearest_without_copies(h, bank, 5)
    expected = nearest(h[None], bank, 6)
    assert expected[1][0, 0] == 17
    assert index.tolist() == expected[1][0, 1:].tolist()
    assert similarity.tolist() == expected[0][0, 1:].tolist()
    # Several copies do not reduce the number of neighbours.
    copied = torch.cat([h.repeat(7, 1), bank])
    assert (nearest_without_copies(h, copied, 5)[1] - 7).tolist() == index.tolist()
    # A query without a copy in the bank has all neighbours.
    assert nearest_without_copies(vectors(1, 8, 9)[0], bank, 5)[1].shape == (5,)


def test_copies_are_compared_row_by_row():
    bank = vectors(3, 8)
    other = bank.clone()
    other[1] += 1e-3 * bank[1].norm()
    assert is_copy(other, bank).tolist() == [True, False, True]


@pytest.fixture(scope="module")
def bank():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (60,), generator=draw)
    return torch.randn(60, 8, generator=draw) + F.one_hot(labels, 8) * 1.5, labels


def lightly_predict(queries, bank, labels, neighbours, temperature):
    queries, bank = F.normalize(queries, dim=1), F.normalize(bank, dim=1)
    benchmarking = pytest.importorskip("lightly.utils.benchmarking.knn")
    return benchmarking.knn_predict(queries, bank.T, labels, 5, knn_k=neighbours, knn_t=temperature)[:, 0]


@pytest.mark.parametrize(("neighbours", "temperature"), [(1, 0.07), (7, 0.07), (20, 0.5), (60, 1.0)])
def test_knn_equals_lightly(bank, neighbours, temperature):
    queries = torch.randn(40, 8, generator=torch.Generator().manual_seed(1)) * 3
    ours = knn_predict(queries, *bank, neighbours=neighbours, temperature=temperature, chunk=7)
    assert torch.equal(ours, lightly_predict(queries, *bank, neighbours, temperature))
    assert len(ours.unique()) > 1


def test_leave_one_out_removes_the_query_from_the_bank(bank):
    features, labels = bank
    ours = knn_predict(features, features, labels, neighbours=5, leave_one_out=True, chunk=7)
    for query in range(len(features)):
        rest = torch.arange(len(features)) != query
        assert ours[query] == lightly_predict(features[query : query + 1], features[rest], labels[rest], 5, 0.07)[0]


def test_all_vectors_of_a_small_bank_vote(bank):
    features, labels = bank[0][:3], torch.tensor([0, 1, 1])
    ours = knn_predict(features, features, labels, neighbours=20, temperature=100.0, leave_one_out=True)
    # At a high temperature, both other features vote with nearly equal weight: 1 and 1 for the first query; 0 and 1
    # for the others, decided by similarity.
    unit = F.normalize(features, dim=1)
    similarity = unit @ unit.T
    assert ours.tolist() == [1, int(similarity[1, 2] > similarity[1, 0]), int(similarity[2, 1] > similarity[2, 0])]
