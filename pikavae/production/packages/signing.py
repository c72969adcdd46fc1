"""Signs packages of the production store with a key of one's own, and checks signatures against trusted keys.

production/signatures/<digest>/<key>.json   the signature of a package by a key, a Sigstore bundle

A signature is beside its package and not in it, because the package is named by its content. OpenSSF's `model-signing`
makes it with an elliptic-curve key in a file; nothing is sent anywhere. The environment names the keys, and not the
configuration, which is recorded everywhere. Trusted keys are not kept in the home either: whoever can forge what is
there could add one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.errors import DamagedFileError, UserError
from pikavae.registry.package import LOADED_AS_NAME
from pikavae.workspace.files import make_folder, remove_folder, sync
from pikavae.workspace.home import expand_user
from pikavae.workspace.records import read_object

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

SIGNING_KEY = "PIKAVAE_SIGNING_KEY"
"""The variable that names the file of the private key."""
SIGNING_PASSWORD = "PIKAVAE_SIGNING_PASSWORD"
"""The variable with the password of that file, if it has one."""
TRUSTED_KEYS = "PIKAVAE_TRUSTED_KEYS"
"""The variable that names files of public keys, and folders of such files, with `:` between."""
PUBLIC = ".pub"
SHOWN = 12
"""How many digits of a key's name messages show."""


@dataclass(frozen=True)
class TrustedKey:
    """Represents a public key that signatures are checked against."""

    name: str
    """The SHA-256 of the key in PEM form, by which signatures name it."""
    path: Path


@dataclass(frozen=True)
class Signer:
    """Represents a private key to sign with."""

    name: str
    """The name of its public key."""
    path: Path
    password: bytes | None = field(repr=False)

    def sign(self, home: Path, package: Path, undo: ExitStack | None = None) -> None:
        """Sign a folder of the production store, in place of an earlier signature by this key.

        Args:
            home: the state folder.
            package: a folder of the production store, named by the digest of its content.
            undo: receives a callback that removes the signature, if there was none.
        """
        from model_signing import signing

        path = signature_path(home, package.name, self.name)
        if not path.exists() and undo is not None:
            undo.callback(path.unlink, missing_ok=True)
        make_folder(path.parent)
        temporary = path.with_name(f".{path.name}.tmp")
        signer = signing.Config().use_elliptic_key_signer(private_key=self.path, password=self.password)
        signer.set_hashing_config(_hashing()).sign(package, temporary)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


def signatures_folder(home: Path, digest: str) -> Path:
    """Return the folder of a package's signatures."""
    return home / "production" / "signatures" / digest


def signature_path(home: Path, digest: str, key: str) -> Path:
    """Return the file of a package's signature by a key, which may not exist."""
    return signatures_folder(home, digest) / f"{key}.json"


def signer_of_environment() -> Signer | None:
    """Return the key that PIKAVAE_SIGNING_KEY names; None if it names none.

    Raises:
        UserError: the key or its password does not fit, it is not among the trusted keys, or keys are trusted and there
            is none to sign with.
    """
    named, trusted = os.environ.get(SIGNING_KEY), trusted_keys()
    if not named:
        if trusted:
            raise UserError(
                f"{SIGNING_KEY}: not set, and {TRUSTED_KEYS} asks for signed models; set it to the file of the private "
                f"key (`pikavae sign --make-key FILE` makes one)"
            )
        return None
    signer = read_signer(expand_user(named, SIGNING_KEY))
    if trusted and signer.name not in {key.name for key in trusted}:
        raise UserError(
            f"{SIGNING_KEY} {signer.path}: its public key {signer.name[:SHOWN]} is not among those of {TRUSTED_KEYS}"
        )
    return signer


def read_signer(path: Path) -> Signer:
    """Read a private key.

    Raises:
        UserError: there is no such file, it is no elliptic-curve key, or the password does not fit.
    """
    require_installed()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    text = os.environ.get(SIGNING_PASSWORD)
    password = text.encode() if text else None
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password)
    except OSError as error:
        raise UserError(f"{SIGNING_KEY} {path}: {error.strerror}") from None
    except TypeError:
        wrong = "it has no password; unset" if password else "it has a password; set"
        raise UserError(f"{SIGNING_KEY} {path}: {wrong} {SIGNING_PASSWORD}") from None
    except ValueError:
        why = f"no private key in PEM form, or {SIGNING_PASSWORD} is not its password"
        raise UserError(f"{SIGNING_KEY} {path}: {why}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise UserError(
            f"{SIGNING_KEY} {path}: no key of {', '.join(CURVES)}; `pikavae sign --make-key FILE` makes one"
        )
    return Signer(_name_of(key.public_key()), path, password)


CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""The elliptic curves that `model-signing` takes."""


def trusted_keys() -> list[TrustedKey]:
    """Return the keys that PIKAVAE_TRUSTED_KEYS names.

    Raises:
        UserError: a file or folder does not exist, or is or holds no public key.
    """
    found = []
    for named in filter(None, os.environ.get(TRUSTED_KEYS, "").split(os.pathsep)):
        path = expand_user(named, TRUSTED_KEYS)
        files = sorted(path.glob(f"*{PUBLIC}")) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{TRUSTED_KEYS} {path}: no file of that folder ends in {PUBLIC}")
        found += [_read_public(file) for file in files]
    return found


def _read_public(path: Path) -> TrustedKey:
    require_installed()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise UserError(f"{TRUSTED_KEYS} {path}: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{TRUSTED_KEYS} {path}: no public key in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UserError(f"{TRUSTED_KEYS} {path}: no key of an elliptic curve")
    return TrustedKey(_name_of(key), path)


def make_key(named: str) -> TrustedKey:
    """Write a new private key, for its owner alone, and its public key beside it, with `.pub` after the name.

    The private key has the password of PIKAVAE_SIGNING_PASSWORD, if it is set.

    Raises:
        UserError: one of the files exists, or cannot be written.
    """
    require_installed()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path = expand_user(named, "--make-key").absolute()
    public, password = path.with_name(path.name + PUBLIC), os.environ.get(SIGNING_PASSWORD)
    key = ec.generate_private_key(ec.SECP256R1())
    protection = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    for file, content, mode in ((path, private, 0o600), (public, _pem_of(key.public_key()), 0o644)):
        try:
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as error:
            raise UserError(f"--make-key {file}: {error.strerror}; name a new file") from None
    return TrustedKey(_name_of(key.public_key()), public)


def require_installed() -> None:
    """Check that the extra `sign` is installed.

    Raises:
        UserError: it is not.
    """
    try:
        import model_signing  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{SIGNING_KEY}, {TRUSTED_KEYS}: signatures need the extra `sign` ({error}); `pip install 'pikavae[sign]'`"
        ) from None


def signed_by(signatures: Path) -> list[str]:
    """Return the names of the keys that a folder of signatures has files of. Nothing is checked."""
    return sorted(path.stem for path in signatures.glob("*.json"))


def complaint_about(package: Path, signatures: Path, trusted: Sequence[TrustedKey]) -> str | None:
    """Return why no trusted key vouches for a package; None if one does.

    Args:
        package: a folder with the files of a version.
        signatures: the folder of its signatures.
        trusted: the keys that count, at least one.
    """
    complaints = []
    for key in trusted:
        path = signatures / f"{key.name}.json"
        if path.is_file():
            if (complaint := _complaint(package, path, key)) is None:
                return None
            complaints.append(f"the signature by key {key.name[:SHOWN]} {complaint}")
    if complaints:
        return "; ".join(complaints)
    others = [name[:SHOWN] for name in signed_by(signatures)]
    return f"it is signed by {', '.join(others)} alone, and no trusted key" if others else "it is not signed"


def _complaint(package: Path, signature: Path, key: TrustedKey) -> str | None:
    """Return what is wrong with a signature; None if it is the key's, of exactly these files."""
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    try:
        hint = read_object(signature)["verificationMaterial"]["publicKey"]["hint"]
        if hint != key.name:
            return "names another key"
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key.path)
        verifier.set_hashing_config(_hashing()).verify(package, signature)
    except InvalidSignature:
        return "was not made by that key"
    except (DamagedFileError, KeyError, IndexError, TypeError, AttributeError) as error:
        return f"is damaged ({type(error).__name__})"
    except ValueError as error:
        return f"is of other files ({' '.join(str(error).split())[:120]})"
    except OSError as error:
        return f"cannot be compared ({error.strerror})"
    return None


def remove_signatures(home: Path, digest: str) -> None:
    """Remove the signatures of a package, if there are any."""
    with suppress(FileNotFoundError):
        remove_folder(signatures_folder(home, digest))


def _hashing() -> object:
    """Return how files are hashed: all of them, but the note that MLflow writes into what it downloads."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[LOADED_AS_NAME], ignore_git_paths=False)


def _pem_of(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form)


def _name_of(key: EllipticCurvePublicKey) -> str:
    return hashlib.sha256(_pem_of(key)).hexdigest()
