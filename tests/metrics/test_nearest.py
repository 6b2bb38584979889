import torch
from sklearn.neighbors import NearestNeighbors
from torch.utils._python_dispatch import TorchDispatchMode

from rcdm_cli.metrics.nearest import nearest, neighbours_of


def vectors(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_are_those_that_scikit_learn_finds():
    bank, queries = vectors(300, 7), vectors(5, 7, 1)
    distance, index = NearestNeighbors(n_neighbors=12, metric="cosine").fit(bank).kneighbors(queries)
    for chunk in (1, 64, 1000):
        similarity, found = nearest(queries, bank, 12, chunk=chunk)
        assert found.tolist() == index.tolist()
        torch.testing.assert_close(similarity, torch.from_numpy(1 - distance).float())


def test_of_equally_near_vectors_the_earlier_comes_first():
    bank = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    _, index = nearest(torch.tensor([[1.0, 0.0]]), bank, 3, chunk=2)
    assert index.tolist() == [[1, 2, 3]]


def test_more_are_asked_for_than_there_are():
    similarity, index = nearest(vectors(2, 3), vectors(4, 3, 1), 9)
    assert similarity.shape == index.shape == (2, 4)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation gave back, but for views of what was there."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, torch.Tensor):
                self.numel = max(self.numel, one.numel())
        return result


def test_memory_does_not_grow_with_the_bank():
    sizes = []
    for count in (2000, 20000):
        bank = vectors(count, 16)
        with Largest() as largest:
            nearest(bank[:3], bank, 10, chunk=500)
        sizes.append(largest.numel)
    assert sizes[0] == sizes[1] == 500 * 16


def test_an_image_is_not_its_own_neighbour():
    bank = vectors(50, 8)
    h = bank[17] * (1 + 1e-6)
    similarity, index = neighbours_of(h, bank, 5)
    expected = nearest(h[None], bank, 6)
    assert expected[1][0, 0] == 17
    assert index.tolist() == expected[1][0, 1:].tolist()
    assert similarity.tolist() == expected[0][0, 1:].tolist()
    # Nor are its copies, which cost no neighbour.
    copied = torch.cat([h.repeat(7, 1), bank])
    assert (neighbours_of(h, copied, 5)[1] - 7).tolist() == index.tolist()
    # An image that is not in the bank keeps all.
    assert neighbours_of(vectors(1, 8, 9)[0], bank, 5)[1].shape == (5,)
