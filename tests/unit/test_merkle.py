"""Merkle trees: the numbers of RFC 6962, and proofs that hold for what is in the tree and for nothing else."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import merkle

# The reference inputs of Certificate Transparency's own tests, and the roots over the first n of them.
_INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
_ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def _leaves(n: int, salt: int = 0) -> np.ndarray:
    rows = np.random.Generator(np.random.Philox(key=salt)).integers(0, 256, (n, 7), np.uint8)
    return merkle.leaf_hashes(rows)


def _defined(leaves: list[bytes]) -> bytes:
    """The root by the recursion in the RFC's text."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _defined(leaves[:half]) + _defined(leaves[half:])).digest()


@pytest.mark.parametrize("n", _ROOTS)
def test_roots_are_those_of_the_reference_vectors(n: int) -> None:
    """The roots over the reference inputs of Certificate Transparency come out."""
    leaves = [hashlib.sha256(b"\0" + bytes.fromhex(i)).digest() for i in _INPUTS[:n]]
    assert merkle.root(np.frombuffer(b"".join(leaves), np.uint8).reshape(-1, 32)).hex() == _ROOTS[n]


def test_the_root_of_nothing_is_the_hash_of_nothing() -> None:
    """RFC 6962: MTH({}) = SHA-256()."""
    assert merkle.root(np.empty((0, 32), np.uint8)) == hashlib.sha256().digest()


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 300), at=st.integers(0, 299))
def test_every_leaf_has_a_path_to_the_root(n: int, at: int) -> None:
    """Level by level gives the RFC's recursive tree, and the path of any leaf leads to its root."""
    leaves, at = _leaves(n), at % n
    root = merkle.root(leaves)
    assert root == _defined([leaf.tobytes() for leaf in leaves])
    siblings = merkle.path(leaves, at)
    assert len(siblings) <= max(1, n - 1).bit_length()
    assert merkle.root_of_path(leaves[at].tobytes(), at, n, siblings) == root


@settings(max_examples=80, deadline=None)
@given(n=st.integers(2, 200), at=st.integers(0, 199), other=st.integers(0, 199), bit=st.integers(0, 255), part=st.integers(0, 7))
def test_a_path_proves_nothing_else(n: int, at: int, other: int, bit: int, part: int) -> None:
    """Another leaf, another place, another size, a flipped bit, a sibling more or less: the root does not come out."""
    leaves, at, other = _leaves(n), at % n, other % n
    root, siblings = merkle.root(leaves), merkle.path(leaves, at)
    leaf = leaves[at].tobytes()
    if other != at:
        assert merkle.root_of_path(leaves[other].tobytes(), at, n, siblings) != root
        assert merkle.root_of_path(leaf, other, n, siblings) != root
    broken = bytearray(siblings[part % len(siblings)])
    broken[bit // 8] ^= 1 << bit % 8
    assert (
        merkle.root_of_path(leaf, at, n, [*siblings[: part % len(siblings)], bytes(broken), *siblings[part % len(siblings) + 1 :]]) != root
    )
    assert merkle.root_of_path(leaf, at, n, siblings[:-1]) != root
    assert merkle.root_of_path(leaf, at, n, [*siblings, leaf]) != root
    assert merkle.root_of_path(leaf, n, n, siblings) is None
    assert merkle.root_of_path(leaf, -1, n, siblings) is None


@pytest.mark.parametrize("n", [1, 2, 1023, 1024, 1025, 2048, 2049, 5000])
def test_a_path_is_found_from_one_block_and_the_stored_nodes(n: int) -> None:
    """The path inside a block, then the path among the nodes above blocks, is the path in the whole tree."""
    leaves = _leaves(n)
    nodes = merkle.block_nodes(leaves)
    assert len(nodes) == -(-n // merkle.BLOCK)
    assert merkle.root(nodes) == merkle.root(leaves)
    for at in {0, n // 2, n - 1}:
        block = at // merkle.BLOCK
        inside = leaves[block * merkle.BLOCK : (block + 1) * merkle.BLOCK]
        assert merkle.path(inside, at % merkle.BLOCK) + merkle.path(nodes, block) == merkle.path(leaves, at)


def test_a_leaf_that_is_not_there_is_named() -> None:
    """IndexError says which leaf of how many."""
    with pytest.raises(IndexError, match="no leaf 3 among 3"):
        merkle.path(_leaves(3), 3)
