#!/usr/bin/env python3
"""An independent decoder of Cofferdam's sealed blocks, format 1.

Written from docs/format.md alone, on Python's `cryptography` package; shares no code with the Rust crates.
Opens every vector in tests/vectors/open, refuses every one in tests/vectors/refuse, checks those of keys.json, segments.json,
rsa.json, archive.json and receipt.json, prints the counts, and exits with 1 at any mismatch.

    python3 decode.py [VECTORS]                       check the vectors
    python3 decode.py --open VECTOR.json > plaintext  open one
"""

import hashlib
import hmac
import json
import pathlib
import sys
import uuid

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

HEADER_LEN = 76
TAG_LEN = 16
MAX_PLAINTEXT_LEN = 2**36
SUITE = 1
PROVIDERS = {"customer": 1, "service": 2, "buffer": 3}


class Refused(Exception):
    """The block does not open. The reason is for the developer of a decoder, not for its user."""


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    mac = HMAC(key, hashes.SHA256())
    mac.update(message)
    return mac.finalize()


class Scope:
    """Which AEK: everything but the AEK itself that derivations are bound to."""

    def __init__(self, vector: dict):
        self.account = uuid.UUID(vector["account"]).bytes
        self.epoch = vector["epoch"]
        self.segment = bytes.fromhex(vector.get("segment", ""))
        self.provider = PROVIDERS[vector.get("provider", "buffer")]
        if len(self.segment) != (16 if self.provider == PROVIDERS["buffer"] else 0):
            raise Refused("a segment has 16 bytes, and only a buffer has segments")


def extract(label: bytes, scope: Scope, suffix: bytes, aek: bytes) -> bytes:
    """HKDF-Extract; its salt binds the result to account, epoch, provider and segment."""
    salt = label + scope.account + scope.epoch.to_bytes(4, "big") + bytes([scope.provider]) + suffix
    return hmac_sha256(salt + scope.segment, aek)


def expand(prk: bytes, info: bytes) -> bytes:
    return HKDFExpand(hashes.SHA256(), 32, info).derive(prk)


def plaintext_len(sealed_len: int, page_size: int) -> int:
    """The plaintext's length; refuses a length that no sealed block has."""
    body = sealed_len - HEADER_LEN
    full, rest = divmod(body, page_size + TAG_LEN)
    if body < TAG_LEN or (full > 0 and 0 < rest <= TAG_LEN):
        raise Refused(f"no block is {sealed_len} bytes long")
    length = full * page_size + max(rest - TAG_LEN, 0)
    if length > MAX_PLAINTEXT_LEN:
        raise Refused(f"{length} bytes are too many")
    return length


