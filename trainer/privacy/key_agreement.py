"""Keys of two edges: agreement, encryption, and expansion of a seed to a mask; all by the `cryptography` library.

X25519 (RFC 7748), HKDF with SHA-256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439), AES-256 in counter mode (NIST SP
800-38A).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from trainer.errors import ProtocolError

KEY_BYTES = 32
NONCE_BYTES = 12
MASK_VALUE_BYTES = 8


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key pair of X25519, as raw bytes."""

    private: bytes = field(repr=False)
    public: bytes

    @classmethod
    def of(cls, private: bytes) -> KeyPair:
        """Return the pair of a private key."""
        return cls(private, X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw())


def new_key_pair() -> KeyPair:
    """Return a new random key pair."""
    return KeyPair.of(secrets.token_bytes(KEY_BYTES))


def agree(private: bytes, public: bytes, purpose: str) -> bytes:
    """Return the key that both owners of these keys derive for one purpose.

    Raises: ProtocolError if the public key is none.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolError(f"The public key {public.hex()} is not one of X25519.") from error
    return derive(shared, purpose)


def derive(secret: bytes, purpose: str) -> bytes:
    """Return a key of 32 bytes, independent of those for other purposes."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=f"paceline secure aggregation: {purpose}".encode()).derive(secret)


def encrypt(key: bytes, plaintext: bytes, context: str) -> bytes:
    """Encrypt and authenticate; decryption needs the same context."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, plaintext, context.encode())


def decrypt(key: bytes, ciphertext: bytes, context: str) -> bytes:
    """Decrypt what `encrypt` returned.

    Raises: ProtocolError if it was changed, or made for another key or context.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:], context.encode())
    except (InvalidTag, ValueError) as error:
        raise ProtocolError("The shares that another edge encrypted cannot be decrypted.") from error


def expand(key: bytes, count: int) -> Tensor:
    """Return that many pseudorandom elements of the ring of integers modulo 2^64, as int64 (count,).

    A key is expanded for one mask only, so the counter starts at 0.
    """
    if not count:
        return torch.empty(0, dtype=torch.int64)
    stream = Cipher(AES256(key), CTR(bytes(16))).encryptor()
    return torch.frombuffer(bytearray(stream.update(bytes(MASK_VALUE_BYTES * count))), dtype=torch.int64)
