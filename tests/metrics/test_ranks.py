"""Ranks and similarities against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import label_ranking_average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from rcdm_cli.metrics.ranks import mean_reciprocal_rank, own_similarity, ranks


@pytest.fixture
def vectors():
    draw = torch.Generator().manual_seed(0)
    bank = torch.randn(50, 8, generator=draw)
    own = torch.randint(50, (30,), generator=draw)
    return bank[own] + torch.randn(30, 8, generator=draw), bank, own


def test_mean_reciprocal_rank_equals_scikit_learn(vectors):
    queries, bank, own = vectors
    truth = np.eye(50)[own.numpy()]
    # With one correct answer, label ranking average precision is the mean reciprocal rank.
    expected = label_ranking_average_precision_score(truth, cosine_similarity(queries, bank))
    assert mean_reciprocal_rank(ranks(queries, bank, own)) == pytest.approx(expected, abs=1e-12)


def test_tied_own_vector_is_ranked_last():
    assert ranks(torch.ones(1, 3), torch.ones(4, 3), torch.tensor([2])).tolist() == [4]
    # The rounding of equal rows in a matrix product depends on the size of the set.
    draw = torch.Generator().manual_seed(0)
    for count in range(2, 12):
        bank, queries = torch.randn(1, 512, generator=draw).repeat(count, 1), torch.randn(9, 512, generator=draw)
        assert ranks(queries, bank, torch.arange(9) % count).tolist() == [count] * 9


def test_chunks_of_queries_do_not_change_the_ranks(vectors):
    queries, bank, own = vectors
    assert torch.equal(ranks(queries, bank, own, chunk=7), ranks(queries, bank, own, chunk=1000))


def test_memory_of_ranks_is_bounded():
    """Without chunks, the similarities of 20,000 queries to 2,000 vectors need 160 MB."""
    draw = torch.Generator().manual_seed(0)
    bank, own = torch.randn(2000, 4, generator=draw), torch.arange(20_000) % 2000
    with torch.profiler.profile(profile_memory=True) as profiler:
        found = ranks(bank[own], bank, own)
    assert (found == 1).all()
    largest = max(event.self_cpu_memory_usage / event.count for event in profiler.key_averages())
    assert largest < 20_000 * 2000 * 4 / 8


def test_own_similarity_is_the_cosine_similarity(vectors):
    queries, bank, own = vectors
    expected = np.diag(cosine_similarity(queries, bank[own]))
    np.testing.assert_allclose(own_similarity(queries, bank[own]), expected, atol=1e-6)