class Reader:
    """Opens the blocks of one account, epoch and provider, and of one segment of a buffer."""

    def __init__(self, aek: bytes, scope: Scope):
        self.epoch = scope.epoch
        self.provider = scope.provider
        self.prk = extract(b"cofferdam block 1", scope, bytes([SUITE]), aek)

    def open(self, sealed: bytes, block_id: bytes, version: int, derived: dict | None = None) -> bytes:
        if len(sealed) < HEADER_LEN:
            raise Refused("too short for a header")
        if sealed[0:4] != b"CFDM":
            raise Refused("not a sealed block")
        if sealed[4] != 1:
            raise Refused(f"format version {sealed[4]}")
        if sealed[5] != SUITE:
            raise Refused(f"suite {sealed[5]}")
        if sealed[6] != self.provider:
            raise Refused(f"provider {sealed[6]}")
        if not 12 <= sealed[7] <= 24:
            raise Refused(f"pages of 2^{sealed[7]} bytes")
        page_size = 1 << sealed[7]
        if int.from_bytes(sealed[8:12], "big") != self.epoch:
            raise Refused("another epoch")
        salt, commitment = sealed[12:44], sealed[44:76]

        identity = hashlib.sha256(b"block1" + sealed[7:8] + version.to_bytes(8, "big") + block_id).digest()
        info = salt + identity[:21]
        expected = expand(self.prk, b"C" + info)
        if not hmac.compare_digest(expected, commitment):
            raise Refused("commitment")
        length = plaintext_len(len(sealed), page_size)

        dek = expand(self.prk, b"K" + info)
        if derived is not None:
            derived.update(
                page_size=page_size,
                salt=salt.hex(),
                prk=self.prk.hex(),
                identity=identity.hex(),
                dek=dek.hex(),
                commitment=commitment.hex(),
            )
        pages = max(1, -(-length // page_size))
        plaintext, at = bytearray(), HEADER_LEN
        for page in range(pages):
            last = page == pages - 1
            end = len(sealed) if last else at + page_size + TAG_LEN
            nonce = bytes(7) + page.to_bytes(4, "big") + bytes([last])
            try:
                plaintext += AESGCM(dek).decrypt(nonce, sealed[at:end], identity)
            except InvalidTag:
                raise Refused(f"tag of page {page}") from None
            at = end
        return bytes(plaintext)


def open_vector(vector: dict, derived: dict | None = None) -> bytes:
    reader = Reader(bytes.fromhex(vector["aek"]), Scope(vector))
    version = int.from_bytes(bytes.fromhex(vector["version"]), "big")
    return reader.open(bytes.fromhex(vector["sealed"]), bytes.fromhex(vector["block_id"]), version, derived)


def unwrap_aek(kek: bytes, wrapped: bytes) -> bytes:
    """RFC 3394; the length is checked first."""
    if len(wrapped) != 40:
        raise Refused("a wrapped AEK has 40 bytes")
    try:
        return aes_key_unwrap(kek, wrapped)
    except InvalidUnwrap:
        raise Refused("wrapped by another KEK, or damaged") from None


def unwrap_aek_by_rsa(key, wrapped: bytes) -> bytes:
    """RFC 8017 OAEP; the length is checked first, and that of what comes out."""
    if len(wrapped) != key.key_size // 8:
        raise Refused("a wrapped AEK is as long as the modulus")
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    try:
        aek = key.decrypt(wrapped, oaep)
    except ValueError:
        raise Refused("wrapped for another key or otherwise, or damaged") from None
    if len(aek) != 32:
        raise Refused(f"what was wrapped has {len(aek)} bytes")
    return aek


def key_check_value(aek: bytes, scope: Scope) -> bytes:
    return expand(extract(b"cofferdam aek 1", scope, b"", aek), b"V")[:16]


def record_tag(aek: bytes, scope: Scope, record: bytes) -> bytes:
    key = expand(extract(b"cofferdam aek 1", scope, b"", aek), b"M")
    return hmac_sha256(key, record)


def segment_tag(aek: bytes, service: Scope, record: bytes) -> bytes:
    return record_tag(aek, service, b"cofferdam segment 1" + record)


def read_archive(archive: bytes, aeks: dict) -> list[tuple[int, bytes]]:
    """The records of an archive that is whole and that every key has authenticated; `aeks` are by provider.

    Leaves the checksums out, which need XXH3: they find damage sooner than the hash does, and nothing else.
    """
    if archive[0:8] != b"CFDMARCH" or archive[8:9] != b"\x01":
        raise Refused("not an archive of format 1")
    at, records, counts = 9, [], [0, 0, 0, 0]
    while True:
        head, number = archive[at : at + 17], len(records)
        length = int.from_bytes(head[9:17], "big")
        body = archive[at + 17 : at + 17 + length]
        end = at + 17 + length + 8
        if len(head) < 17 or end > len(archive):
            raise Refused(f"ends within record {number}")
        if int.from_bytes(head[1:9], "big") != number or (head[0:1] == b"A") != (number == 0):
            raise Refused(f"record {number} is another")
        if head[0:1] == b"E":
            break
        if head[0:1] == b"S":
            counts[2] += 1
        elif head[0:1] == b"B":
            sealed_len = length - 4 - body[1] - int.from_bytes(body[2:4], "big")
            if body[0] not in (1, 2) or sealed_len != int.from_bytes(body[13:21], "big"):
                raise Refused(f"record {number} is no block")
            counts[body[0] - 1] += 1
            counts[3] += sealed_len
        elif head[0:1] != b"A":
            raise Refused(f"record {number} is of no kind")
        records.append((head[0], body))
        at = end
    if end != len(archive):
        raise Refused("goes on after its end")
    if body[0:32] != b"".join(count.to_bytes(8, "big") for count in counts):
        raise Refused("counts")
    digest, tags = hashlib.sha256(archive[: at + 17 + 32]).digest(), body[64:]
    if digest != body[32:64]:
        raise Refused("hash")
    if len(tags) not in (37, 74):
        raise Refused("no tags")
    for tag in (tags[n : n + 37] for n in range(0, len(tags), 37)):
        if tag[0] not in aeks:
            raise Refused(f"a tag of provider {tag[0]}")
        scope, aek = aeks[tag[0]]
        if int.from_bytes(tag[1:5], "big") != scope.epoch:
            raise Refused("a tag of another epoch")
        if not hmac.compare_digest(record_tag(aek, scope, b"cofferdam archive 1" + digest), tag[5:]):
            raise Refused(f"tag of provider {tag[0]}")
    return records


def read_receipt(receipt: bytes, public_key: bytes) -> dict:
    """What a receipt states, if its issuer has this public key."""
    label, statement, signature, rest = receipt.split(b"\n")
    signed = label + b"\n" + statement + b"\n"
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(bytes.fromhex(signature.decode()), signed)
    except InvalidSignature:
        raise Refused("signature") from None
    stated = json.loads(statement)
    canonical = json.dumps(stated, sort_keys=True, separators=(",", ":")).encode()
    if label != b"cofferdam receipt 1" or rest or canonical != statement or stated["issuer"] != public_key.hex():
        raise Refused("not spelled as a receipt")
    return stated


class Report:
    def __init__(self):
        self.mismatches = 0

    def check(self, right: bool, what: str):
        if not right:
            self.mismatches += 1
            print(f"MISMATCH: {what}")


def check_blocks(folder: pathlib.Path, report: Report):
    good = sorted((folder / "open").glob("*.json"))
    for path in good:
        vector, derived = json.loads(path.read_text()), {}
        try:
            plaintext = open_vector(vector, derived)
        except Refused as reason:
            report.check(False, f"{path.name} was refused: {reason}")
            continue
        expected = vector["plaintext"]
        report.check(len(plaintext) == expected["len"], f"{path.name}: length {len(plaintext)}")
        report.check(hashlib.sha256(plaintext).hexdigest() == expected["sha256"], f"{path.name}: plaintext")
        report.check(expected.get("hex", plaintext.hex()) == plaintext.hex(), f"{path.name}: plaintext")
        report.check(derived == vector["derived"], f"{path.name}: derived {derived}")
    bad = sorted((folder / "refuse").glob("*.json"))
    for path in bad:
        try:
            open_vector(json.loads(path.read_text()))
        except Refused:
            continue
        report.check(False, f"{path.name} was opened")
    report.check(bool(good and bad), f"no vectors in {folder}")
    print(f"{len(good)} good blocks opened, {len(bad)} bad blocks refused")


def check_keys(folder: pathlib.Path, report: Report):
    keys = json.loads((folder / "keys.json").read_text())
    for vector in keys["key_check_values"]:
        value = key_check_value(bytes.fromhex(vector["aek"]), Scope(vector))
        report.check(value.hex() == vector["check"], f"key check value: {vector['comment']}")
    for vector in keys["wraps"]:
        try:
            aek = unwrap_aek(bytes.fromhex(vector["kek"]), bytes.fromhex(vector["wrapped"])).hex()
        except Refused:
            aek = None
        report.check(aek == vector["aek"], f"wrap: {vector['comment']}")
    for vector in keys["record_tags"]:
        tag = record_tag(bytes.fromhex(vector["aek"]), Scope(vector), bytes.fromhex(vector["record"]))
        report.check(tag.hex() == vector["tag"], f"record tag: {vector['comment']}")
    print(
        f"{len(keys['key_check_values'])} key check values, {len(keys['wraps'])} wraps, "
        f"{len(keys['record_tags'])} record tags checked"
    )


def check_segments(folder: pathlib.Path, report: Report):
    segments = json.loads((folder / "segments.json").read_text())
    for vector in segments["key_check_values"]:
        value = key_check_value(bytes.fromhex(vector["aek"]), Scope(vector))
        report.check(value.hex() == vector["check"], f"key check value of a segment: {vector['comment']}")
    for vector in segments["record_tags"]:
        tag = segment_tag(bytes.fromhex(vector["aek"]), Scope(vector), bytes.fromhex(vector["record"]))
        report.check(tag.hex() == vector["tag"], f"tag of a segment: {vector['comment']}")
    print(
        f"{len(segments['key_check_values'])} key check values and {len(segments['record_tags'])} record tags "
        "of segments checked"
    )


def check_rsa(folder: pathlib.Path, report: Report):
    rsa = json.loads((folder / "rsa.json").read_text())
    # The AEK that they wrap is that of the key check values.
    expected = json.loads((folder / "keys.json").read_text())["key_check_values"][0]
    keys, unwrapped = {}, 0
    for vector in rsa["keys"]:
        key = serialization.load_der_private_key(bytes.fromhex(vector["pkcs8"]), password=None)
        spki = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        report.check(spki.hex() == vector["spki"], f"public half: {vector['comment']}")
        report.check(hashlib.sha256(spki).hexdigest() == vector["fingerprint"], f"fingerprint: {vector['comment']}")
        report.check(key.key_size == vector["bits"], f"size: {vector['comment']}")
        keys[vector["bits"]] = key
    for vector in rsa["wraps"]:
        try:
            aek = unwrap_aek_by_rsa(keys[vector["bits"]], bytes.fromhex(vector["wrapped"]))
            report.check(key_check_value(aek, Scope(expected)).hex() == expected["check"], "check value of an RSA wrap")
            unwrapped += 1
        except Refused:
            aek = None
        report.check((aek and aek.hex()) == vector["aek"], f"RSA wrap: {vector['comment']}")
    print(f"{len(keys)} RSA keys read, {unwrapped} RSA wraps unwrapped, {len(rsa['wraps']) - unwrapped} refused")


def check_archive(folder: pathlib.Path, report: Report):
    vector = json.loads((folder / "archive.json").read_text())
    archive, aeks = bytes.fromhex(vector["archive"]), {}
    for provider in ("customer", "service"):
        aeks[PROVIDERS[provider]] = (Scope({**vector, "provider": provider}), bytes.fromhex(vector[f"{provider}_aek"]))
    try:
        records = len(read_archive(archive, aeks))
    except Refused as reason:
        records = 0
        report.check(False, f"archive.json was refused: {reason}")
    refused = 0
    for at in range(0, len(archive) - 8, 3):
        try:
            changed = archive[:at] + bytes([archive[at] ^ 0x10]) + archive[at + 1 :]
            read_archive(changed, aeks)
            report.check(False, f"archive.json with byte {at} changed was read")
        except Refused:
            refused += 1
    print(f"an archive of {records} records read, {refused} changed ones refused")


def check_receipt(folder: pathlib.Path, report: Report):
    vector = json.loads((folder / "receipt.json").read_text())
    public_key = bytes.fromhex(vector["public_key"])
    try:
        stated = read_receipt(vector["receipt"].encode(), public_key)
        report.check(stated["claim"] == "safe-to-disable", "what the receipt claims")
    except Refused as reason:
        report.check(False, f"receipt.json was refused: {reason}")
    try:
        read_receipt(vector["receipt"].replace('"wraps":9', '"wraps":0').encode(), public_key)
        report.check(False, "a changed receipt was believed")
    except Refused:
        print("a receipt verified, a changed one refused")


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--open"] and len(arguments) == 2:
        try:
            sys.stdout.buffer.write(open_vector(json.loads(pathlib.Path(arguments[1]).read_text())))
        except Refused as reason:
            print(f"refused: {reason}", file=sys.stderr)
            return 1
        return 0
    if len(arguments) > 1 or arguments[:1] == ["--open"]:
        print(__doc__, file=sys.stderr)
        return 2
    default = pathlib.Path(__file__).resolve().parent.parent / "vectors"
    folder = pathlib.Path(arguments[0]) if arguments else default
    report = Report()
    check_blocks(folder, report)
    check_keys(folder, report)
    check_segments(folder, report)
    check_rsa(folder, report)
    check_archive(folder, report)
    check_receipt(folder, report)
    print(f"{report.mismatches} mismatches")
    return 1 if report.mismatches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
