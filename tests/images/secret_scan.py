"""Find what looks like a secret in an image: files of any layer, history, environment."""

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator

# By the prefixes that the issuers document, so that a find is hardly ever chance.
TOKEN = re.compile(
    rb"\b(hf_[A-Za-z0-9]{34}"  # Hugging Face
    rb"|AKIA[0-9A-Z]{16}"  # AWS
    rb"|gh[pousr]_[A-Za-z0-9]{36}"  # GitHub
    rb"|AIza[0-9A-Za-z_-]{35}"  # Google
    rb"|r8_[A-Za-z0-9]{37}"  # Replicate
    rb"|pypi-[A-Za-z0-9_-]{100,})"
)
PRIVATE_KEY = re.compile(rb"-----BEGIN (RSA |EC |OPENSSH )?PRIVATE KEY-----\n[A-Za-z0-9+/=]{40}")
# KEY=value of a name that asks for one.  A name alone, or an empty value, gives nothing away.
ASSIGNMENT = re.compile(rb"\b[A-Z_]*(TOKEN|SECRET|PASSWORD|API_KEY)=(?!unknown)[^\s\"$]{6,}")

# Published by their owners in wheels: the token of Hugging Face's user for tests, and a made-up key
# in the tests that google-genai ships.
PUBLIC = ("transformers/testing_utils.py", "google/genai/tests/")


def secrets_in(image: str, clean: set[bytes]) -> list[str]:
    """Places in *image*, each with what gave it away (never the secret itself).

    *clean* holds the hashes of layers in which nothing was found; it is read and added to, because
    images share their largest layers.
    """
    saved = subprocess.run(("docker", "save", image), capture_output=True, check=True).stdout  # noqa: S603, S607
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        return [place for member in archive for place in _in_member(archive, member, clean)]


def _in_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, clean: set[bytes]
) -> Iterator[str]:
    file = archive.extractfile(member)
    if file is None:
        return
    if member.name.endswith(".tar"):
        layer = file.read()
        digest = hashlib.sha256(layer).digest()
        found = [] if digest in clean else list(_in_layer(layer))
        if not found:
            clean.add(digest)
        yield from found
    elif member.name.endswith(".json"):
        yield from _in_configuration(member.name, file.read())


def _in_layer(layer: bytes) -> Iterator[str]:
    # Once over the whole is much faster than file by file, and nearly always the end of it.
    if not (TOKEN.search(layer) or PRIVATE_KEY.search(layer)):
        return
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        for member in files:
            if any(public in member.name for public in PUBLIC):
                continue
            file = files.extractfile(member) if member.isfile() else None
            if file and (content := file.read()):
                if TOKEN.search(content):
                    yield f"{member.name}: a token"
                # Libraries carry keys for their self-tests; a key of ours would be a text file.
                if b"\0" not in content and PRIVATE_KEY.search(content):
                    yield f"{member.name}: a private key"


def _in_configuration(name: str, content: bytes) -> Iterator[str]:
    configuration = json.loads(content)
    if isinstance(configuration, dict) and (TOKEN.search(content) or ASSIGNMENT.search(content)):
        yield f"{name}: history or environment"
