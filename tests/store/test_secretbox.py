"""What is sealed opens for its owner, under its key or that key's successor, and for nothing else."""

from __future__ import annotations

import pytest

from registryd.config import ConfigError
from registryd.store.secretbox import SecretBox, WrongSecretsKey, seal_to

OLD, NEW, STRANGER = bytes(32), bytes([1] * 32), bytes([2] * 32)


def test_a_sealed_secret_opens_under_its_key_and_its_successor_and_names_the_key() -> None:
    sealed = SecretBox(OLD).seal(7, b"secret")
    assert sealed[0] == SecretBox(OLD).key_id
    assert SecretBox(OLD).open(7, sealed) == SecretBox(NEW, OLD).open(7, sealed) == b"secret"
    assert SecretBox(NEW, OLD).seal(7, b"secret")[0] == SecretBox(NEW).key_id


@pytest.mark.parametrize(
    ("box", "owner", "change"),
    [(SecretBox(STRANGER), 7, None), (SecretBox(NEW), 7, None), (SecretBox(OLD), 8, None), (SecretBox(OLD), 7, 0), (SecretBox(OLD), 7, 20)],
)
def test_another_key_another_owner_or_a_changed_byte_opens_nothing(box: SecretBox, owner: int, change: int | None) -> None:
    sealed = bytearray(SecretBox(OLD).seal(7, b"secret"))
    if change is not None:
        sealed[change] ^= 1
    with pytest.raises(WrongSecretsKey):
        box.open(owner, bytes(sealed))


@pytest.mark.parametrize("length", [0, 1, 5, 13, 20])
def test_what_is_too_short_to_be_sealed_opens_nothing_and_is_no_other_fault(length: int) -> None:
    with pytest.raises(WrongSecretsKey):
        SecretBox(OLD).open(7, SecretBox(OLD).seal(7, b"secret")[:length])


def test_two_keys_of_one_id_are_refused() -> None:
    same = next(key for n in range(1, 10_000) if SecretBox(key := n.to_bytes(32)).key_id == SecretBox(OLD).key_id)
    with pytest.raises(ConfigError, match="make another"):
        SecretBox(same, OLD)


def test_what_is_sealed_to_a_public_half_opens_under_its_key_and_its_successor_alone() -> None:
    public = SecretBox(OLD).public_key
    sealed = seal_to(public, 7, b"secret")
    assert SecretBox(OLD).open_public(7, sealed) == SecretBox(NEW, OLD).open_public(7, sealed) == b"secret"
    assert SecretBox(NEW, OLD).public_key == SecretBox(NEW).public_key != public
    assert seal_to(public, 7, b"secret") != sealed, "each has a key of its own"


@pytest.mark.parametrize(
    ("box", "owner", "change"),
    [(SecretBox(NEW), 7, None), (SecretBox(OLD), 8, None), (SecretBox(OLD), 7, 0), (SecretBox(OLD), 7, 31), (SecretBox(OLD), 7, 40)],
)
def test_nothing_else_opens_what_is_sealed_to_a_public_half(box: SecretBox, owner: int, change: int | None) -> None:
    sealed = bytearray(seal_to(SecretBox(OLD).public_key, 7, b"secret"))
    if change is not None:
        sealed[change] ^= 1
    with pytest.raises(WrongSecretsKey):
        box.open_public(owner, bytes(sealed))
